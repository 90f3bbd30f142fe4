"""Bytes as lines of text and back, through a log into which other programs write too."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from typing import Any, BinaryIO

from orchestrator.errors import BackendError

BLOCK = 48 * 1024
"""Bytes per line. Ray sends long lines of a log one by one (short ones in tens), and its WebSocket
takes at most 4 MiB.
"""
DATA, END = "sync-data ", "sync-end "
"""How lines with data, and the last line, begin."""


class Sender:
    """A file object whose bytes are passed to `write_line` as text; call `end` at the end."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._rest = bytearray()
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Take all of `data`."""
        self._sha256.update(data)
        self._bytes += len(data)
        self._rest += data
        while len(self._rest) >= BLOCK:
            self._send(self._rest[:BLOCK])
            del self._rest[:BLOCK]
        return len(data)

    def flush(self) -> None:
        """Nothing: lines are sent when they are full (`gzip` calls this)."""

    def end(self) -> None:
        """Send the rest and the last line, with the number of bytes and their SHA-256."""
        self._send(self._rest)
        total = {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}
        self._write_line(f"{END}{json.dumps(total)}")

    def _send(self, data: bytearray) -> None:
        if data:
            self._write_line(f"{DATA}{base64.b64encode(data).decode()}")


class Receiver:
    """Writes the bytes of a `Sender` to `sink`; keeps all other lines in `other_lines`."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._pieces: list[str] = []
        self._sha256 = hashlib.sha256()
        self._expected: dict[str, Any] | None = None
        self.bytes = 0
        self.other_lines: list[str] = []

    def feed(self, text: str) -> None:
        """The next part of the log, cut anywhere; `BackendError` for a damaged line."""
        *whole, rest = text.split("\n")
        for line in whole:
            self._line("".join([*self._pieces, line]))
            self._pieces.clear()
        if rest:
            self._pieces.append(rest)

    def finish(self) -> None:
        """Check that all bytes have arrived unchanged; `BackendError` otherwise."""
        if self._pieces:
            self.feed("\n")
        received = {"bytes": self.bytes, "sha256": self._sha256.hexdigest()}
        if self._expected is None:
            raise _incomplete(f"the log ends after {self.bytes} bytes")
        if self._expected != received:
            expected = self._expected.get("bytes")
            raise _incomplete(f"{self.bytes} of {expected} bytes arrived, or their SHA-256 differs")

    def _line(self, line: str) -> None:
        if line.startswith(END):
            try:
                self._expected = dict(json.loads(line.removeprefix(END)))
            except (ValueError, TypeError) as error:
                raise _incomplete(f"its last line is damaged: {error}") from error
        elif line.startswith(DATA):
            try:
                data = base64.b64decode(line.removeprefix(DATA), validate=True)
            except binascii.Error as error:
                raise _incomplete(f"a line is damaged: {error}") from error
            self._sink.write(data)
            self._sha256.update(data)
            self.bytes += len(data)
        else:
            self.other_lines.append(line)


def _incomplete(why: str) -> BackendError:
    return BackendError(
        f"the results did not arrive completely: {why}. Nothing was changed; run the same command "
        "again."
    )
