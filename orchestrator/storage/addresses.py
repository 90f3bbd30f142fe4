"""Addresses (URIs) in messages, logs and command lines: without the secrets that they may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HIDDEN = "***"
_SECRET_OPTION = r"(?:password|passwd|token|secret)\w*="
_WITH_SECRET = re.compile(rf"(?i)://([^/\s]*:[^/\s]*@|\S*[?&]\w*{_SECRET_OPTION})")


def redacted(text: str) -> str:
    """`text` (a URI, or a message or command line that holds some) with its secrets as `***`.

    Hidden are user names and passwords of URIs, the values of options whose names say that they
    are secret, and the values of `SECRET_VARIABLES`.
    """
    text = re.sub(r"(://)[^/\s]*@", rf"\1{HIDDEN}@", text)
    text = re.sub(rf"(?i)({_SECRET_OPTION})[^&\s]+", rf"\1{HIDDEN}", text)
    for value in filter(None, map(os.environ.get, SECRET_VARIABLES)):
        text = text.replace(value, HIDDEN)
    return text


def has_secret(text: str) -> bool:
    """Whether `text` holds a URI with a password, or with an option that is named as secret."""
    return bool(_WITH_SECRET.search(text))


def location(place: str | Path) -> str:
    """Scheme, host and path of a URI, without user and options; a path as it is."""
    scheme, separator, rest = str(place).partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if separator else str(place)
