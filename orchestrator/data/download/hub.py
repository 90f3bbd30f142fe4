"""Files of a dataset repository on the Hugging Face hub; the only file that imports its library.

The library's `snapshot_download` starts a file from the first byte again after a process was killed
and does not check hashes. Files are archives of many gigabytes, so they are received here: a
partial file is kept, continued with a Range request, and renamed when its hash is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # not named in an __all__
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from orchestrator.data import Progress
from orchestrator.data.download.archives import CHUNK
from orchestrator.data.download.members import inside
from orchestrator.errors import DataError
from orchestrator.spec import digest
from orchestrator.storage.files import make_folder

THREADS = 8
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts that received no byte."""

TIMEOUT = 20.0
BUSY = (408, 429, 500, 502, 503, 504)
"""Status codes that are retried."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path below the root, bytes, and content id.

    `oid` is the SHA-256 of the content (64 digits) or git's SHA-1 of it as a blob (40 digits).
    """

    path: str
    size: int
    oid: str

    def is_whole(self, path: Path) -> bool:
        """Whether the file at `path` has this content; reads it if the size is right."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        state = hashlib.sha256()
        if len(self.oid) != 64:
            state = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: state).hexdigest() == self.oid


@dataclass(frozen=True)
class Snapshot:
    """A dataset repository (`owner/name`) at one commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]


def look_up(repository: str, revision: str) -> Snapshot:
    """The files of the repository at a branch, tag or commit; `DataError` if it is unavailable."""
    api = HfApi(endpoint=_endpoint())
    with _errors_named(repository, revision):
        info = api.dataset_info(repository, revision=revision, timeout=TIMEOUT)
        commit = str(info.sha)
        tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type="dataset")
        files = tuple(_remote(entry) for entry in tree if isinstance(entry, RepoFile))
    for file in files:
        if inside(file.path) is None:
            raise DataError(f"'{repository}' lists a file outside of its folder: '{file.path}'.")
    return Snapshot(repository, commit, files)


@dataclass
class Download:
    """Some files of a snapshot on their way into `folder`, under their paths.

    `parts` keeps what has been received of unfinished files, for the next call with this snapshot.
    `notify` and `progress` are called from other threads, one at a time.
    """

    snapshot: Snapshot
    files: Sequence[RemoteFile]
    folder: Path
    parts: Path
    notify: Callable[[str], None]
    progress: Progress

    def __post_init__(self) -> None:
        self._total = sum(file.size for file in self.files)
        self._received: dict[str, int] = {}
        self._done = self._reported = 0
        self._lock = Lock()
        self._stopped = Event()

    def run(self) -> None:
        """Download every file, or raise the first error; Ctrl-C stops at the next chunk.

        `DataError` if the hub fails or sends damaged content; `OSError` from the disk.
        """
        make_folder(self.parts)
        with (
            _errors_named(self.snapshot.repository, self.snapshot.commit),
            ThreadPoolExecutor(THREADS) as threads,
        ):
            futures = [threads.submit(self._download, file) for file in self.files]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stopped.set()
                threads.shutdown(cancel_futures=True)
                raise

    def _download(self, file: RemoteFile) -> None:
        part = self.parts / digest(file.path)[:32]
        failures = 0
        while not self._stopped.is_set() and not (part.exists() and _size(part) >= file.size):
            before = _size(part)
            try:
                self._receive(file, part)
            except httpx2.TransportError as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures > len(WAITS):
                    raise
                with self._lock:
                    self.notify(f"'{file.path}': {error}; trying again")
                self._stopped.wait(WAITS[max(failures - 1, 0)])
        if not self._stopped.is_set():
            self._finish(file, part)

    def _receive(self, file: RemoteFile, part: Path) -> None:
        """Append what is missing to `part`, or start it again if the server ignores the range."""
        endpoint = _endpoint()
        url = hf_hub_url(
            self.snapshot.repository, file.path,
            repo_type="dataset", revision=self.snapshot.commit, endpoint=endpoint,
        )  # fmt: skip
        have = _size(part)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with http_stream_backoff(
            "GET", url, headers=headers, timeout=TIMEOUT,
            retry_on_exceptions=(), retry_on_status_codes=BUSY,
        ) as response:  # fmt: skip
            hf_raise_for_status(response)
            partial = response.status_code == 206
            with open(part, "ab" if partial else "wb") as sink:
                self._note(file, have if partial else 0)
                for chunk in response.iter_bytes():
                    if self._stopped.is_set():
                        return
                    sink.write(chunk)
                    self._note(file, sink.tell())
        if _size(part) < file.size:
            raise httpx2.ReadError("the server ended the file too early")

    def _finish(self, file: RemoteFile, part: Path) -> None:
        if not file.is_whole(part):
            part.unlink()
            raise DataError(
                f"'{file.path}' of '{self.snapshot.repository}' arrived damaged. Run the same "
                "command again: only this file is downloaded again."
            )
        path = self.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)

    def _note(self, file: RemoteFile, received: int) -> None:
        """Record that `received` bytes of the file are on disk, and report progress."""
        with self._lock:
            self._done += received - self._received.get(file.path, 0)
            self._received[file.path] = received
            if abs(self._done - self._reported) >= CHUNK or self._done == self._total:
                self._reported = self._done
                self.progress(f"downloading {self.snapshot.repository}", self._done, self._total)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None  # None: the library's own default


def _remote(entry: RepoFile) -> RemoteFile:
    if entry.lfs is None:
        return RemoteFile(entry.path, entry.size, entry.blob_id)
    return RemoteFile(entry.path, entry.lfs.size, entry.lfs.sha256)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _errors_named(repository: str, revision: str) -> Iterator[None]:
    """Errors of the library as `DataError` with the repository and the endpoint."""
    place = HfApi(endpoint=_endpoint()).endpoint
    what = f"the dataset repository '{repository}'"
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{what} is gated: ask for access at {place}/datasets/{repository}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"there is no dataset repository '{repository}' at {place}, or it is private. Check "
            "its name; if it is private, log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"{what} has no branch, tag or commit '{revision}'.") from error
    except OfflineModeIsEnabled as error:
        raise DataError(
            f"{what} is not looked up because HF_HUB_OFFLINE is set in the environment."
        ) from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        raise DataError(f"{place} answered with status {code} for {what}.") from error
    except httpx2.HTTPError as error:
        raise DataError(f"{what} at {place} cannot be reached: {error}.") from error
