"""The benchmarks' folders as listings, and every problem that their lists can have."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.data.layouts import LAYOUTS, vtab_val, write_val_lists
from orchestrator.data.layouts.tree import ListEntry
from orchestrator.data.listing import Listing
from orchestrator.errors import DataError, InvalidInput
from orchestrator.tasks import SUITES
from tests.trees import make_fewshot, make_fgvc, make_vtab, shown_labels

TRAIN, VAL, TEST = "train800.txt", "val200.txt", "test.txt"
PETS = "oxford-pets-1shot-seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_vtab(root / "vtab", ["kitti"], train=12, val=4, test=6)
    make_fgvc(root / "fgvc", ["oxford_flowers"], val=5, test=6)
    make_fewshot(root / "fewshot", [PETS], train=12, val=4, test=6)
    return root


@pytest.fixture
def vtab(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "vtab", tmp_path / "vtab"))


@pytest.fixture
def fgvc(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "fgvc", tmp_path / "fgvc"))


@pytest.fixture
def fewshot(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "fewshot", tmp_path / "fewshot"))


def read(suite: str, task: str, root: Path) -> Listing:
    return LAYOUTS[suite](root, SUITES[suite].task(task), {})


def kitti(root: Path) -> Listing:
    return read("vtab", "kitti", root)


def flowers(root: Path) -> Listing:
    return read("fgvc", "oxford_flowers", root)


def counts(listing: Listing) -> dict[str, int]:
    return {name: len(items) for name, items in listing.splits.items()}


def paths(listing: Listing, split: str) -> list[Path]:
    items = listing.splits[split]
    return [Path(item.identity) for item in items]


def change(path: Path, edit: Callable[[list[str]], None]) -> None:
    """Edit a list's lines in place."""
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("".join(f"{line}\n" for line in lines))


def set_line(path: Path, number: int, text: str) -> None:
    change(path, lambda lines: lines.__setitem__(number - 1, text))


def only(listing: Listing) -> str:
    assert len(listing.problems) == 1, listing.problems
    return listing.problems[0]


# Correct lists


def test_vtab_lists_its_images_in_order(vtab: Path) -> None:
    listing = kitti(vtab)
    assert listing.problems == ()
    assert counts(listing) == {"train": 12, "val": 4, "test": 6}
    folder = vtab / "kitti"
    for name, file in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        lines = (folder / file).read_text().splitlines()
        for number, (line, item) in enumerate(zip(lines, listing.splits[name], strict=True), 1):
            path, label = line.split()
            assert item.identity == str(folder / path)
            assert item.where == f"{folder / file}:{number}: {folder / path}"
            assert item.label == int(label)
            assert item.read() == (folder / path).read_bytes()
            assert item.size() == (folder / path).stat().st_size


def test_fgvc_counts_the_ids_of_all_lists_from_0(fgvc: Path) -> None:
    listing = flowers(fgvc)
    assert listing.problems == ()
    assert counts(listing) == {"train": 102, "val": 5, "test": 6}
    assert listing.classes == tuple(map(str, range(1, 103)))
    assert [item.label for item in listing.splits["train"]] == list(range(102))
    listed = json.loads((fgvc / "OxfordFlower" / "test.json").read_text())
    assert [item.label for item in listing.splits["test"]] == [id - 1 for id in listed.values()]
    assert paths(listing, "test") == [fgvc / "OxfordFlower" / name for name in listed]


def test_fewshot_takes_the_draw_that_the_task_names(fewshot: Path) -> None:
    listing = read("fewshot", PETS, fewshot)
    assert listing.problems == ()
    assert counts(listing) == {"train": 12, "val": 4, "test": 6}
    assert {item.label for item in listing.splits["train"]} == set(shown_labels(37))
    assert {path.parent.parent for path in paths(listing, "train")} == {
        fewshot / "oxford-pets" / "images"
    }
    other = read("fewshot", "oxford-pets-2shot-seed1", fewshot)
    assert "train_meta.list.num_shot_2.seed_1: this list is missing" in only(other)


@pytest.mark.parametrize("task", ["cub", "dogs"])
def test_fgvc_finds_the_folder_of_images(tmp_path: Path, task: str) -> None:
    make_fgvc(tmp_path, [task], val=3, test=3)
    listing = read("fgvc", task, tmp_path)
    assert listing.problems == ()
    assert len(listing.splits["train"]) == SUITES["fgvc"].task(task).classes


@pytest.mark.parametrize("name", ["KITTI", "vtab-1k/Kitti_Dist"])
def test_a_task_folder_is_found_under_other_names(vtab: Path, name: str) -> None:
    (vtab / name).parent.mkdir(exist_ok=True)
    (vtab / "kitti").rename(vtab / name)
    listing = kitti(vtab)
    assert listing.problems == ()
    assert paths(listing, "test")[0].is_relative_to(vtab / name)


def test_the_exact_name_wins(vtab: Path) -> None:
    for other in ("KITTI", "kitti_distance", "vtab-1k/kitti"):
        (vtab / other).mkdir(parents=True)
    assert kitti(vtab).problems == ()


def test_lists_may_have_a_bom_crlf_blank_lines_and_spaces_in_paths(vtab: Path) -> None:
    folder = vtab / "kitti"
    (folder / "images" / "a  name of\u00a0words é.png").write_bytes(b"")
    lines = (folder / TRAIN).read_text().splitlines()
    text = "\ufeff" + "\r\n".join(["", *lines, "  ", "images/a  name of\u00a0words é.png\t3", ""])
    (folder / TRAIN).write_bytes(text.encode())
    (folder / "train800val200.txt").unlink()
    listing = kitti(vtab)
    assert listing.problems == ()
    last = listing.splits["train"][-1]
    assert last.identity.endswith("/a  name of\u00a0words é.png")
    assert (last.label, len(listing.splits["train"])) == (3, 13)
    assert f"{TRAIN}:15:" in last.where


def test_the_state_follows_lists_and_files_and_not_the_place(vtab: Path) -> None:
    before = {split: kitti(vtab).state(split) for split in ("train", "test")}
    moved = vtab.rename(vtab.with_name("moved"))
    assert {split: kitti(moved).state(split) for split in before} == before
    change(moved / "kitti" / TEST, lambda lines: lines.reverse())
    assert kitti(moved).state("train") == before["train"]
    assert kitti(moved).state("test") != before["test"]
    image = Path(kitti(moved).splits["train"][-1].identity)
    image.write_bytes(image.read_bytes() + b" ")
    assert kitti(moved).state("train") != before["train"]


def test_the_task_folder_and_what_stays_inside_may_be_links(vtab: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (vtab / "kitti").rename(elsewhere)
    (vtab / "kitti").symlink_to(elsewhere)
    images = elsewhere / "images"
    (images / "test").rename(images / "real")
    (images / "test").symlink_to("real")
    first = paths(kitti(vtab), "train")[0].name
    (images / "train800" / first).rename(images / first)
    (images / "train800" / first).symlink_to(f"../{first}")
    assert kitti(vtab).problems == ()


def test_folders_are_looked_at_and_not_each_file(
    vtab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = os.scandir

    def scandir(path: Path) -> object:
        seen.append(os.fspath(path))
        return real(path)

    def stat(self: Path, **_: object) -> os.stat_result:
        assert self.suffix not in (".jpg", ".png"), self
        return os.stat(self)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "stat", stat)
    assert kitti(vtab).problems == ()
    assert sorted(Path(path).name for path in seen) == ["test", "train800", "val200"]


# Problems


def test_a_missing_root_says_what_to_set(tmp_path: Path) -> None:
    for suite, task in (("vtab", "dtd"), ("fgvc", "cub"), ("fewshot", PETS)):
        problem = only(read(suite, task, tmp_path / "none"))
        assert str(tmp_path / "none") in problem and "does not exist" in problem
        assert f"{suite.upper()}_ROOT" in problem and "--suite-root" in problem
    (tmp_path / "file").write_text("")
    assert "is not a folder" in only(kitti(tmp_path / "file"))


def test_a_missing_task_folder_says_what_was_looked_for(vtab: Path) -> None:
    problem = only(read("vtab", "clevr_dist", vtab))
    for name in ("clevr_dist", "clevr_distance", "vtab-1k/", str(vtab), "VTAB_ROOT"):
        assert name in problem
    assert counts(read("vtab", "clevr_dist", vtab)) == {"train": 0, "val": 0, "test": 0}


def test_a_missing_list_leaves_the_others(vtab: Path) -> None:
    (vtab / "kitti" / VAL).unlink()
    listing = kitti(vtab)
    assert f"{vtab / 'kitti' / VAL}: this list is missing" in only(listing)
    assert counts(listing) == {"train": 12, "val": 0, "test": 6}


@pytest.mark.parametrize(
    ("line", "problem", "label"),
    [
        ("images/train800/000001.png", "not 'relative/path label'", None),
        ("{} x7", "the label is 'x7', not an integer", -1),
        ("{} ٣", "not an integer", -1),
        ("{} 4", "the label is 4; allowed: 0…3", 4),
        ("{} -1", "the label is -1; allowed: 0…3", -1),
        ("{} " + "9" * 5000, "allowed: 0…3", 10**9),
        ("../kitti/{} 1", "leaves its folder", None),
        ("/etc/passwd 1", "leaves its folder", None),
        ("images/../../other/x.jpg 1", "leaves its folder", None),
        ("images/a\0b/x.jpg 1", "leaves its folder", None),
        ("images/train800/none.jpg 1", "none.jpg' does not exist", None),
        ("images/train800 1", "train800' is not a file", None),
        ("images/train800/ 1", "is not a file", None),
        ("images/none/x.jpg 1", "images/none' does not exist", None),
        (f"images/{'n' * 300}/x.jpg 1", "cannot be read", None),
    ],
)
def test_a_wrong_line_is_named_and_the_rest_is_kept(
    vtab: Path, line: str, problem: str, label: int | None
) -> None:
    path = vtab / "kitti" / TRAIN
    image = path.read_text().splitlines()[1].split()[0]
    set_line(path, 2, line.format(image))
    listing = kitti(vtab)
    assert only(listing).startswith(f"{path}:2: ")
    assert problem in only(listing)
    labels = [item.label for item in listing.splits["train"]]
    assert len(labels) == (11 if label is None else 12)
    assert label is None or labels[1] == label


def test_images_of_an_absent_folder_are_one_problem(vtab: Path) -> None:
    shutil.rmtree(vtab / "kitti" / "images" / "test")
    problem = only(kitti(vtab))
    assert problem.startswith(f"{vtab / 'kitti' / TEST}:1: the folder ")
    assert "images/test' does not exist (6 listed images lie in it)" in problem


def test_an_image_listed_twice_or_in_two_splits_names_both_lines(vtab: Path) -> None:
    path = vtab / "kitti" / TRAIN
    first = path.read_text().splitlines()[0]
    set_line(path, 7, first.replace("images/", "images/./"))
    (vtab / "kitti" / "train800val200.txt").unlink()
    other = vtab / "kitti" / TEST
    change(other, lambda lines: lines.append(path.read_text().splitlines()[2]))
    twice, both = kitti(vtab).problems
    assert f"{path}:7: " in twice and f"first: {path}:1" in twice and "listed twice" in twice
    assert (
        f"{other}:7: " in both and f"first: {path}:3" in both and "in both train and test" in both
    )


def test_a_link_that_leads_out_is_reported(vtab: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jpg").write_bytes(b"x")
    images = vtab / "kitti" / "images"
    first = paths(kitti(vtab), "train")[0]
    first.unlink()
    first.symlink_to(outside / "x.jpg")
    second = paths(kitti(vtab), "val")[0]
    second.unlink()
    second.symlink_to(vtab / "nowhere.jpg")
    shutil.rmtree(images / "test")
    (images / "test").symlink_to(outside)
    problems = kitti(vtab).problems
    assert len(problems) == 3
    assert f"{TRAIN}:1: the image '{first}' is a link that leads out" in problems[0]
    assert f"{VAL}:1: the image '{second}' is a link to no file" in problems[1]
    assert f"images/test' leads out, to '{outside}'" in problems[2]


def test_a_sibling_whose_name_begins_alike_is_outside(vtab: Path) -> None:
    """`/x/vtab2` is not inside `/x/vtab`."""
    other = vtab.with_name("vtab2")
    shutil.copytree(vtab / "kitti", other)
    shutil.rmtree(vtab / "kitti" / "images" / "test")
    (vtab / "kitti" / "images" / "test").symlink_to(other / "images" / "test")
    assert "leads out" in only(kitti(vtab))


def test_what_is_no_utf8_names_its_line(vtab: Path) -> None:
    path = vtab / "kitti" / TEST
    path.write_bytes(path.read_bytes() + "images/test/é.jpg 1\n".encode("latin-1"))
    assert f"{path}:7: this is not UTF-8 text" in only(kitti(vtab))


def test_an_empty_list_is_named(vtab: Path) -> None:
    (vtab / "kitti" / TEST).write_text("\n \r\n")
    assert f"{vtab / 'kitti' / TEST}: it lists no image" in only(kitti(vtab))


def test_a_list_that_is_a_folder_is_reported(vtab: Path) -> None:
    (vtab / "kitti" / TEST).unlink()
    (vtab / "kitti" / TEST).mkdir()
    assert "cannot be read" in only(kitti(vtab))


def test_the_list_of_train_and_val_together_is_compared(vtab: Path) -> None:
    both = vtab / "kitti" / "train800val200.txt"
    set_line(both, 1, "images/train800val200/000000.jpg 3")
    problem = only(kitti(vtab))
    assert (
        str(both) in problem
        and "3 (5 times, there 4)" in problem
        and "0 (3 times, there 4)" in problem
    )
    change(both, lambda lines: lines.__delitem__(-1))
    assert f"{both}: it lists 15 images; {TRAIN} and {VAL} list 16" in only(kitti(vtab))
    both.unlink()
    assert kitti(vtab).problems == ()


def rewrite(path: Path, edit: Callable[[dict[str, object]], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=0))


def test_the_wrong_number_of_ids_names_both(fgvc: Path) -> None:
    path = fgvc / "OxfordFlower" / "test.json"
    rewrite(path, lambda content: content.update({next(iter(content)): 999}))
    problem = only(flowers(fgvc))
    assert "103 class ids" in problem and "102 classes" in problem


def test_ids_sort_as_numbers_or_else_as_text(fgvc: Path) -> None:
    folder = fgvc / "OxfordFlower"
    for split in ("train", "val", "test"):
        content = json.loads((folder / f"{split}.json").read_text())
        texts = {path: str(id) for path, id in content.items()}
        (folder / f"{split}.json").write_text(json.dumps(texts))
    assert [item.label for item in flowers(fgvc).splits["train"]] == list(range(102))
    for split in ("train", "val", "test"):
        content = json.loads((folder / f"{split}.json").read_text())
        texts = {path: f"c{id}" for path, id in content.items()}
        (folder / f"{split}.json").write_text(json.dumps(texts))
    listing = flowers(fgvc)
    assert listing.problems == ()
    assert listing.classes[:4] == ("c1", "c10", "c100", "c101")
    assert listing.splits["train"][1].label == listing.classes.index("c2")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(1.5, "1.5"), (True, "True"), ({"a": 1}, "an object")],
)
def test_an_id_that_is_none_is_reported(fgvc: Path, value: object, problem: str) -> None:
    path = fgvc / "OxfordFlower" / "val.json"
    rewrite(path, lambda content: content.update({next(iter(content)): value}))
    listing = flowers(fgvc)
    place = str(path) if isinstance(value, dict) else f"{path}:2"
    assert only(listing).startswith(f"{place}: the class id of 'jpg/image_")
    assert f"is {problem}, no integer or text" in only(listing)
    assert listing.splits["val"][0].label == -1


def test_a_key_given_twice_names_both_lines(fgvc: Path) -> None:
    path = fgvc / "OxfordFlower" / "val.json"
    key, id = next(iter(json.loads(path.read_text()).items()))
    path.write_text(f'{{\n"{key}": {id},\n\n"{key}":\n {id}}}')
    assert only(flowers(fgvc)).startswith(f"{path}:4: the image '{key}' is listed twice")
    assert f"first: {path}:2" in only(flowers(fgvc))


def test_lines_of_json_are_not_misled_by_strings(fgvc: Path) -> None:
    path = fgvc / "OxfordFlower" / "val.json"
    path.write_text('{"a\\"b: c.jpg" : "x\\": y",\n "no such.jpg": 1}')
    problems = flowers(fgvc).problems
    assert any(problem.startswith(f"{path}:1: the image") for problem in problems)
    assert any(problem.startswith(f"{path}:2: the image") for problem in problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n"a.jpg": 1,\n}', ":3: this is not JSON"),
        ("[]", "must be one object"),
        ("{}", "lists no image"),
        ("[" * 100_000, "cannot be read"),
        ('{"../a.jpg": 1}', "leaves its folder"),
    ],
)
def test_json_that_is_no_list_is_reported(fgvc: Path, text: str, problem: str) -> None:
    path = fgvc / "OxfordFlower" / "val.json"
    path.write_text(text)
    assert [p for p in flowers(fgvc).problems if p.startswith(str(path)) and problem in p]


def test_images_beside_the_annotations_are_found(fewshot: Path) -> None:
    folder = fewshot / "oxford-pets"
    for part in (folder / "images").iterdir():
        part.rename(folder / part.name)
    (folder / "images").rmdir()
    assert read("fewshot", PETS, fewshot).problems == ()


def test_a_missing_first_image_does_not_mislead(fewshot: Path) -> None:
    """The folder of images is the one that has the first image of any list."""
    path = fewshot / "oxford-pets" / "annotations" / "train_meta.list.num_shot_1.seed_0"
    set_line(path, 1, "nowhere/x.jpg 0")
    assert f"{path}:1: the folder" in only(read("fewshot", PETS, fewshot))


def only_both(vtab: Path) -> Path:
    """The task's folder with one list of train and val."""
    folder = vtab / "kitti"
    for name in (TRAIN, VAL):
        (folder / name).unlink()
    return folder


def test_a_list_of_train_and_val_alone_is_one_problem_with_the_choices(vtab: Path) -> None:
    folder = only_both(vtab)
    problem = only(kitti(vtab))
    assert problem.startswith(f"{folder}: it has train800val200.txt, but no train800.txt")
    assert "data split vtab --tasks kitti --val …" in problem
    assert "`--val last`" in problem and "`--val stratified`" in problem


@pytest.mark.parametrize("choice", ["last", "stratified"])
def test_the_choice_of_val_is_written_noted_and_checked(vtab: Path, choice: str) -> None:
    folder, suite = only_both(vtab), SUITES["vtab"]
    both = (folder / "train800val200.txt").read_text().splitlines()
    tasks = [suite.task("kitti")]
    assert write_val_lists(suite, tasks, vtab, choice) == {"kitti": True}
    listing = kitti(vtab)
    assert (listing.problems, counts(listing)) == ((), {"train": 13, "val": 3, "test": 6})
    assert f"`--val {choice}`" in listing.notes[0]
    val = (folder / VAL).read_text().splitlines()
    assert sorted([*val, *(folder / TRAIN).read_text().splitlines()]) == sorted(both)
    if choice == "last":
        assert val == both[-3:]
    else:  # four of each class: three of the four classes have one in val
        assert len({line.split()[1] for line in val}) == 3
    write_val_lists(suite, tasks, vtab, "last")  # one may change one's mind
    assert (folder / VAL).read_text().splitlines() == both[-3:]
    change(folder / VAL, lambda lines: lines.reverse())
    assert "are not what val200.choice ('last') makes" in only(kitti(vtab))
    (folder / "val200.choice").unlink()
    assert (kitti(vtab).problems, kitti(vtab).notes) == ((), ())
    assert write_val_lists(suite, tasks, vtab, choice) == {"kitti": False}, "they are one's own"


def test_wrong_choices_of_val_are_refused(vtab: Path) -> None:
    suite, folder = SUITES["vtab"], only_both(vtab)
    with pytest.raises(InvalidInput, match=r"unknown choice of val 'first'.*last, stratified"):
        write_val_lists(suite, suite.tasks, vtab, "first")
    with pytest.raises(InvalidInput, match="this command is for vtab"):
        write_val_lists(SUITES["fgvc"], SUITES["fgvc"].tasks, vtab, "last")
    set_line(folder / "train800val200.txt", 2, "x.jpg 9")
    with pytest.raises(DataError, match=r"no folder 'dtd'[\s\S]*txt:2: the label is 9"):
        write_val_lists(suite, [suite.task("dtd"), suite.task("kitti")], vtab, "last")


def test_a_stratified_val_has_its_share_of_every_class() -> None:
    labels = [0] * 500 + [1] * 303 + [2] * 190 + [3] * 7
    entries = [ListEntry("", f"{n}.jpg", label) for n, label in enumerate(labels)]
    train, val = vtab_val.split(entries, "stratified")
    assert Counter(entry.label for entry in val) == {0: 100, 1: 61, 2: 38, 3: 1}
    assert sorted([*train, *val]) == sorted(entries) and val == [e for e in entries if e in val]
    assert {e.path for e in val} != {e.path for e in vtab_val.split(entries, "last")[1]}
