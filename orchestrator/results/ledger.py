"""The append-only results, the only source of truth: a trial is finished once its row is visible.

    <uri>/fragments/<key>.parquet      one row, visible whole or not at all
    <uri>/compacted/<sha256>.parquet   the rows of merged fragments, named by its content
    <uri>/tmp/                         unfinished writes of a local ledger; never read

During a compaction, and after one that was killed, a row is in both folders. It counts once, and
the compacted one, which is older, is read. Any number of processes may read while one command, the
holder of the sweep's lock, writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import InvalidInput, LedgerError
from orchestrator.results import rows
from orchestrator.spec import TrialResult
from orchestrator.storage.files import reason
from orchestrator.storage.object_store import NO_FILE, storage

FRAGMENTS, COMPACTED = "fragments", "compacted"
_NAME = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS, _MOST_SHOWN = 10, 20
_T = TypeVar("_T")


class Ledger:
    """The results at `uri`: a path, `file://…`, `s3://…`, `gs://…` or `az://…`."""

    def __init__(self, uri: str | Path) -> None:
        self._storage = storage(uri)
        self._keys_of: dict[str, frozenset[str]] = {}

    def append(self, result: TrialResult) -> None:
        """Make a result visible and durable. A key that is there already keeps its first row.

        `LedgerError` (disk full, no permission) leaves nothing behind.
        """
        if result.key not in self:
            self._storage.create(FRAGMENTS, f"{result.key}.parquet", rows.encode([result]))

    def __contains__(self, key: str) -> bool:
        """Whether the key's result is visible; the cost does not grow with the ledger."""
        # Fragment first: a compaction writes the compacted row before it deletes the fragment.
        seen = self._storage.exists(FRAGMENTS, f"{key}.parquet")
        return seen or key in self._stable(self._merged_keys)

    def result(self, key: str) -> TrialResult | None:
        """The key's result, None if there is none; the cost does not grow with the ledger."""
        return self._stable(lambda: self._one(key))

    def keys(self) -> frozenset[str]:
        """The keys of all visible results, from names and the key columns of compacted files."""
        return self._stable(lambda: self._fragments() | self._merged_keys())

    def results(self) -> list[TrialResult]:
        """All results, by time of finishing, then key."""
        return self.new_results(())

    def new_results(self, seen: Collection[str]) -> list[TrialResult]:
        """The results whose keys are not in `seen`, by time of finishing, then key."""
        known = frozenset(seen)
        return _ordered(self._stable(lambda: self._read(known)))

    def compact(self, least: int = 1, keep: Callable[[TrialResult], bool] = lambda _: False) -> int:
        """Merge fragments and compacted files into one compacted file; how many fragments.

        The new file is visible before anything is deleted: a crash at any moment loses and repeats
        no row, and the next compaction completes the deletion. A damaged fragment raises
        `LedgerError` and nothing is changed. Only for the holder of the sweep's lock.

        Args:
            least: do nothing while there are fewer fragments.
            keep: results whose fragments stay.
        """
        return self._stable(lambda: self._compact(least, keep))

    def clean(self) -> int:
        """Delete what killed writers left in `tmp/`; only for the holder of the sweep's lock."""
        return self._storage.clean()

    def _compact(self, least: int, keep: Callable[[TrialResult], bool]) -> int:
        names, merged = self._fragments(), self._names(COMPACTED)
        if len(names) < least and len(merged) < 2:
            return 0
        found = self._in_fragments(names)
        fragments = {key: result for key, result in found.items() if not keep(result)}
        if not fragments and len(merged) < 2:
            return 0
        data = rows.encode(_ordered({**fragments, **self._in_compacted(merged)}))
        name = _content_name(data)
        if name not in merged:
            self._storage.write(COMPACTED, f"{name}.parquet", data)
        for key in sorted(fragments):
            self._storage.delete(FRAGMENTS, f"{key}.parquet")
        for old in sorted(merged - {name}):
            self._storage.delete(COMPACTED, f"{old}.parquet")
        return len(fragments)

    def _one(self, key: str) -> TrialResult | None:
        if self._storage.exists(FRAGMENTS, f"{key}.parquet"):
            return self._in_fragments([key])[key]
        names = [name for name in sorted(self._names(COMPACTED)) if key in self._keys_in(name)]
        return self._in_compacted(names[:1]).get(key)

    def _read(self, seen: frozenset[str]) -> dict[str, TrialResult]:
        fragments = self._fragments()
        merged = self._names(COMPACTED)
        found = self._in_compacted(merged, seen)
        return {**self._in_fragments(fragments - seen - found.keys()), **found}

    def _in_fragments(self, wanted: Collection[str]) -> dict[str, TrialResult]:
        if self._storage.at_once == 1 or len(wanted) < 2:
            found = dict(map(self._in_fragment, wanted))
        else:
            with ThreadPoolExecutor(self._storage.at_once) as threads:
                found = dict(threads.map(self._in_fragment, wanted))
        damaged = {key: why for key, why in found.items() if isinstance(why, str)}
        if damaged:
            raise self._damaged(FRAGMENTS, damaged)
        return {key: row for key, row in found.items() if not isinstance(row, str)}

    def _in_fragment(self, key: str) -> tuple[str, TrialResult | str]:
        """The key and its result, or why its fragment cannot be used."""
        try:
            results = self._decoded(FRAGMENTS, key, frozenset())
        except ValueError as error:
            return key, str(error)
        if [result.key for result in results] != [key]:
            return key, "its row belongs to another key"
        return key, results[0]

    def _in_compacted(
        self, names: Collection[str], seen: frozenset[str] = frozenset()
    ) -> dict[str, TrialResult]:
        found: dict[str, TrialResult] = {}
        for name in sorted(names):  # of a key in several, the first
            if not self._keys_in(name) <= seen:
                try:
                    results = self._decoded(COMPACTED, name, seen)
                except ValueError as error:
                    raise self._damaged(COMPACTED, {name: str(error)}) from error
                found = {**{result.key: result for result in results}, **found}
        return found

    def _decoded(self, folder: str, name: str, seen: frozenset[str]) -> list[TrialResult]:
        """The rows of a file; `ValueError` if one of them is damaged or cannot be true."""
        data = self._content(folder, name)
        try:
            return [rows.result(row) for row in rows.decode(data) if row.get("key") not in seen]
        except (TypeError, KeyError, AttributeError, RecursionError, InvalidInput) as error:
            raise ValueError(f"{reason(error)}: damaged or edited by hand") from error

    def _fragments(self) -> frozenset[str]:
        return self._names(FRAGMENTS)

    def _merged_keys(self) -> frozenset[str]:
        return frozenset[str]().union(*map(self._keys_in, self._names(COMPACTED)))

    def _keys_in(self, name: str) -> frozenset[str]:
        """Keys of one compacted file, read once: its name is its content's hash."""
        if name not in self._keys_of:
            data = self._content(COMPACTED, name)
            try:
                self._keys_of[name] = frozenset(row["key"] for row in rows.decode(data, ["key"]))
            except ValueError as error:
                raise self._damaged(COMPACTED, {name: str(error)}) from error
        return self._keys_of[name]

    def _content(self, folder: str, name: str) -> bytes:
        data = self._storage.read(folder, f"{name}.parquet")
        if folder == COMPACTED and _content_name(data) != name:
            raise self._damaged(folder, {name: "its content does not match its name"})
        return data

    def _names(self, folder: str) -> frozenset[str]:
        """Names without suffix of the Parquet files; a wrong name, an empty file or what is no
        file at all is damage.
        """
        sizes = {
            file.removesuffix(".parquet"): size
            for file, size in self._storage.sizes(folder).items()
            if file.endswith(".parquet")
        }
        damaged = {name: why for name, size in sizes.items() if (why := _unusable(name, size))}
        if damaged:
            raise self._damaged(folder, damaged)
        return frozenset(sizes)

    def _stable(self, read: Callable[[], _T]) -> _T:
        """`read`, repeated when a compaction deleted a listed file before it was opened."""
        for _ in range(_ATTEMPTS):
            try:
                return read()
            except FileNotFoundError as error:
                missing = error
        raise LedgerError(f"the ledger changes while it is read ({missing}). Try again.")

    def _damaged(self, folder: str, files: Mapping[str, str]) -> LedgerError:
        """The error of `files`: name → why it cannot be used."""
        found = [
            f"'{self._storage.path(folder, f'{n}.parquet')}' ({files[n]})" for n in sorted(files)
        ]
        one = len(found) == 1
        them, they = ("it", "it") if one else ("them", "they")
        what = "a file of the ledger" if one else f"{len(found)} files of the ledger"
        more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        return LedgerError(
            f"{what} cannot be used: {'; '.join(found[:_MOST_SHOWN])}{more}. Move {them} out of "
            f"the ledger, then run the same command again: what only {they} recorded is trained "
            "again."
        )


def _ordered(results: dict[str, TrialResult]) -> list[TrialResult]:
    return sorted(results.values(), key=lambda result: (result.finished, result.key))


def _unusable(name: str, size: int) -> str:
    """Why a file of the ledger cannot be used, by its name and size; empty if nothing says so."""
    if not _NAME.fullmatch(name):
        return "its name is not 32 hexadecimal digits"
    return {0: "it is empty", NO_FILE: "it is no regular file"}.get(size, "")


def _content_name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
