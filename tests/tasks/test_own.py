"""A user's own suite: what its YAML file may contain, and the messages for a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.spec import Recipe, Suite
from orchestrator.tasks import SUITES, suite
from orchestrator.tasks.own import read_suite
from tests.trees import GARDEN

TASK = "  a:\n    classes: 2\n    folders: {train: x, val: 0.2, test: y}\n"
FILE = f"name: g\ntasks:\n{TASK}"


def read(folder: Path, text: str) -> Suite:
    file = folder / "suite.yaml"
    file.write_text(text)
    return read_suite(file)


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(folder, text)
    assert str(folder / "suite.yaml") in str(caught.value)
    return str(caught.value)


def test_the_fields_of_the_file_are_the_suites(tmp_path: Path) -> None:
    garden = read(tmp_path, GARDEN)
    assert (garden.name, garden.layout, garden.variable) == ("garden", "files", "")
    assert [(task.name, task.group, task.classes) for task in garden.tasks] == [
        ("tulips", "all", 3),
        ("weeds", "[/x]", 4),
        ("ferns", "all", 5),
    ]
    assert garden.task("weed").name == "weeds"
    assert garden.recipe == Recipe(epochs=2, warmup_epochs=1, batch=8, lr=0.01, precision="auto")
    assert garden.default_tasks == ("tulips", "weeds", "ferns")
    assert (garden.default_adapters, garden.sampler) == (("linear",), "grid")
    assert garden.backbone == SUITES["vtab"].backbone


def test_every_option_can_be_given(tmp_path: Path) -> None:
    text = (
        "name: g\ntasks:\n  a:\n    classes: 2\n    train: 5\n    val: 6\n    test: 7\n"
        "    lists: {root: ., train: t, val: v, test: e}\n    aliases: [b]\n"
        "backbone: vit_mini\nrecipe: {lr: 5e-3, normalisation: half}\ndefault_tasks: [b]\n"
        "default_adapters: [lora]\nsampler: random\nstopping: none\ntrials: 4\nseeds: 2\n"
        "replicate: 1\nspaces: {lora: {rank: [2]}}\nside: 32\nview: centre\n"
    )
    made = read(tmp_path, text)
    task = made.task("a")
    assert (task.train, task.val, task.test) == (5, 6, 7)
    assert made.recipe == Recipe(lr=0.005, normalisation="half", precision="auto")
    assert (made.backbone, made.sampler, made.stopping) == ("vit_mini", "random", "none")
    assert made.default_tasks == ("a",)
    assert (made.trials, made.seeds, made.replicate) == (4, 2, 1)
    assert (made.spaces, made.side, made.view) == ({"lora": {"rank": [2]}}, 32, "centre")


def test_paths_are_relative_to_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "suite.yaml").write_text(
        f"name: g\ntasks:\n  a:\n    classes: 2\n"
        f"    folders: {{train: x/../../train, val: 0.25, test: {tmp_path}/elsewhere}}\n"
    )
    monkeypatch.chdir(tmp_path)
    files = suite("suite.yaml").files["a"]
    assert files["folders"] == {
        "train": str(tmp_path.parent / "train"),
        "val": 0.25,
        "test": str(tmp_path / "elsewhere"),
    }
    assert files["inside"] == str(tmp_path)
    assert json.loads(json.dumps(files)) == files


def test_warm_up_keeps_its_tenth_of_fewer_epochs(tmp_path: Path) -> None:
    for epochs, warmup in ((20, 2), (1, 0), (5, 0), (100, 10)):
        made = read(tmp_path, f"{FILE}recipe: {{epochs: {epochs}}}\n")
        assert (made.recipe.epochs, made.recipe.warmup_epochs) == (epochs, warmup)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("[no, yes]", ["no", "yes"]),
        ("[On, OFF, true, null, ~]", ["On", "OFF", "true", "null", "~"]),
        ("[007, 1_000, 0x1f, 1.50, 12:30, 1e3]", ["007", "1_000", "0x1f", "1.50", "12:30", "1e3"]),
        ("[2024-01-01, .inf, 'no']", ["2024-01-01", ".inf", "no"]),
        ("\n    - no\n    - 1", ["no", "1"]),
    ],
)
def test_names_are_texts_as_they_are_written(
    tmp_path: Path, classes: str, names: list[str]
) -> None:
    text = FILE.replace("classes: 2", f"classes: {classes}").replace(" a:", " no:")
    made = read(tmp_path, text.replace("name: g", "name: 007") + "default_tasks: [no]\n")
    assert made.files["no"]["classes"] == names
    assert (made.name, made.default_tasks) == ("007", ("no",))


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        (f"tasks:\n{TASK}", ["'name' is missing"]),
        ("name: g\n", ["'tasks' is missing"]),
        ("name: g\ntasks: {}\n", ["'tasks' is {}", "at least 1"]),
        ("name: g\ntasks: [a]\n", ["'tasks' is ['a']"]),
        (FILE.replace("g", "vtab", 1), ["'name' is 'vtab'", "taken", "fgvc"]),
        (FILE.replace("g", "a/b", 1), ["'name' is 'a/b'", "letters"]),
        (FILE.replace("g", ".hidden", 1), ["'name' is '.hidden'", "starts with no '.'"]),
        (FILE.replace("g", "'g\n'", 1), ["'name'", "letters"]),
        (FILE + "samplr: tpe\n", ["'samplr'", "allowed", "sampler"]),
        (FILE + "seeds: 0\n", ["'seeds' is 0", "greater than or equal to 1"]),
        (FILE + "side: 8\n", ["'side' is 8", "16"]),
        (FILE + "view: all\n", ["'view' is 'all'", "centre"]),
        (FILE + "recipe: {lrr: 1}\n", ["'recipe'", "'lrr'", "'lr'"]),
        (FILE + "recipe: {epochs: 0}\n", ["'epochs' is 0", "at least 1"]),
        (FILE + "recipe: {batch: x}\n", ["'batch'", "int", "'x'"]),
        (FILE + "recipe: {epochs: 3, warmup_epochs: 3}\n", ["'warmup_epochs' is 3", "epochs (3)"]),
        (FILE + "default_tasks: [b]\n", ["'default_tasks' has 'b'", "a."]),
        (FILE.replace(" a:", " ../a:"), ["'tasks.../a'", "letters"]),
        (FILE.replace(" a:", " all:"), ["'tasks.all'", "taken"]),
        (FILE.replace(" 2\n", " 1\n"), ["'tasks.a.classes' is 1", "from 2"]),
        (FILE.replace(" 2\n", " [\u00e9, e\u0301]\n"), ["'tasks.a.classes' is", "different names"]),
        (FILE.replace(" 2\n", " [a, '']\n"), ["'tasks.a.classes' is ['a', '']", "different names"]),
        (
            FILE.replace("train: x", "train: [x, y]"),
            ["'tasks.a.folders.train' is ['x', 'y']", "path"],
        ),
        (
            FILE.replace("folders: {train: x", "parquet: {train: [x, 3]"),
            ["'tasks.a.parquet.train' is ['x', 3]", "a path, a pattern, or a list of them"],
        ),
        (
            FILE.replace("folders: {train: x", "parquet: {train: []"),
            ["'tasks.a.parquet.train' is []"],
        ),
        (FILE.replace(" 2\n", " [x, x]\n"), ["'tasks.a.classes' is ['x', 'x']", "different names"]),
        (FILE.replace("0.2", "1.5"), ["'tasks.a.folders.val' is 1.5", "above 0 and below 1"]),
        (FILE.replace("train: x", "train: 0.5"), ["'tasks.a.folders.train' is 0.5", "path"]),
        (
            FILE.replace("val:", "vall:"),
            ["'tasks.a.folders.val' is missing", "'tasks.a.folders.vall'", "train, val, test"],
        ),
        (
            FILE + "    lists: {root: r, train: x, val: 0.2, test: y}\n",
            ["'tasks.a'", "has folders and lists", "one of folders, lists, parquet"],
        ),
        ("name: g\ntasks:\n  a: {classes: 2}\n", ["'tasks.a'", "does not say where"]),
        (
            FILE + TASK.replace("a:", "b:") + "    aliases: [A]\n",
            ["'tasks.b'", "the name 'A' is task 'a' as well"],
        ),
        ("[1, 2]\n", ["mapping"]),
        ("name: [\n", ["not valid YAML", "line 2"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    tmp_path: Path, text: str, fragments: list[str]
) -> None:
    message = complaint(tmp_path, text)
    assert not [fragment for fragment in fragments if fragment not in message], message


def test_all_wrong_fields_are_reported_at_once(tmp_path: Path) -> None:
    message = complaint(tmp_path, "name: .g\ntrials: 0\ntasks:\n  a: {classes: 0, grup: x}\n")
    for name in ("name", "trials", "tasks.a.classes", "tasks.a.grup"):
        assert f"'{name}' is" in message
    message = complaint(tmp_path, FILE + "recipe: {lr: -1, batch: 0}\ndefault_tasks: [q]\n")
    assert all(f in message for f in ("'lr' is -1", "'batch' is 0", "'default_tasks' has 'q'"))
