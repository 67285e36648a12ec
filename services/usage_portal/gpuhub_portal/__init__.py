"""The usage portal of gpuhub.platform: limits, reservations, sessions, usage and cost over HTTP."""

__version__ = "0.1.0"
