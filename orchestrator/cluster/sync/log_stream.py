"""Bytes as lines of text, and back: what carries them is a log, in which others write too."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from typing import Any, BinaryIO

from orchestrator.errors import BackendError

BLOCK = 48 * 1024
"""Bytes of a line. Ray sends lines of a log one by one if they are long (ten at once otherwise),
and its WebSocket takes 4 MiB.
"""
DATA, END = "parcel ", "parcel-end "


class Sender:
    """A file to write to; `say` prints its lines. `end` must be called at the end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = bytearray()
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Takes all of `data`."""
        self._sha256.update(data)
        self._bytes += len(data)
        self._rest += data
        while len(self._rest) >= BLOCK:
            self._line(self._rest[:BLOCK])
            del self._rest[:BLOCK]
        return len(data)

    def flush(self) -> None:
        """A file has it; lines go out when they are full."""

    def end(self) -> None:
        """The last line, which says how many bytes there are, and their SHA-256."""
        self._line(self._rest)
        seal = {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}
        self._say(f"{END}{json.dumps(seal)}")

    def _line(self, data: bytearray) -> None:
        if data:
            self._say(f"{DATA}{base64.b64encode(data).decode()}")


class Receiver:
    """Writes to `sink` what a sender said, and keeps the other lines as `said`."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._pieces: list[str] = []
        self._sha256 = hashlib.sha256()
        self._seal: dict[str, Any] | None = None
        self.bytes = 0
        self.said: list[str] = []

    def feed(self, text: str) -> None:
        """The next part of the log, cut anywhere; `BackendError` for a damaged line."""
        *whole, rest = text.split("\n")
        for line in whole:
            self._line("".join([*self._pieces, line]))
            self._pieces.clear()
        if rest:
            self._pieces.append(rest)

    def finish(self) -> None:
        """`BackendError` unless all has come, as it was sent."""
        if self._pieces:
            self.feed("\n")
        arrived = {"bytes": self.bytes, "sha256": self._sha256.hexdigest()}
        if self._seal is None:
            raise _broken(f"it is cut off after {self.bytes} bytes")
        if self._seal != arrived:
            raise _broken(f"{self.bytes} bytes have come of {self._seal.get('bytes')}, or others")

    def _line(self, line: str) -> None:
        if line.startswith(END):
            self._seal = _seal(line.removeprefix(END))
        elif line.startswith(DATA):
            self._take(line.removeprefix(DATA))
        else:
            self.said.append(line)

    def _take(self, text: str) -> None:
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise _broken(f"a line is damaged: {error}") from error
        self._sink.write(data)
        self._sha256.update(data)
        self.bytes += len(data)


def _seal(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _broken(f"its last line is damaged: {error}") from error
    if not isinstance(found, dict):
        raise _broken("its last line is damaged")
    return found


def _broken(why: str) -> BackendError:
    return BackendError(
        f"the results did not arrive whole: {why}. Nothing was changed; run the same command again."
    )
