from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.prepare import current, prepare
from orchestrator.data.prepared.sources import GeneratedSource
from orchestrator.data.prepared.store import (
    Manifest,
    SplitRecord,
    check,
    default_root,
    manifest_of,
    presence,
)
from orchestrator.data.splits import SearchData, Split, open_final, open_search
from orchestrator.errors import DataError
from orchestrator.spec import DataIdentity, Task
from orchestrator.tasks.suites import MINI
from tests.data.toys import COUNTS, SIDE, SUITE, TASK, Arrays, Toy, made, stored
from tests.imports import ROOT


def identity(suite: str, task: Task, root: Path) -> DataIdentity:
    return manifest_of(suite, task, root).identity


@pytest.fixture
def root(tmp_path: Path) -> Path:
    stored(tmp_path)
    return tmp_path


def test_splits_come_back_as_they_were_made(root: Path) -> None:
    search, final, wanted = open_search("toy", TASK, root), open_final("toy", TASK, root), made()
    for split, name in ((search.train, "train"), (search.val, "val"), (final.test, "test")):
        np.testing.assert_array_equal(split.images, wanted[name][0])
        np.testing.assert_array_equal(split.labels, wanted[name][1])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert len(split) == len(wanted[name][1])
    for split, name in zip(final.train, ("train", "val"), strict=True):
        np.testing.assert_array_equal(split.images, wanted[name][0])
        np.testing.assert_array_equal(split.sizes, [[SIDE, SIDE]] * COUNTS[name])


def test_a_fold_deals_the_images_of_train_and_val_anew(root: Path) -> None:
    search = open_search("toy", TASK, root)
    pool = [*search.train.images, *search.val.images]
    labels = [*search.train.labels, *search.val.labels]
    folds = [search.fold(number) for number in (1, 2)]
    for number, fold in enumerate(folds, 1):
        again = open_search("toy", TASK, root).fold(number)
        assert fold.identity == again.identity
        dealt = [*fold.train.images, *fold.val.images]
        assert (len(fold.train), len(fold.val)) == (len(search.train), len(search.val))
        assert sorted(map(bytes, dealt)) == sorted(map(bytes, pool)), "every image once"
        for image, label in zip(dealt, [*fold.train.labels, *fold.val.labels], strict=True):
            where = next(i for i, one in enumerate(pool) if np.array_equal(one, image))
            assert labels[where] == label
        for name in ("train", "val"):
            one, other = getattr(fold, name), getattr(again, name)
            np.testing.assert_array_equal(one.images, other.images)
            assert one.fingerprint == other.fingerprint != getattr(search, name).fingerprint
    assert not np.array_equal(folds[0].val.images, folds[1].val.images)
    assert len({fold.val.fingerprint for fold in folds}) == 2


def test_nobody_can_change_a_split(root: Path) -> None:
    final = open_final("toy", TASK, root)
    for split in (open_search("toy", TASK, root).train, *final.train, final.test):
        assert isinstance(split, Split)
        for array in (split.images, split.labels, split.sizes):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_images_are_views_of_the_mapped_file(root: Path) -> None:
    before = pa.total_allocated_bytes()
    images = open_search("toy", TASK, root).train.images
    assert not images.flags.owndata
    assert pa.total_allocated_bytes() == before
    batch = pa.ipc.open_file(pa.memory_map(str(root / "toy/dots/train.arrow"))).get_batch(0)
    assert batch.schema.names == ["image", "label", "size"]
    assert batch.schema.types == [pa.binary(6 * 6 * 3), pa.int32(), pa.list_(pa.int32(), 2)]
    assert batch.schema.metadata == {b"version": b"2", b"side": b"6", b"classes": b"4"}


def test_search_is_given_no_test_split_and_no_way_to_one(root: Path) -> None:
    shutil.copytree(root / "toy", root / "cut")
    (root / "cut/dots/test.arrow").unlink()
    search = open_search("cut", TASK, root)  # the file is not even looked at
    assert {field.name for field in fields(SearchData)} == {"task", "train", "val", "identity"}
    reachable = [search, search.train, search.val]
    values = [value for thing in reachable for value in vars(thing).values()]
    assert {type(value) for value in values} == {Task, Split, np.ndarray, str}
    texts = " ".join(value for value in values if isinstance(value, str))
    assert not any(word in texts for word in (str(root), identity("toy", TASK, root).test))
    with pytest.raises(DataError, match=r"test\.arrow"):
        open_final("cut", TASK, root)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("part", [0, 1])
def test_fingerprints_follow_the_content(name: str, part: int, root: Path) -> None:
    def changed() -> Arrays:
        arrays = made()
        array = arrays[name][part]
        array.flat[-1] = 3 - array.flat[-1] % 4
        return arrays

    before, after = identity("toy", TASK, root), stored(root, changed, version="v2").identity
    assert (before.search != after.search) == (name != "test")
    assert (before.test != after.test) == (name == "test")
    train = open_search("toy", TASK, root).train
    assert train.fingerprint == arrow.fingerprint(train.images, train.labels, train.sizes)


def test_a_fingerprint_depends_on_shapes_and_sizes() -> None:
    images, labels = made()["train"]
    sizes = np.full((12, 2), 6, np.int32)
    one = arrow.fingerprint(images, labels, sizes)
    assert one != arrow.fingerprint(images.reshape(12, 4, 9, 3), labels, sizes)
    assert one != arrow.fingerprint(images, labels, sizes + 1)


@pytest.mark.parametrize("change", [{"side": 8}, {"view": "centre"}, {"classes": 5}])
def test_what_is_seen_of_an_image_is_part_of_the_identity(change: dict[str, Any]) -> None:
    splits = {name: SplitRecord(1, 1, name) for name in ("train", "val", "test")}
    manifest = Manifest("2", "s", 4, 6, "whole", splits)
    other = replace(manifest, **change).identity
    assert manifest.identity.search != other.search
    assert manifest.identity.test != other.test


def test_it_is_made_once(root: Path) -> None:
    def never() -> Arrays:
        raise AssertionError("made twice")

    assert stored(root, never).identity == identity("toy", TASK, root)
    (root / "toy/.dots.lock").unlink()
    (root / "toy").chmod(0o500)
    stored(root, never)  # what is there needs no permission to write
    (root / "toy").chmod(0o700)


def test_another_source_or_another_task_makes_it_again(root: Path) -> None:
    calls: list[str] = []

    def make() -> Arrays:
        calls.append("made")
        return made()

    old = open_search("toy", TASK, root)
    stored(root, make, version="v2")
    stored(root, make, version="v2")
    assert len(calls) == 1
    other = replace(TASK, classes=5)
    prepare(SUITE, other, Toy(task=other, make=make, version="v2"), root)
    assert len(calls) == 2
    prepare(replace(SUITE, view="centre"), other, Toy(task=other, make=make, version="v2"), root)
    assert len(calls) == 3
    np.testing.assert_array_equal(old.val.images, made()["val"][0])  # mapped files stay readable
    assert sorted(path.name for path in (root / "toy").iterdir()) == [".dots.lock", "dots"]
    with pytest.raises(DataError, match="as the suite describes it"):
        open_search("toy", TASK, root)


def broken(change: Any) -> Any:
    def make() -> Arrays:
        arrays = made()
        change(arrays)
        return arrays

    return make


BAD = {
    "is missing": lambda a: a.pop("val"),
    "the suite says 12": lambda a: a.update(train=(a["train"][0][:11], a["train"][1][:11])),
    "the suite says 5": lambda a: a.update(val=(a["val"][0], a["val"][1][:4])),
    "integers in 0…3": lambda a: a["test"][1].__setitem__(0, 4),
    "the val split of task 'dots' has labels": lambda a: a["val"][1].__setitem__(0, -1),
    "labels that are not integers": lambda a: a.update(val=(a["val"][0], a["val"][1] + 0.5)),
    "uint8": lambda a: a.update(val=(a["val"][0].astype(np.float32), a["val"][1])),
    "(N, side, side, 3)": lambda a: a.update(val=(a["val"][0][..., 0], a["val"][1])),
    "(5, 3, 6, 3)": lambda a: a.update(val=(a["val"][0][:, :3], a["val"][1])),
}


@pytest.mark.parametrize("words", BAD)
def test_a_source_that_is_not_what_the_task_says_is_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        stored(tmp_path, broken(BAD[words]))
    assert words in str(caught.value)
    assert not (tmp_path / "toy" / "dots").exists()


@pytest.mark.parametrize("manifest", [None, b"", b"{}", b"[1]", b"null"])
def test_a_folder_without_a_valid_manifest_is_never_read(
    manifest: bytes | None, root: Path
) -> None:
    path = root / "toy/dots/manifest.json"
    if manifest is None:
        path.unlink()
    else:
        path.write_bytes(manifest)
    for read in (identity, check, open_search, open_final):
        with pytest.raises(DataError, match=r"'toy/dots' is not prepared.*Run the sweep again"):
            read("toy", TASK, root)
    stored(root)
    check("toy", TASK, root)


def test_a_manifest_edited_by_hand_is_not_valid(root: Path) -> None:
    path = root / "toy/dots/manifest.json"
    content = json.loads(path.read_text())
    content["splits"]["val"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(content))
    assert Manifest.read(path.parent) is None


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_torn_file_is_named_with_what_to_do(name: str, root: Path) -> None:
    path = root / f"toy/dots/{name}.arrow"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b"", None):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        else:
            path.with_name("elsewhere").touch()
        for use in (
            lambda: open_search("toy", TASK, root),
            lambda: open_final("toy", TASK, root),
            lambda: check("toy", TASK, root),
            lambda: current(SUITE, TASK, root),
        ):
            with pytest.raises(DataError, match=rf"{path}' is damaged.*Delete the folder.*again"):
                use()
        stored(root)  # what it is made of is at hand
        check("toy", TASK, root)


def test_damage_that_keeps_the_size_is_found(root: Path) -> None:
    path = root / "toy/dots/train.arrow"
    whole = path.read_bytes()
    images = made()["train"][0].tobytes()
    pixel = bytearray(whole)
    pixel[whole.index(images) + 7] ^= 1
    path.write_bytes(bytes(pixel))
    open_search("toy", TASK, root)  # not read in full
    with pytest.raises(DataError, match="another fingerprint"):
        check("toy", TASK, root)
    path.write_bytes(b"?" * len(whole))
    with pytest.raises(DataError, match="damaged"):
        open_search("toy", TASK, root)


def test_labels_out_of_range_are_found_on_opening(root: Path) -> None:
    folder = root / "toy/dots"
    (folder / "val.arrow").unlink()
    with arrow.filling(folder / "val.arrow", made()["val"][1] + 4, SIDE, 4):
        pass
    with pytest.raises(DataError, match="labels outside 0…3"):
        open_search("toy", TASK, root)


PREPARING = """
import sys, time
from pathlib import Path
from tests.data.toys import made, stored

def make():
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    time.sleep(0.5)
    return made()

print(stored(Path(sys.argv[1]), make).identity.search)
"""


def test_two_processes_prepare_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARING, str(tmp_path / "root"), str(tmp_path / "log")]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    identities = {process.communicate(timeout=60)[0].strip() for process in started}
    assert identities == {identity("toy", TASK, tmp_path / "root").search}
    assert (tmp_path / "log").read_text() == "made\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.data.prepared import prepare
from tests.data.toys import stored
prepare.%s = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
stored(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("moment", "left"), [("require_space", 0), ("write_whole", 1), ("_replace", 4)]
)
def test_what_a_killed_process_left_is_completed(moment: str, left: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED % moment, str(tmp_path)]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -9
    with pytest.raises(DataError, match="not prepared"):
        open_search("toy", TASK, tmp_path)
    assert len(list((tmp_path / "toy/.dots.draft").iterdir())) == left
    stored(tmp_path)
    check("toy", TASK, tmp_path)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [".dots.lock", "dots"]
    assert len(list((tmp_path / "toy/dots").iterdir())) == 4


def test_too_little_space_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**19))
    with pytest.raises(DataError, match=r"only 0 MiB are free.*ORCHESTRATE_DATA"):
        stored(tmp_path)
    assert not (tmp_path / "toy" / "dots").exists()
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/store.*ORCHESTRATE_DATA"):
        stored(tmp_path / "file" / "store")


def test_the_default_root_follows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATE_DATA", "/somewhere/else")
    assert default_root() == Path("/somewhere/else")
    monkeypatch.delenv("ORCHESTRATE_DATA")
    assert default_root() == Path.home() / ".cache/orchestrate/data"


def test_the_code_that_makes_a_suite_is_part_of_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toymaker"
    package.mkdir()
    code = "from tests.data.toys import made\ndef make(task):\n    return made()\n"
    (package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = GeneratedSource("toymaker", ("numpy",), TASK)
    first = source.state("train")
    known = prepare(SUITE, TASK, source, tmp_path / "root")
    assert known.identity == identity("toy", TASK, tmp_path / "root")
    (package / "__init__.py").write_text(code + "# changed\n")
    assert source.state("train") != first


def test_presence_has_the_fingerprint_that_pools_compare(mini_data: Path) -> None:
    found = presence(MINI.store, MINI.tasks, mini_data)
    assert {p.task: p.fingerprint for p in found} == {
        task.name: identity(MINI.store, task, mini_data).final for task in MINI.tasks
    }


def test_presence_names_the_problem_of_each_task(mini_data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mini_data, tmp_path / "data")
    first, second, third, *_ = (task.name for task in MINI.tasks)
    shutil.rmtree(root / MINI.store / first)
    (root / MINI.store / second / "manifest.json").unlink()
    (root / MINI.store / third / "val.arrow").write_bytes(b"cut")
    problems = {p.task: p.problem for p in presence(MINI.store, MINI.tasks, root)}
    assert [problems[name] for name in (first, second, third)] == ["missing", "partial", "damaged"]
    assert set(problems.values()) == {"missing", "partial", "damaged", ""}
    assert {p.problem for p in presence("mini", MINI.tasks, tmp_path)} == {"missing"}
