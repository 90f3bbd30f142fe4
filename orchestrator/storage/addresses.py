"""Addresses (URIs) in messages, logs and command lines: without the secrets that they may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from orchestrator.errors import InvalidInput

ANONYMOUS = "anonymous"
"""The user name in the address of a public bucket."""
HIDDEN = "***"
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
_URI = re.compile(r"([\w.+-]*)://(\S*)")
_NAMES = "pass|pwd|secret|token|credential|odbc_connect"
_OPTION = re.compile(rf"(?i)(\w*(?:{_NAMES})\w*(?:=|%3D))([^&\s]+)")
# In the query of an address more names are secrets: AccountKey, sig, X-Amz-Signature, …
_QUERY = re.compile(rf"(?i)([?&][\w.-]*(?:{_NAMES}|key|sas|sig)[\w.-]*=)([^&\s]+)")
_VARIABLE = re.compile(r"(?i)secret|token|passw|credential|access_key|account_key|api_key")
_SHORTEST = 8
"""Characters of a secret in the environment: shorter values would hide ordinary words."""


def reach_loopback() -> None:
    """Have no proxy of the environment stand between this command and its servers on loopback."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    for name in ("no_proxy", "NO_PROXY"):  # libraries read either of them
        spared = os.environ.get(name) or os.environ.get(name.swapcase(), "")
        hosts = [host for host in map(str.strip, spared.split(",")) if host]
        if "*" not in hosts:
            os.environ[name] = ",".join(dict.fromkeys([*hosts, *_LOOPBACK]))


def redacted(text: str, address: str = "") -> str:
    """`text` (a URI, or a message or command line that holds some) with its secrets as `***`.

    Hidden are user names and passwords of URIs, the values of options whose names say that they
    are secret, and the values of environment variables whose names say so; further the words of
    secrets in `address` and in the environment's addresses, of which errors quote pieces.
    """
    text = _URI.sub(_without_user, text)
    for option in (_QUERY, _OPTION):
        text = option.sub(rf"\1{HIDDEN}", text)
    for name, value in os.environ.items():
        named = _VARIABLE.search(name) and not os.path.exists(value)  # the path of a file is none
        if named and len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN).replace(quote(value, safe=""), HIDDEN)
    addresses = [address, *filter(_URI.match, os.environ.values())]
    for piece in {piece for one in addresses for piece in _pieces(one)}:
        text = re.sub(rf"\b{piece}\b", HIDDEN, text)
    return text


def _pieces(address: str) -> set[str]:
    """The words of an address's passwords and secret options, from four characters on."""
    secrets = [_user(*found.groups()).partition(":")[2] for found in _URI.finditer(address)]
    secrets += [found[2] for option in (_QUERY, _OPTION) for found in option.finditer(address)]
    return {word for text in secrets for word in re.findall(r"\w{4,}", unquote(text))}


def _without_user(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    user = _user(scheme, rest)
    if user in ("", ANONYMOUS):
        return found[0]
    return f"{scheme}://{HIDDEN}@{rest[len(user) + 1 :]}"


def _user(scheme: str, rest: str) -> str:
    """USER or USER:PASSWORD of the address `scheme://rest`; empty if it has none."""
    host = rest.partition("/")[0]
    port = scheme.lower() in ("http", "https") and re.match(r"[^:@]*:\d{1,5}([?#]|$)", host)
    # A password may hold a slash: what begins as USER:PASSWORD ends at the last @.
    return (rest if ":" in host and not port else host).rpartition("@")[0]


def check_address(text: str, what: str) -> None:
    """`InvalidInput` for what no HOST:PORT or URL can be: odd brackets, a port above 65535."""
    try:
        _ = urlsplit(text if "://" in text else f"//{text}").port
    except ValueError as error:  # its text may quote a password
        raise InvalidInput(
            f"{what} '{redacted(text):.80}' is no address; write HOST:PORT or a URL."
        ) from error


def has_secret(text: str) -> bool:
    """Whether `text` holds something that `redacted` hides."""
    return redacted(text) != text


def location(place: str | Path) -> str:
    """Scheme, host and path of a URI, without user and options; a path as it is."""
    text = str(place)
    if "://" not in text:
        return text
    return _URI.sub(_without_user, text).replace(f"://{HIDDEN}@", "://").partition("?")[0]
