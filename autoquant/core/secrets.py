"""Passwords and tokens in addresses, hidden before anything is written, sent or shown."""

from __future__ import annotations

import re

from autoquant.errors import first_line

MASK = "***"

_SQL_USER = re.compile(r"((?:postgresql|mysql|mssql|sqlite)(?:\+\w+)?://[^/@:?#\s]*):\S*@", re.I)
_SIGN_IN = re.compile(r"([a-z][a-z0-9+.-]*)://[^/?#\s]*@", re.I)
_SQL = re.compile(r"(?:postgresql|mysql|mssql|sqlite)(?:\+\w+)?", re.I)
_QUERY = re.compile(
    r"([?&;](?:[\w.%-]*(?:pass|pwd|token|secret|key|auth|credential|sig)[\w.%-]*|odbc_connect)=)"
    r"[^&;#\s\"']*",
    re.I,
)


def masked(text: str) -> str:
    """Hide what signs in to a server, wherever an address stands in a text.

    The name of a database's user stays; of other servers both parts may be the token.

    >>> masked("cannot reach postgresql://me:secret@host/db?sslmode=require&password=x")
    'cannot reach postgresql://me:***@host/db?sslmode=require&password=***'
    >>> masked("https://token@host:5000")
    'https://***@host:5000'
    """
    text = _SQL_USER.sub(rf"\1:{MASK}@", text)
    text = _SIGN_IN.sub(_without_sign_in, text)
    return _QUERY.sub(rf"\1{MASK}", text)


def masked_line(error: object) -> str:
    """The first line of what somebody else's error says, without passwords, cut to 300 letters."""
    return masked(first_line(error))[:300]


def is_masked(address: str) -> bool:
    """Whether an address has lost what signs in."""
    return f"{MASK}@" in address or f"={MASK}" in address


def _without_sign_in(found: re.Match[str]) -> str:
    return found[0] if _SQL.fullmatch(found[1]) else f"{found[1]}://{MASK}@"
