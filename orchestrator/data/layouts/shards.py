"""The files of a split: one file, a list of files, a pattern (`train-*.parquet`) or a folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.data.layouts.tree import on_disk

_WORDS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
"""How the files of a split begin in a folder that has those of all splits."""
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(.*)")


def shards(given: str | Sequence[str], split: str, problems: list[str]) -> Iterator[Path]:
    """The files that a path, a pattern or a list of them names, each sorted by name."""
    for text in [given] if isinstance(given, str) else given:
        path = on_disk(text)
        if os.path.isdir(path):
            yield from _complete(_in_folder(path, split), f"{path}: it", problems)
        elif os.path.lexists(path) or not glob.has_magic(text):
            yield Path(path)
        else:
            # Brackets in the name of a folder that exists are no pattern.
            base = next(folder for folder in Path(text).parents if folder.is_dir())
            found = glob.glob(os.path.relpath(text, base), root_dir=base, recursive=True)
            files = [base / name for name in sorted(found) if (base / name).is_file()]
            yield from _complete(files, f"{text}: the pattern", problems)


def _in_folder(folder: str, split: str) -> list[Path]:
    """The Parquet files in a folder: those that begin with the split's name, if some begin with
    the name of one; else all.
    """
    found = sorted(path for path in Path(folder).glob("[!.]*.parquet") if path.is_file())
    own = {
        name: [path for path in found if re.match(f"({words})(?![a-z])", path.name.casefold())]
        for name, words in _WORDS.items()
    }
    return own[split] if any(own.values()) else found


def _complete(files: list[Path], what: str, problems: list[str]) -> list[Path]:
    """The files, with a problem if there is none, or one of the numbered ones is missing."""
    if not files:
        problems.append(f"{what} names no Parquet file of this split.")
    series: dict[tuple[str, str, str], set[int]] = {}
    for path in files:
        if match := _SHARD.fullmatch(path.name):
            series.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (start, count, end), there in series.items():
        absent = sorted(set(range(min(int(count), 10**6))) - there)
        if absent:
            problems.append(
                f"{what} lacks {len(absent)} of the {int(count)} files {start}-…-of-{count}{end}, "
                f"first: number {absent[0]}. To use a part, name its files in a list."
            )
    return files


def check_overlap(paths: Mapping[str, Sequence[Path]], problems: list[str]) -> None:
    """A problem for a file that is named twice."""
    seen: dict[str, str] = {}
    for split, own in paths.items():
        for path in own:
            first = seen.setdefault(os.path.realpath(path), split)
            if first != split:
                problems.append(f"{path}: it is named as both {first} and {split}.")
        if len(set(map(os.path.realpath, own))) < len(own):
            problems.append(f"{own[0]}: a file of {split} is named twice.")
