"""Secrets taken out of texts that people will read, such as the logs in an error message. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

HIDDEN = "(hidden)"

# Shorter texts are words, numbers and flags; to hide those would make a log unreadable.
_SHORTEST = 8
_NAME = r"(?:pass(?:word|wd|phrase)?|token|secret|credential|api_?key|auth_?key|crypt_?key|cookie)s?"
_ASSIGNED = re.compile(rf"(?i)({_NAME}[\w.-]*[\"']?\s*[=:]\s*[\"']?)([^\s\"',;&]+)")
# Up to the last @ before a slash: who writes a password by hand forgets that @ has to be %40 there.
_URL_PASSWORD = (re.compile(r"(://[^\s:/@]*:)[^\s/]+@"), rf"\1{HIDDEN}@")
_PATTERNS = [
    # A key or certificate, also one that was cut off.
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic|token)(\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1\2{HIDDEN}"),
    _URL_PASSWORD,
    (_ASSIGNED, rf"\1{HIDDEN}"),
    # Signed tokens (JWT); keys and tokens in hexadecimal, but not digests of images.
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
    (re.compile(r"(?<!sha256:)\b[0-9a-f]{32,}\b"), HIDDEN),
]


def redact(text: str, known: Iterable[str] = ()) -> str:
    """Return `text` without the texts `known` and without what looks like a password, token or key."""
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def hide_url_passwords(text: str) -> str:
    """Return `text` without the passwords in its URLs, and with everything else as it is."""
    pattern, replacement = _URL_PASSWORD
    return pattern.sub(replacement, text)


def secret_texts(secrets: Iterable[dict[str, Any]]) -> set[str]:
    """Return the texts that Kubernetes Secrets (plain dicts) keep: short values whole, of files what they assign.

    Of a URL its password counts by itself as well, as it is written and as it is meant. Values under eight characters
    are left out, as are Helm's records, which hold whole charts.
    """
    found: set[str] = set()
    for secret in secrets:
        if secret.get("type") == "helm.sh/release.v1":
            continue
        for encoded in (secret.get("data") or {}).values():
            try:
                text = base64.b64decode(encoded).decode().strip()
            except (binascii.Error, UnicodeDecodeError):
                continue
            found.add(text) if not re.search(r"\s", text) else found.update(m[2] for m in _ASSIGNED.finditer(text))
            passwords = [match[1] for match in re.finditer(r"://[^\s:/@]*:([^\s/]+)@", text)]
            found.update(passwords, map(unquote, passwords))
    return {text for text in found if len(text) >= _SHORTEST}
