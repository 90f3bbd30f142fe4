"""The count of files that owes nothing to the project."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.files import write_whole
from tests.hosts.kernel import Folder


def test_it_sees_what_is_put_taken_and_deleted(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "made" / "here", tmp_path)
    place = tmp_path / "made" / "here"
    assert folder.seen() == []
    write_whole(place / "a", b"1", tmp_path)
    write_whole(place / "a", b"2", tmp_path)
    (place / "b").touch()
    (place / "b").rename(tmp_path / "b")
    (place / "a").unlink()
    wanted = [("put", "a"), ("put", "a"), ("made", "b"), ("taken", "b"), ("deleted", "a")]
    assert folder.seen() == folder.seen() == wanted
    folder.close()
