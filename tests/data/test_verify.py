"""`verify` finds everything at once."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.data import Progress, listing
from orchestrator.data.listing import SPLITS
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.data.verify import VerifyReport, verify
from orchestrator.errors import DataError, InvalidInput
from orchestrator.spec import Suite, Task
from orchestrator.tasks import SUITES
from orchestrator.tasks.own import read_suite
from tests.trees import make_own, make_vtab

VTAB = SUITES["vtab"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vtab(tmp_path_factory.mktemp("made"), ["kitti", "dtd"], train=12, val=4, test=6)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "vtab"))


def small(suite: Suite = VTAB) -> Suite:
    """VTAB with the made tree's numbers of images."""
    rows = tuple(replace(task, train=12, val=4, test=6) for task in suite.tasks)
    return replace(suite, tasks=rows)


def check(
    root: Path,
    task: str = "kitti",
    suite: Suite | None = None,
    progress: Progress = lambda *_: None,
) -> VerifyReport:
    suite = suite or small()
    return verify(suite, suite.task(task), root, progress)


def images(root: Path, part: str) -> list[Path]:
    return sorted((root / "kitti" / "images" / part).iterdir())


def test_a_good_task_has_no_problems_and_no_notes(root: Path) -> None:
    report = check(root)
    assert (report.problems, report.notes) == ((), ())
    assert report.task == "kitti"
    assert report.counts == {"train": 12, "val": 4, "test": 6}
    assert report.classes == {"train": 4, "val": 4, "test": 4}
    assert len(report.fingerprint) == 64


def test_suites_of_ones_own_are_verified(tmp_path: Path) -> None:
    suite = read_suite(make_own(tmp_path))
    for task in suite.tasks:
        report = check(tmp_path, task.name, suite)
        assert (report.problems, report.notes) == ((), ())
        assert report.fingerprint


def test_the_fingerprint_is_of_content_and_not_of_the_place(root: Path, made: Path) -> None:
    there = check(made).fingerprint
    assert check(root).fingerprint == there
    (root / "kitti").rename(root / "KITTI_dist")
    assert check(root).fingerprint == there
    folder = root / "KITTI_dist"
    (folder / "train800val200.txt").unlink()
    for name in ("train800.txt", "test.txt"):
        lines = (folder / name).read_text()
        first = lines.splitlines(keepends=True)[0]
        (folder / name).write_text(first[:-2] + "2\n" + lines.removeprefix(first))
        assert check(root).fingerprint != there
        (folder / name).write_text(lines)
    assert check(root).fingerprint == there
    image = folder / lines.split()[0]
    image.write_bytes(image.read_bytes() + b"\0")  # behind the image's end
    assert check(root).problems == ()
    assert check(root).fingerprint != there


def test_the_fingerprint_differs_between_splits(root: Path) -> None:
    """The last image of train as the first of val: the same images in the same order."""
    there, folder = check(root).fingerprint, root / "kitti"
    train = (folder / "train800.txt").read_text().splitlines(keepends=True)
    (folder / "train800.txt").write_text("".join(train[:-1]))
    (folder / "val200.txt").write_text(train[-1] + (folder / "val200.txt").read_text())
    report = check(root, suite=replace(VTAB, tasks=(Task("kitti", "structured", 4),)))
    assert report.problems == ()
    assert report.fingerprint not in ("", there)


def test_numbers_that_are_not_the_benchmarks_are_problems(root: Path) -> None:
    problems = check(root, suite=VTAB).problems
    assert problems == (
        "train has 12 images; the benchmark has 800.",
        "val has 4 images; the benchmark has 200.",
        "test has 6 images; the benchmark has 711.",
    )


def test_classes_without_any_image_are_a_problem(root: Path) -> None:
    (problem,) = check(root, "dtd").problems
    assert problem == "no split has an image of classes 1…8, 10…17, 19…27, 29…36, 38…45."
    folder = root / "kitti"
    for name in ("train800.txt", "val200.txt", "test.txt"):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(line for line in lines if not line.endswith("2")))
    (folder / "train800val200.txt").unlink()
    suite = replace(VTAB, tasks=(replace(VTAB.task("kitti"), train=None, val=None, test=None),))
    assert check(root, suite=suite).problems == ("no split has an image of class 2.",)


def test_a_class_of_test_that_train_lacks_is_a_note(root: Path) -> None:
    folder = root / "kitti"
    lines = (folder / "train800.txt").read_text()
    (folder / "train800.txt").write_text(lines.replace(" 3\n", " 1\n").replace(" 0\n", " 1\n"))
    (folder / "train800val200.txt").unlink()
    report = check(root)
    assert report.problems == ()
    assert report.notes == ("test has images of classes 0, 3; train has none.",)


def test_all_problems_are_found_at_once(root: Path) -> None:
    """Images are looked at although lists are wrong, those behind a wrong label too."""
    train, test = images(root, "train800"), images(root, "test")
    train[0].write_bytes(train[0].read_bytes()[:-40])
    train[1].write_bytes(b"")
    test[2].write_text("no image at all")
    folder = root / "kitti"
    lines = (folder / "test.txt").read_text().splitlines()
    lines[2] = lines[2].split()[0] + " 99"
    (folder / "test.txt").write_text("\n".join([*lines, "images/test/none.jpg 1"]))
    (folder / "val200.txt").unlink()
    report = check(root)
    problems = "\n".join(report.problems)
    assert "val200.txt: this list is missing" in problems
    assert "test.txt:3: the label is 99" in problems
    assert "none.jpg' does not exist" in problems
    assert f"train800.txt:1: {train[0]}: " in problems
    assert f"train800.txt:2: {train[1]}: " in problems
    assert f"test.txt:3: {test[2]}: " in problems
    assert len(report.problems) == 6
    assert report.classes["test"] == 3  # 99 is no class


def test_an_image_that_cannot_be_read_is_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = images(root, "val200")[1]
    real = listing.read_file

    def read_file(path: Path, most: int | None) -> bytes:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return real(path, most)

    monkeypatch.setattr(listing, "read_file", read_file)
    report = check(root)
    (problem,) = report.problems
    assert problem.endswith(f"val200.txt:2: {bad}: it cannot be read (Permission denied).")
    assert report.fingerprint == ""


def test_the_same_bytes_in_two_splits_are_a_problem_and_in_one_a_note(root: Path) -> None:
    train, test = images(root, "train800"), images(root, "test")
    for image in (train[5], test[0], test[1]):
        image.write_bytes(train[2].read_bytes())
    report = check(root)
    (between,), (within,) = report.problems, report.notes
    assert within.startswith("1 image of train have the bytes of another of the same split")
    assert str(train[2]) in within and str(train[5]) in within
    assert between.startswith("2 images of test have the bytes of one of train")
    assert f"train800.txt:3: {train[2]} and " in between and f"test.txt:1: {test[0]}" in between


def test_progress_reaches_its_end(root: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    check(root, progress=lambda *call: calls.append(call))
    assert calls == [("kitti", done, 22) for done in range(1, 23)]


def test_a_stopped_check_leaves_no_threads_at_work(root: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        check(root, progress=stop)
    assert set(threading.enumerate()) <= before


def test_a_suite_without_images_on_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="layout of suite 'mini'"):
        check(tmp_path, "digits", SUITES["mini"])


def copy_train_image(folder: Path, split: str) -> None:
    image = next((folder / "tulips" / "train" / "parrot").iterdir())
    (folder / "tulips" / split / "parrot" / f"renamed{image.suffix}").write_bytes(
        image.read_bytes()
    )


def without(folder: Path, names: Sequence[str], splits: Sequence[str] = SPLITS) -> None:
    for split in splits:
        for name in names:
            shutil.rmtree(folder / "tulips" / split / name)


def one_image_a_class(folder: Path) -> None:
    for place in (folder / "tulips" / "train").iterdir():
        for image in sorted(place.iterdir())[1:]:
            image.unlink()


SHARE = ("val: tulips/val", "val: 0.2")
REFUSED: dict[str, tuple[Callable[[Path], None], tuple[str, str], str]] = {
    "a test image from train": (
        lambda folder: copy_train_image(folder, "test"), ("", ""),
        "1 image of test have the bytes of one of train",
    ),
    "a val image from train": (
        lambda folder: copy_train_image(folder, "val"), ("", ""),
        "1 image of val have the bytes of one of train",
    ),
    "one class": (
        lambda folder: without(folder, ["triumph", "viridiflora"]), ("", ""),
        "test has images of one class only (class 0)",
    ),
    "one class in train": (
        lambda folder: without(folder, ["parrot", "triumph"], ["train"]), ("", ""),
        "train has images of one class only (class 2)",
    ),
    "a class without images": (
        lambda folder: without(folder, ["triumph"]), ("", ""),
        "no split has an image of class 1 (triumph)",
    ),
    "another number than the file says": (
        lambda folder: None, ("folders: {", "train: 40\n    folders: {"),
        "train has 36 images; the suite says 40",
    ),
    "a share that rounds to nothing": (one_image_a_class, SHARE, "val has no image: a share"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_verify_refuses_no_sweep_is_given(tmp_path: Path, case: str) -> None:
    spoil, (old, new), why = REFUSED[case]
    file = make_own(tmp_path)
    spoil(tmp_path)
    file.write_text(file.read_text().replace(old, new, 1) if old else file.read_text())
    suite = read_suite(file)
    assert [text for text in check(tmp_path, "tulips", suite).problems if why in text]
    with pytest.raises(DataError, match=re.escape(why)):
        prepare_tasks(suite, [suite.task("tulips")], tmp_path / "store", None)


@pytest.mark.parametrize(("task", "refused"), [("dsprites_ori", False), ("kitti", True)])
def test_equal_images_in_two_splits_are_a_note_where_the_original_has_them(
    tmp_path: Path, task: str, refused: bool
) -> None:
    make_vtab(tmp_path, [task], train=32, val=16, test=16)
    train, test = (
        sorted((tmp_path / task / "images" / part).iterdir())[0] for part in ("train800", "test")
    )
    test.write_bytes(train.read_bytes())
    suite, text = small(), "1 image of test have the bytes of one of train"
    report = check(tmp_path, task, suite)
    assert (text in "".join(report.problems), text in "".join(report.notes)) == (
        refused, not refused,
    )  # fmt: skip
    store, tasks = tmp_path / "store", [suite.task(task)]
    if refused:
        with pytest.raises(DataError, match=text):
            prepare_tasks(suite, tasks, store, tmp_path)
    else:
        assert text in "".join(prepare_tasks(suite, tasks, store, tmp_path)[task].notes)
