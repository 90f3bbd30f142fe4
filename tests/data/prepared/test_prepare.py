"""Tasks prepared from picture files."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.images import decode
from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.prepare import current, prepare
from orchestrator.data.prepared.store import Manifest, check
from orchestrator.data.splits import EncodedSplit, open_final, open_search
from orchestrator.errors import DataError
from tests.data.toys import COUNTS, SIDE, SUITE, TASK, listed, picture
from tests.imports import ROOT


def test_every_split_holds_what_its_files_show(tmp_path: Path) -> None:
    source = listed(tmp_path / "raw")
    seen: list[int] = []
    manifest = prepare(SUITE, TASK, source, tmp_path, lambda: seen.append(1))
    assert len(seen) == source.count() == 24
    search, final = open_search("toy", TASK, tmp_path), open_final("toy", TASK, tmp_path)
    assert manifest.counts == COUNTS
    assert isinstance(final.test, EncodedSplit)
    for name, split in (("train", search.train), ("val", search.val), ("test", final.test)):
        images, sizes = split.part(0, len(split))
        for index, item in enumerate(source.listing.splits[name]):
            pixels, size = decode(item.read(), SIDE)
            np.testing.assert_array_equal(images[index], pixels)
            assert tuple(sizes[index]) == size
            assert split.labels[index] == item.label
    check("toy", TASK, tmp_path)


def test_a_range_of_an_encoded_split_may_span_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "BATCH", 3)
    source = listed(tmp_path / "raw")
    prepare(SUITE, TASK, source, tmp_path)
    test = open_final("toy", TASK, tmp_path).test
    whole, _ = test.part(0, 7)
    for start, stop in ((0, 2), (2, 4), (1, 7), (6, 7), (5, 99), (7, 7)):
        images, sizes = test.part(start, stop)
        np.testing.assert_array_equal(images, whole[start:stop])
        assert len(sizes) == len(images)


def test_equal_files_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    for place in ("one", "two"):
        prepare(SUITE, TASK, listed(tmp_path / place / "raw"), tmp_path / place)
    for name in ("train", "val", "test"):
        one, two = (tmp_path / place / f"toy/dots/{name}.arrow" for place in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_all_bad_images_are_named_and_other_splits_are_kept(tmp_path: Path) -> None:
    source = listed(tmp_path / "raw")
    whole = (tmp_path / "raw/val/1.jpeg").read_bytes()
    (tmp_path / "raw/val/1.jpeg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "raw/val/3.jpeg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepare(SUITE, TASK, source, tmp_path)
    text = str(caught.value)
    assert "val.txt, line 2" in text and "val/1.jpeg: " in text
    assert "val.txt, line 4" in text and "empty" in text
    assert not (tmp_path / "toy/dots").exists()
    kept = tmp_path / "toy/.dots.draft/train.arrow"
    stamp = kept.stat().st_mtime_ns
    assert not list(kept.parent.glob("val*")), "a half-written split is removed"

    for path in ("1.jpeg", "3.jpeg"):
        (tmp_path / "raw/val" / path).write_bytes(whole)
    prepare(SUITE, TASK, listed(tmp_path / "raw"), tmp_path)
    assert (tmp_path / "toy/dots/train.arrow").stat().st_mtime_ns == stamp


def test_bad_images_of_all_splits_and_missing_ones_are_found_at_once(tmp_path: Path) -> None:
    source = listed(tmp_path / "raw")
    for name in COUNTS:
        source.state(name)  # an image disappears after it was listed
    train, test = (tmp_path / f"raw/{split}/4.png" for split in ("train", "test"))
    train.unlink()
    test.write_bytes(test.read_bytes()[:200])
    with pytest.raises(DataError, match="2 problems") as caught:
        prepare(SUITE, TASK, source, tmp_path)
    text = str(caught.value)
    assert re.search(r"train\.txt, line 5: .*4\.png: No such file", text)
    assert re.search(r"test\.txt, line 5: .*test/4\.png: ", text)
    assert [path.name for path in (tmp_path / "toy/.dots.draft").glob("*.arrow")] == ["val.arrow"]


def test_splits_that_were_made_before_are_checked_too(tmp_path: Path) -> None:
    """Killed after train, and prepared by a version that did not look across splits."""
    for name, other in (("val", "train"), ("test", "train")):
        folder = tmp_path / name
        source = listed(folder / "raw")
        for split in COUNTS:
            (folder / f"raw/{split}/6.png").write_bytes(picture(7000 + len(split)))
        prepare(SUITE, TASK, source, folder)
        copied = (folder / f"raw/{other}/4.png").read_bytes()
        (folder / f"raw/{name}/4.png").write_bytes(copied)
        for _ in range(2):  # the second time every split is there already
            with pytest.raises(DataError, match=f"1 image of {name} have the bytes of one of"):
                prepare(SUITE, TASK, listed(folder / "raw"), folder)
    old = Manifest.read(tmp_path / "test/toy/dots")
    assert old is not None and current(SUITE, TASK, tmp_path / "test") == old


def test_a_full_disk_is_reported_and_what_is_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, data: bytes, offset: int) -> int:
        if len(os.listdir(tmp_path / "toy/.dots.draft")) > 2:  # train is finished
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, offset)

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left.*ORCHESTRATE_DATA.*finished is kept"):
        prepare(SUITE, TASK, listed(tmp_path / "raw"), tmp_path)
    draft = tmp_path / "toy/.dots.draft"
    assert sorted(os.listdir(draft)) == ["train.arrow", "train.json"]
    monkeypatch.setattr(os, "pwrite", write)
    made = (draft / "train.arrow").stat().st_mtime_ns
    prepare(SUITE, TASK, listed(tmp_path / "raw"), tmp_path)
    check("toy", TASK, tmp_path)
    assert (tmp_path / "toy/dots/train.arrow").stat().st_mtime_ns == made


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.data.prepared.prepare import prepare
from tests.data.toys import SUITE, TASK, listed
left = int(sys.argv[2])
def tick():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(SUITE, TASK, listed(Path(sys.argv[1]) / "raw"), Path(sys.argv[1]), tick)
"""


@pytest.mark.parametrize("moment", [14, 24])
def test_killed_at_any_image_it_continues(moment: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(moment)]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -9
    assert not (tmp_path / "toy/dots").exists()
    seen = []
    prepare(SUITE, TASK, listed(tmp_path / "raw"), tmp_path, lambda: seen.append(1))
    check("toy", TASK, tmp_path)
    done = sum(count for end, count in ((12, 12), (17, 5)) if moment > end)
    assert len(seen) == 24 - done, "finished splits are not made again"
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [".dots.lock", "dots"]
