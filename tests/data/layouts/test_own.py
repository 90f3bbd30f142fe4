"""A user's own suite: folders, lists, Parquet; and val as a share of train."""

from __future__ import annotations

import os
import random
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.layouts import LAYOUTS, parquet
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
    (train / "parrot" / "more").mkdir()
    (train / "parrot" / "a.heic").write_text("")
    image = next((train / "triumph").iterdir())
    shutil.copy(image, train / "triumph" / f"{image.name}_original")
    for harmless in (".DS_Store", "parrot/.hidden", "parrot/thumbs.DB", "README.md"):
        (train / harmless).write_text("")
    shutil.rmtree(garden / "tulips" / "val")
    problem = "\n".join(read(garden, "tulips").problems)
    assert "loose.JPG: this image lies in no class folder" in problem
    assert "parrot/a.heic: images of this kind are not read" in problem
    assert "_original: this is an image, but not by its name" in problem
    assert "parrot/more: this folder lies in a class folder" in problem
    assert f"{garden}/tulips/val: this folder cannot be read (No such file" in problem
    assert len(problem.splitlines()) == 5


def test_files_that_are_no_images_are_left_out_with_a_note(garden: Path) -> None:
    there = read(garden, "tulips")
    train = garden / "tulips" / "train"
    for name in ("parrot/notes.txt", "parrot/a.xml", "triumph/b.xml", "triumph/LICENSE"):
        (train / name).write_text("P6 or so")
    os.mkfifo(train / "parrot" / "pipe")
    listing = read(garden, "tulips")
    assert (listing.problems, counts(listing)) == ((), counts(there))
    (note,) = listing.notes
    assert "5 files that are no images (.xml 2, " in note and str(train / "parrot/a.xml") in note


COMPOSED, APART = (unicodedata.normalize(form, "Gänseblümchen") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("written", "there"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_names_may_differ_in_unicode_form(garden: Path, written: str, there: str) -> None:
    """As they do after a copy between systems: folders, class folders, lists, images."""
    (garden / "tulips").rename(garden / there)
    for split, name in (("train", there), ("test", there), ("val", written)):
        (garden / there / split / "parrot").rename(garden / there / split / name)
    old = GARDEN[GARDEN.index("[parrot") : GARDEN.index("  weeds")]
    new = old.replace("parrot", written).replace("tulips/", f"{written}/")
    for classes in (new, new.replace(f"[{written}, triumph, viridiflora]", "3")):
        listing = read(garden, "tulips", old, classes)
        assert listing.problems == ()
        assert counts(listing) == {"train": 30, "val": 6, "test": 10}
        assert listing.classes[0] == COMPOSED
    (garden / there / "train" / written).mkdir()
    assert "names differ in Unicode form only" in only(read(garden, "tulips", old, new))

    (garden / "weeds" / "train").rename(garden / "weeds" / there)
    first = sorted((garden / "weeds" / there).iterdir())[0]
    first.rename(first.with_name(f"{there}{first.suffix}"))
    for path in (garden / "weeds").glob("*.txt"):
        text = path.read_text().replace(f"train/{first.name}", f"train/{written}{first.suffix}")
        path.write_text(text.replace("train/", f"{written}/"))
    (garden / "weeds" / "train.txt").rename(garden / "weeds" / f"{there}.txt")
    listing = read(garden, "weeds", "train: weeds/train.txt", f"train: weeds/{written}.txt")
    assert (listing.problems, counts(listing)["train"]) == ((), 30)


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


def test_lists_may_name_the_classes(garden: Path) -> None:
    there = [item.label for item in read(garden, "weeds").splits["train"]]
    names = ["dock", "nettle", "thistle", "moss"]
    path = garden / "weeds" / "train.txt"
    lines = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{image} {names[int(label)]}\n" for image, label in lines))
    listing = read(garden, "weeds", "classes: 4", f"classes: [{', '.join(names)}]")
    assert (listing.problems, [i.label for i in listing.splits["train"]]) == ((), there)


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


def test_rows_are_read_in_batches_over_files_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH", 4)
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        rows = range(20 * number, 20 * number + (20 if number != 1 else 0))
        write_parquet(path, [(bytes([row]), "", 0) for row in rows], struct=False, group=10)
    rows = [*range(20), *range(40, 60)]
    table, groups = ImageColumn(paths, "image"), list[int]()
    real = ImageColumn._read_group

    def read_group(self: ImageColumn, group: int) -> Any:
        groups.append(group)
        return real(self, group)

    monkeypatch.setattr(ImageColumn, "_read_group", read_group)
    assert table.rows == 40
    assert [table.locate(row) for row in (0, 19, 20, 39)] == [
        (paths[0], 0), (paths[0], 19), (paths[2], 0), (paths[2], 19),
    ]  # fmt: skip
    near = random.Random(0).sample(range(10), 10)
    order = [ten + index for ten in range(0, 40, 10) for index in near]
    assert [table.image(row)[0] for row in order] == [rows[row] for row in order]
    assert groups == [0, 1, 3, 4]  # 2 has no rows
    assert [table.image(row)[0] for row in (29, 0, 1, 35, 39, 31)] == [49, 0, 1, 55, 59, 51]
    assert len(table._batches) <= 4


@pytest.mark.long
def test_row_groups_larger_than_an_arrow_array_are_read(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    image = pa.array([{"bytes": bytes(2**20), "path": None}], kind)
    columns = {"image": pa.chunked_array([image] * 2100), "label": pa.array([0] * 2100)}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path, use_dictionary=False, compression="zstd")
    table = ImageColumn([path], "image")
    assert table._ends == [2100]  # one row group, of 2.1 GiB
    for row in (0, 3, 2099):
        assert table.image(row) == bytes(2**20)


def test_rows_without_bytes_are_reported_when_they_are_read(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": "/etc/passwd"}, None], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    table = ImageColumn([tmp_path / "x.parquet"], "image")
    for row in range(2):
        with pytest.raises(OSError, match="no image bytes"):
            table.image(row)


def written(path: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path)


LABELS: Mapping[str, tuple[str, pa.Array, list[int]]] = {
    "bool, names of truth": ("[yes, no]", pa.array([True, False, True]), [0, 1, 0]),
    "bool, other names": ("[cat, dog]", pa.array([True, False, True]), [1, 0, 1]),
    "bool, a number": ("2", pa.array([True, False, True]), [1, 0, 1]),
    "text, names": ("[dog, cat]", pa.array(["cat", "dog", "dog"]), [1, 0, 0]),
    "text, a number": ("2", pa.array(["cat", "dog", "dog"], pa.large_string()), [0, 1, 1]),
    "text view": ("[dog, cat]", pa.array(["cat", "dog", "dog"], pa.string_view()), [1, 0, 0]),
    "text of digits": ("3", pa.array(["0", "2", "1"]), [0, 2, 1]),
    "bytes": ("[dog, cat]", pa.array([b"cat", b"dog", b"dog"]), [1, 0, 0]),
    "dictionary": ("[dog, cat]", pa.array(["cat", "dog", "dog"]).dictionary_encode(), [1, 0, 0]),
    "dictionary of numbers": ("2", pa.array([1, 0, 0]).dictionary_encode(), [1, 0, 0]),
    "float": ("2", pa.array([1.0, 0.0, 0.0], pa.float32()), [1, 0, 0]),
    "decimal": ("2", pa.array([1, 0, 0], pa.decimal128(3)), [1, 0, 0]),
    "numbers that are names": ("[3, 7]", pa.array([7, 3, 3]), [1, 0, 0]),
    "numbers, other names": ("[cat, dog]", pa.array([1, 0, 0], pa.uint64()), [1, 0, 0]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_read_whatever_their_type(garden: Path, case: str) -> None:
    classes, labels, wanted = LABELS[case]
    images = pa.array([b"a", b"b", b"c"], pa.binary_view())
    for split in ("train", "test"):
        written(garden / "ferns" / f"{split}.parquet", image=images, label=labels)
    (garden / "garden.yaml").write_text(
        GARDEN.replace("classes: 5", f"classes: {classes}").replace(
            "val: 0.3333, test: ferns/test", "val: ferns/train.parquet, test: ferns/test"
        )
    )
    suite = read_suite(garden / "garden.yaml")
    listing = LAYOUTS["files"](garden, suite.task("ferns"), suite.files["ferns"])
    assert [p for p in listing.problems if "both train and val" not in p] == []
    assert [item.label for item in listing.splits["test"]] == wanted
    assert [item.read() for item in listing.splits["train"]] == [b"a", b"b", b"c"]


def test_a_text_that_is_no_class_is_named(garden: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["cat", "Dog"])):
        written(
            garden / "ferns" / f"{split}.parquet",
            image=pa.array([b"a", b"b"]), label=pa.array(names),
        )  # fmt: skip
    problem = only(read(garden, "ferns", "classes: 5", "classes: [cat, dog]"))
    assert problem.endswith("test.parquet, row 1: the label is Dog; allowed: cat, dog.")
    problem = only(read(garden, "ferns", "classes: 5", "classes: 2"))
    assert "3 different texts (Dog, cat, dog); the suite says 2 classes" in problem


def shard(garden: Path) -> None:
    """Train in three files and test in two, named as on the hub, in the folder `hub[1]`."""
    (garden / "hub[1]").mkdir()
    for split, count in (("train", 3), ("test", 2)):
        table = pq.read_table(garden / "ferns" / f"{split}.parquet")
        size = -(-len(table) // count)
        for number in range(count):
            name = f"{split}-{number:05d}-of-{count:05d}.parquet"
            pq.write_table(table[number * size :][:size], garden / "hub[1]" / name, 4)


TRAIN_SHARDS = ", ".join(f"'hub[1]/train-0000{number}-of-00003.parquet'" for number in range(3))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("'hub[1]/train-*.parquet'", "'hub[1]/test-0000?-of-00002.parquet'"),
        ("'hub[1]'", "'hub[1]'"),
        (f"[{TRAIN_SHARDS}]", "['hub[1]/test-*']"),
    ],
    ids=["pattern", "folder", "list"],
)
def test_shards_are_one_split(garden: Path, train: str, test: str) -> None:
    whole = read(garden, "ferns")
    shard(garden)
    old = "{train: ferns/train.parquet, val: 0.3333, test: ferns/test.parquet}"
    listing = read(garden, "ferns", old, f"{{train: {train}, val: 0.3333, test: {test}}}")
    assert listing.problems == ()
    for split, items in listing.splits.items():
        there = whole.splits[split]
        assert [item.read() for item in items] == [item.read() for item in there]
        assert [item.label for item in items] == [item.label for item in there]
        assert len(listing.state(split)) == 64
    assert "train-00002-of-00003.parquet, row " in listing.splits["train"][-1].where


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ("'hub[1]/tr*-00001-*'", "lacks 2 of the 3 files train-…-of-00003.parquet"),
        ("'hub[1]/nothing-*'", "the pattern names no Parquet file"),
        ("tulips", "tulips: it names no Parquet file"),
        ("'hub[1]/*'", "is named as both train and test"),
        ("['hub[1]/train-*', 'hub[1]/train-00001-of-00003.parquet']", "of train is named twice"),
    ],
)
def test_wrong_shards_are_reported(garden: Path, train: str, problem: str) -> None:
    shard(garden)
    old = "{train: ferns/train.parquet, val: 0.3333, test: ferns/test.parquet}"
    new = f"{{train: {train}, val: 0.3333, test: 'hub[1]/test-*'}}"
    assert problem in "".join(read(garden, "ferns", old, new).problems)


def test_problems_of_parquet_files_are_reported(garden: Path) -> None:
    test = garden / "ferns" / "test.parquet"
    images = pa.array([b"a", b"b", b"c"])
    cases: Mapping[str, dict[str, pa.Array]] = {
        "row 1: the label is 5; allowed: 0…4": {"image": images, "label": pa.array([0, 5, 1])},
        "row 2: the label is none": {"image": images, "label": pa.array([0, 1, None])},
        "row 0: the label is a; allowed: 0…4": {
            "image": images,
            "label": pa.array(["a", "1", "2"]),
        },
        "row 1: the label is 0.5; allowed: 0…4": {"image": images, "label": pa.array([0, 0.5, 1])},
        "row 1: the label is nan; allowed: 0…4": {
            "image": images,
            "label": pa.array([0, float("nan"), 1]),
        },
        "column 'label' is list<element: int64>; allowed: numbers, texts": {
            "image": images,
            "label": pa.array([[0], [1], [2]]),
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
    for double in ("label", "image"):
        other = "image" if double == "label" else "label"
        pq.write_table(pa.table([images, images, images], names=[double, other, double]), test)
        assert f"2 columns are called '{double}'" in only(read(garden, "ferns"))
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
