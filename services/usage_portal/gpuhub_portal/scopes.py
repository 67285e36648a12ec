"""What a token may do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """Rights of tokens; `admin` has all the others."""

    LIMITS_READ = "limits:read"
    SESSIONS_READ = "sessions:read"
    SESSIONS_WRITE = "sessions:write"
    RESERVE = "reserve"
    POLICY_WRITE = "policy:write"
    WITNESS_WRITE = "witness:write"
    ENFORCEMENT = "enforcement"
    ADMIN = "admin"
