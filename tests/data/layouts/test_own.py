"""A user's own suite: folders, lists, Parquet; and val as a share of train."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.layouts import LAYOUTS
from orchestrator.data.layouts.lists import hold_out
from orchestrator.data.layouts.parquet import ImageColumn
from orchestrator.data.layouts.tree import ListEntry
from orchestrator.data.listing import Listing
from orchestrator.tasks.own import read_suite
from tests.data.layouts.test_benchmarks import counts, only
from tests.trees import GARDEN, make_own, picture, write_parquet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    make_own(root, train=30, val=6, test=10)
    return root


@pytest.fixture
def garden(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "garden"))


def read(root: Path, name: str, old: str = "", new: str = "") -> Listing:
    """The listing of a task, after a change of the YAML file."""
    assert old in GARDEN
    (root / "garden.yaml").write_text(GARDEN.replace(old, new) if old else GARDEN)
    suite = read_suite(root / "garden.yaml")
    return LAYOUTS["files"](root, suite.task(name), suite.files[name])


# Folders


def test_folders_give_sorted_classes_and_images(garden: Path) -> None:
    listing = read(garden, "tulips")
    assert listing.problems == ()
    assert listing.classes == ("parrot", "triumph", "viridiflora")
    assert counts(listing) == {"train": 30, "val": 6, "test": 10}
    for split, items in listing.splits.items():
        places = [Path(item.identity) for item in items]
        assert places == sorted(places)
        assert all(place.parent.parent == garden / "tulips" / split for place in places)
        assert [listing.classes[item.label] for item in items] == [p.parent.name for p in places]


def test_the_order_of_named_classes_is_the_files(garden: Path) -> None:
    there = read(garden, "tulips")
    names = ("viridiflora", "parrot", "triumph")
    other = read(garden, "tulips", "[parrot, triumph, viridiflora]", f"[{', '.join(names)}]")
    assert other.classes == names
    assert other.splits["train"][0].label == 1
    assert other.state("train") != there.state("train")
    number = read(garden, "tulips", "[parrot, triumph, viridiflora]", "3")
    assert number.classes == there.classes
    assert number.state("test") == there.state("test")


def test_a_class_may_be_missing_in_one_split(garden: Path) -> None:
    shutil.rmtree(garden / "tulips" / "train" / "parrot")
    for classes in ("[parrot, triumph, viridiflora]", "3"):
        listing = read(garden, "tulips", "[parrot, triumph, viridiflora]", classes)
        assert listing.problems == ()
        assert {item.label for item in listing.splits["train"]} == {1, 2}
        assert {item.label for item in listing.splits["test"]} == {0, 1, 2}


@pytest.mark.parametrize("classes", ["[parrot, triumph, viridiflora]", "3"])
def test_a_stranger_is_named(garden: Path, classes: str) -> None:
    (garden / "tulips" / "test" / "darwin").mkdir()
    listing = read(garden, "tulips", "[parrot, triumph, viridiflora]", classes)
    problem = only(listing)
    assert problem.startswith(f"{garden}/tulips/test/darwin: this folder is no class")
    assert "parrot, triumph, viridiflora" in problem
    assert listing.classes == ("parrot", "triumph", "viridiflora")


def test_another_number_of_class_folders_names_both(garden: Path) -> None:
    problem = only(read(garden, "tulips", "[parrot, triumph, viridiflora]", "4"))
    assert "3 class folders" in problem and "4 classes" in problem


def test_what_lies_in_the_wrong_place_is_reported(garden: Path) -> None:
    train = garden / "tulips" / "train"
    (train / "loose.JPG").write_bytes(b"")
    (train / "parrot" / "notes.txt").write_text("")
    (train / "parrot" / "more").mkdir()
    for harmless in (".DS_Store", "parrot/.hidden", "parrot/Thumbs.db", "README.md"):
        (train / harmless).write_text("")
    shutil.rmtree(garden / "tulips" / "val")
    problem = "\n".join(read(garden, "tulips").problems)
    assert "loose.JPG: this image lies in no class folder" in problem
    assert "parrot/notes.txt: this is no image by its name" in problem
    assert "parrot/more: this folder lies in a class folder" in problem
    assert f"{garden}/tulips/val: this folder cannot be read (No such file" in problem
    assert len(problem.splitlines()) == 4


def test_an_empty_folder_is_reported(garden: Path) -> None:
    shutil.rmtree(garden / "tulips" / "val")
    (garden / "tulips" / "val").mkdir()
    assert "tulips/val: it has no image in a folder of a class" in only(read(garden, "tulips"))


def test_one_folder_for_two_splits_is_reported(garden: Path) -> None:
    (garden / "tulips" / "again").symlink_to("train")
    problem = only(read(garden, "tulips", "test: tulips/test", "test: tulips/again"))
    assert "named as both train and test" in problem


def test_links_may_lead_into_the_files_folder_and_no_further(garden: Path, tmp_path: Path) -> None:
    first = Path(read(garden, "tulips").splits["train"][0].identity)
    first.rename(garden / first.name)
    first.symlink_to(garden / first.name)
    assert read(garden, "tulips").problems == ()
    (garden / first.name).rename(tmp_path / first.name)
    first.unlink()
    first.symlink_to(tmp_path / first.name)
    assert "leads out" in only(read(garden, "tulips"))


# Lists


def test_lists_give_paths_below_their_root(garden: Path) -> None:
    listing = read(garden, "weeds")
    assert listing.problems == ()
    assert counts(listing) == {"train": 30, "val": 6, "test": 10}
    assert Path(listing.splits["val"][0].identity).parent == garden / "weeds" / "val"


def test_problems_of_lists_are_reported(garden: Path) -> None:
    with (garden / "weeds" / "test.txt").open("a") as file:
        file.write("train/000000.jpg 3\n../x.jpg 1\n")
    first, second = read(garden, "weeds").problems
    assert "test.txt:12: the path '../x.jpg' leaves its folder" in first
    assert "test.txt:11: the image 'train/000000.jpg' is listed in both train and test" in second


def test_a_share_of_a_list_is_held_out(garden: Path) -> None:
    listing = read(garden, "weeds", "val: weeds/val.txt", "val: 0.2")
    assert listing.problems == ()
    assert counts(listing) == {"train": 24, "val": 6, "test": 10}
    other = read(garden, "weeds", "val: weeds/val.txt", "val: 0.4")
    assert listing.state("val") != other.state("val")


def test_a_share_of_folders_is_the_same_wherever_they_lie(garden: Path, made: Path) -> None:
    def held(root: Path) -> list[str]:
        listing = read(root, "tulips", "val: tulips/val", "val: 0.3")
        assert counts(listing) == {"train": 21, "val": 9, "test": 10}
        return [str(Path(item.identity).relative_to(root)) for item in listing.splits["val"]]

    assert held(garden) == held(made)


# Parquet


def test_parquet_gives_the_bytes_of_its_rows(garden: Path) -> None:
    listing = read(garden, "ferns")
    assert listing.problems == ()
    assert counts(listing) == {"train": 20, "val": 10, "test": 10}
    table = pq.read_table(garden / "ferns" / "train.parquet").to_pylist()
    both = [*listing.splits["train"], *listing.splits["val"]]
    assert sorted(item.read() for item in both) == sorted(row["image"]["bytes"] for row in table)
    labels = {row["image"]["bytes"]: row["label"] for row in table}
    assert all(labels[item.read()] == item.label for item in both)
    assert len({item.identity for item in both}) == 30
    assert sum(item.size() for item in both) <= (garden / "ferns/train.parquet").stat().st_size


def test_a_column_of_bytes_and_other_names_are_fine(garden: Path) -> None:
    data = picture(1, 2).data
    table = pa.table({"img": pa.array([data], pa.large_binary()), "y": pa.array([4], pa.uint8())})
    pq.write_table(table, garden / "ferns" / "test.parquet")
    write = "test: ferns/test.parquet}"
    listing = read(garden, "ferns", write, write[:-1] + ", image: img, label: y}")
    assert [item.label for item in listing.splits["test"]] == [4]
    assert listing.splits["test"][0].read() == data
    assert "there is no column 'img'; it has ['image', 'label']" in "".join(listing.problems)


def test_row_groups_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [(bytes([index]), "", 0) for index in range(50)]
    write_parquet(tmp_path / "x.parquet", made, struct=False, group=10)
    table, groups = ImageColumn(tmp_path / "x.parquet", "image"), list[int]()
    real = pq.ParquetFile.read_row_group

    def read_row_group(self: Any, group: int, **options: Any) -> Any:
        groups.append(group)
        return real(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    assert table.rows == 50
    near = random.Random(0).sample(range(10), 10)
    order = [ten + index for ten in range(0, 50, 10) for index in near]
    assert [table.image(row) for row in order] == [bytes([row]) for row in order]
    assert groups == [0, 1, 2, 3, 4]
    assert [table.image(row)[0] for row in (39, 40, 38, 41)] == [39, 40, 38, 41]
    assert groups == [0, 1, 2, 3, 4]
    assert table.image(0) == b"\0"
    assert groups[5:] == [0]


def test_rows_without_bytes_are_reported_when_they_are_read(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": "/etc/passwd"}, None], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    table = ImageColumn(tmp_path / "x.parquet", "image")
    for row in range(2):
        with pytest.raises(OSError, match="no image bytes"):
            table.image(row)


def written(path: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path)


def test_problems_of_parquet_files_are_reported(garden: Path) -> None:
    test = garden / "ferns" / "test.parquet"
    images = pa.array([b"a", b"b", b"c"])
    cases: Mapping[str, dict[str, pa.Array]] = {
        "row 1: the label is 5; allowed: 0…4": {"image": images, "label": pa.array([0, 5, 1])},
        "row 2: the label is none": {"image": images, "label": pa.array([0, 1, None])},
        "column 'label' is string; allowed: integers": {
            "image": images,
            "label": pa.array(["a", "b", "c"]),
        },
        "column 'image' is int64; allowed: bytes": {
            "image": pa.array([1]),
            "label": pa.array([1]),
        },
        "it has no rows": {"image": images[:0], "label": pa.array([], pa.int8())},
    }
    for problem, columns in cases.items():
        written(test, **columns)
        assert only(read(garden, "ferns")).startswith(str(test))
        assert problem in only(read(garden, "ferns"))
    test.write_bytes(b"PAR1 and then nothing")
    assert f"{test}: this Parquet file cannot be read" in only(read(garden, "ferns"))
    test.unlink()
    assert f"{test}: this Parquet file is missing" in only(read(garden, "ferns"))


# Held out


@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    share=st.floats(0.01, 0.99),
)
def test_every_class_is_on_both_sides(labels: list[int], share: float) -> None:
    entries = [ListEntry("", f"{index}.jpg", label) for index, label in enumerate(labels)]
    train, val = hold_out(entries, share)
    assert sorted([*train, *val]) == sorted(entries)
    assert train == [e for e in entries if e in train] and val == [e for e in entries if e in val]
    there, held = Counter(e.label for e in train), Counter(e.label for e in val)
    for label, count in Counter(labels).items():
        assert there[label] >= 1
        assert (held[label] >= 1) == (count >= 2)
        assert abs(held[label] - share * count) <= 1
    mixed = random.Random(0).sample(entries, len(entries))
    assert set(hold_out(mixed, share)[1]) == set(val)


def test_the_choice_is_not_the_order_of_the_list() -> None:
    entries = [ListEntry("", f"{index:04d}.jpg", 0) for index in range(1000)]
    held = [int(entry.path[:4]) for entry in hold_out(entries, 0.5)[1]]
    assert 400 < sum(held) / len(held) < 600
