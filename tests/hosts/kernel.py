"""What the kernel saw in a folder: a count of written files that owes nothing to the project."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_NAMES = {_MOVED_FROM: "taken", _MOVED_TO: "put", _CREATE: "made", _DELETE: "deleted"}
_HEADER = struct.Struct("iIII")
_OVERFLOW = 0x4000


class Folder:
    """Writes down from now on which files are put into a folder and taken out (inotify).

    `drafts` is the folder from which they are renamed. It is looked at too, because the kernel
    merges two equal events unless another one is between them.
    """

    def __init__(self, path: Path, drafts: Path) -> None:
        """Makes the folders that are missing."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        self._watches = []
        for folder in (path, drafts):
            folder.mkdir(parents=True, exist_ok=True)
            watch = libc.inotify_add_watch(self._handle, bytes(folder), mask)
            if min(self._handle, watch) < 0:
                raise OSError(ctypes.get_errno(), "inotify cannot be used", str(folder))
            self._watches.append(watch)
        self._seen: list[tuple[str, str]] = []

    def seen(self) -> list[tuple[str, str]]:
        """(what, file name) in order; `put` is a file that was renamed into the folder."""
        while data := self._read():
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, at)
                assert not mask & _OVERFLOW, "more happened than the kernel writes down"
                name = data[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0").decode()
                if watch == self._watches[0]:
                    self._seen += [(what, name) for bit, what in _NAMES.items() if mask & bit]
                at += _HEADER.size + length
        return list(self._seen)

    def close(self) -> None:
        """Stops looking."""
        os.close(self._handle)

    def _read(self) -> bytes:
        try:
            return os.read(self._handle, 2**16)
        except BlockingIOError:
            return b""
