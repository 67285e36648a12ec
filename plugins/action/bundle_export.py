"""Runs the module of the same name on the control node, and shows every few seconds how far it is."""

from __future__ import annotations

from .bundle_check import ActionModule

__all__ = ["ActionModule"]
