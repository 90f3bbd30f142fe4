"""Fetch a suite's raw images to the folder where later commands look: whole or absent."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.data import Progress
from orchestrator.data.download import archives
from orchestrator.data.download.archives import is_archive, unpack
from orchestrator.data.listing import stamp_of
from orchestrator.data.suite_root import DEPTH, folder_names, tasks_in, tasks_root
from orchestrator.errors import DataError, InvalidInput
from orchestrator.spec import Suite
from orchestrator.storage.files import locked, make_folder, write_whole

Notify = Callable[[str], None]
"""Called with sentences for the user."""

MARKER = ".fetched"
"""File in a fetched folder that says where it comes from."""

_REPOSITORY = re.compile(
    r"(?P<scheme>hf://(datasets/)?)?(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>[\w./-]+))?"
)


def fetch(suite: Suite, source: str, target: Path, notify: Notify, progress: Progress) -> Path:
    """Fetch the suite's images to `target` and return the folder with its task folders.

    Args:
        suite: one with a folder that a variable can name.
        source: a folder (used in place: `target` becomes a link to it), an archive (unpacked), or
            a dataset repository `owner/name` or `hf://owner/name[@revision]` on the Hugging Face
            hub (downloaded, and the archives in it unpacked). A path that exists comes first.
        target: `suite_root.fetch_target`; it appears whole at the end. An interrupted call leaves
            `.<name>.fetch` beside it, from which the same call resumes.
        notify: called with sentences for the user, from other threads too, one at a time.
        progress: called with progress in bytes, likewise.

    Raises `InvalidInput` for a source that is none of these and a target that holds something
    else; `DataError` for what cannot be reached, is damaged, does not fit on the disk, or has no
    folder of any of the suite's tasks.
    """
    if not suite.variable:
        raise InvalidInput(f"suite '{suite.name}' is not read from a folder: nothing to fetch.")
    path = Path(source).expanduser()
    target = target.absolute()
    with _errors_named(target):
        make_folder(target.parent)
        lock = target.with_name(f".{target.name}.lock")
        waiting = f"another process is fetching to '{target}'; waiting for it"
        with locked(lock, lambda: notify(waiting)):
            if path.is_dir():
                _link(suite, path.resolve(), target, notify)
            elif path.is_file() and is_archive(path.name):
                _from_archive(suite, path.resolve(), target, notify, progress)
            else:
                _from_hub(suite, *_repository(source, path), target, notify, progress)
    return _check_content(suite, target, target, notify)


def _repository(source: str, path: Path) -> tuple[str, str]:
    """The repository's name and revision; `InvalidInput` if the source is of none of the forms."""
    match = _REPOSITORY.fullmatch(source)
    missing_file = match and not match["scheme"] and is_archive(source)
    if path.exists() or not match or missing_file:
        what = "is no archive" if path.exists() else "does not exist"
        raise InvalidInput(
            f"cannot fetch from '{source}': as a path it {what}. Allowed: a folder, an archive "
            f"({', '.join(archives.SUFFIXES)}), or a dataset repository on the Hugging Face hub, "
            "'owner/name' or 'hf://owner/name@revision'."
        )
    return match["name"], match["revision"] or "main"


def _link(suite: Suite, folder: Path, target: Path, notify: Notify) -> None:
    """Make `target` a link to the folder, in place of another link if there is one."""
    _check_content(suite, folder, folder, lambda _: None)
    if target.exists() and target.resolve() == folder:
        return
    if target.exists() and not target.is_symlink():
        raise _occupied(target)
    draft = target.with_name(f".{target.name}.link")
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder)
    os.replace(draft, target)
    notify(f"'{target}' is a link to '{folder}'; nothing was copied")


def _from_archive(
    suite: Suite, archive: Path, target: Path, notify: Notify, progress: Progress
) -> None:
    label = f"{archive} {stamp_of(archive)}"
    if _already_fetched(target, label, notify):
        return
    work = _work_folder(target, label)
    if not (work / "files").exists():
        unpack(archive, work / "files", progress)
    _publish(suite, work, target, label)


def _from_hub(
    suite: Suite, name: str, revision: str, target: Path, notify: Notify, progress: Progress
) -> None:
    label = f"hf://{name}@{revision}"
    if _already_fetched(target, label, notify):
        return
    from orchestrator.data.download import hub  # late: loads the hub's library

    with _alternatives_named(suite):
        snapshot = hub.look_up(name, revision)
    work = _work_folder(target, f"{label} {snapshot.commit}")
    files, unpacked = work / "files", work / "archives"
    missing = [
        file for file in snapshot.files
        if not (unpacked / file.path).exists() and not file.is_whole(files / file.path)
    ]  # fmt: skip
    notify(f"'{label}' has {len(snapshot.files)} files; {len(missing)} are to be downloaded")
    archives.require_space_for((file.size for file in missing), target.parent, "downloading")
    with _alternatives_named(suite):
        hub.Download(snapshot, missing, files, work / "parts", notify, progress).run()
    for file in sorted(file.path for file in snapshot.files):
        if is_archive(file) and not (unpacked / file).exists():
            _unpack_beside(files / file, work / "unpacked", unpacked / file, progress)
    _publish(suite, work, target, label)


def _unpack_beside(archive: Path, draft: Path, done: Path, progress: Progress) -> None:
    """Unpack an archive of a snapshot in its own folder, then move it to `done`, which marks it.

    Folders keep their names; loose files go into a folder named after the archive.
    """
    shutil.rmtree(draft, ignore_errors=True)
    unpack(archive, draft, progress)
    loose = any(not path.is_dir() for path in draft.iterdir())
    _merge(draft, archive.parent / archives.stem(archive.name) if loose else archive.parent)
    done.parent.mkdir(parents=True, exist_ok=True)
    os.rename(archive, done)


def _merge(source: Path, folder: Path) -> None:
    """Move the content of `source` into `folder`; existing files stay."""
    folder.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        place = folder / path.name
        if not os.path.lexists(place):
            os.rename(path, place)
        elif path.is_dir() and place.is_dir():
            _merge(path, place)


def _work_folder(target: Path, label: str) -> Path:
    """The working folder of a fetch from that source; one of another source is deleted."""
    work = target.with_name(f".{target.name}.fetch")
    if _read(work / "source") != label:
        shutil.rmtree(work, ignore_errors=True)
        make_folder(work)
        write_whole(work / "source", label.encode())
    return work


def _publish(suite: Suite, work: Path, target: Path, label: str) -> None:
    files = work / "files"
    _check_content(suite, files, files, lambda _: None)
    write_whole(files / MARKER, label.encode(), temporary=work)
    os.sync()  # the rename must not reach the disk before the files do
    os.rename(files, target)
    shutil.rmtree(work, ignore_errors=True)


def _already_fetched(target: Path, label: str, notify: Notify) -> bool:
    """Whether the target was fetched from that source; `InvalidInput` if it holds other content."""
    if _read(target / MARKER) == label:
        notify(f"'{target}' was fetched from there before; delete it to fetch it again")
        return True
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise _occupied(target)
    return False


def _occupied(target: Path) -> InvalidInput:
    link = f", a link to '{target.readlink()}'," if target.is_symlink() else ""
    origin = _read(target / MARKER)
    source = re.sub(r" \d+ \d+$", "", origin or "")  # without an archive's size and time
    what = f"holds what was fetched from '{source}'" if source else "is there already"
    return InvalidInput(
        f"'{target}'{link} {what}. Use it as it is, delete it, or name another folder with "
        "--suite-root."
    )


def _check_content(suite: Suite, folder: Path, shown: Path, notify: Notify) -> Path:
    """The folder with the task folders; `DataError` that lists the content if there are none."""
    root = tasks_root(suite, folder)
    tasks = tasks_in(suite, root)
    if not tasks:
        names = list(dict.fromkeys(folder_names(suite, task)[0] for task in suite.tasks))
        there = sorted(path.name for path in folder.iterdir() if path.name != MARKER)
        raise DataError(
            f"'{shown}' has no folder of any task of suite '{suite.name}', nor do folders up to "
            f"{DEPTH} levels below. Looked for: {_shortened(names, 30)}. "
            f"What is there: {_shortened(there, 12)}."
        )
    notify(f"{len(tasks)} of {len(suite.tasks)} tasks of suite '{suite.name}' in '{root}'")
    return root


def _shortened(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


@contextmanager
def _alternatives_named(suite: Suite) -> Iterator[None]:
    """Add to an error of the hub what else the user can do."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error} Or download the images by hand and run `orchestrate data fetch {suite.name} "
            f"--from FOLDER_OR_ARCHIVE`, or set {suite.variable} to such a folder."
        ) from error


@contextmanager
def _errors_named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise DataError(
            f"cannot fetch to '{target}': {why}. Free some space or make it writable, and run the "
            "same command again: it goes on where it stopped. Or name another folder with "
            "--suite-root."
        ) from error
