"""Suites on disk, from their folders to the registry: small trees in exactly the real layouts."""

from __future__ import annotations

import json
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import pytest
import torch
import yaml

from orchestrator import registry, sweep, tasks
from orchestrator.analysis import published
from orchestrator.planning.config import make_config
from tests import trees
from tests.commands import Here, check_once_each, events, garden, refused, results

QUICK = ["--backend", "local", "--backbone", "vit_mini", "--set", "batch=12", "--epochs", "1"]
ONE = ["--trials", "1", "--seeds", "1"]


@pytest.fixture
def vtab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here) -> Path:
    """The root of two VTAB tasks, named by the variable; prepared data beside it."""
    root = tmp_path / "vtab"
    trees.make_vtab(root, tasks=("kitti", "patch_camelyon"))
    monkeypatch.setenv("VTAB_ROOT", str(root))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    return root


@pytest.mark.long
@pytest.mark.timeout(300)
def test_all_of_vtab_from_folders_to_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    suite, out = tasks.suite("vtab"), tmp_path / "out"
    trees.make_vtab(tmp_path / "vtab")
    monkeypatch.setenv("VTAB_ROOT", str(tmp_path / "vtab"))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    command = ["sweep", "vtab", "--adapter", "hta", "--out", str(out)]
    shown = here([*command, *QUICK, *ONE])
    assert "notice: cifar has other numbers of images than vtab: train 36 instead of 800" in shown

    index = json.loads((out / "registry/index.json").read_text())
    classes = {(entry["task"], entry["adapter"]): entry["classes"] for entry in index["entries"]}
    assert classes == {(task.name, "hta"): task.classes for task in suite.tasks}
    model = registry.load(out / "registry", "sun397", "hta")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 397)
    rows = results(out).values()
    assert Counter(row.trial.stage for row in rows) == {"search": 19, "final": 19}
    assert "clean: in 38 honest trials no choice saw the test split" in here(["audit", str(out)])

    page = (out / "report.html").read_text()
    assert 'id="papers"' in page
    assert page.count("data:image/png;base64,") == 19
    for row in published.for_suite("vtab"):
        if row.name == "hta" and row.backbone.label.startswith("ViT-B/16"):
            assert f"{100 * row.accuracy['dsprites_ori']:.1f}" in page
    for mean in ("natural", "specialized", "structured"):
        assert f"mean of {mean}" in page

    started = len(events(out))
    here([*command, *QUICK, *ONE])
    assert len(events(out)) == started, "nothing was run again"
    check_once_each(out)


def test_a_moved_root_changes_nothing_and_prepared_data_needs_none(
    vtab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    command = ["sweep", "vtab", "--tasks", "kitti", "--adapter", "linear", *QUICK, *ONE]
    command += ["--out", str(tmp_path / "out")]
    here(command)
    started = len(events(tmp_path / "out"))
    vtab.rename(tmp_path / "elsewhere")
    monkeypatch.delenv("VTAB_ROOT")
    here([*command, "--suite-root", str(tmp_path / "elsewhere")])
    here(command)
    assert len(events(tmp_path / "out")) == started
    refused(
        here, ["sweep", "vtab", "--tasks", "dtd", *QUICK], "'vtab/dtd' is not prepared", "fetch"
    )


def test_another_export_of_the_images_is_another_sweep(
    vtab: Path, tmp_path: Path, here: Here
) -> None:
    command = ["sweep", "vtab", "--tasks", "kitti", "--adapter", "linear", *QUICK, *ONE]
    command += ["--out", str(tmp_path / "out")]
    here(command)
    image = vtab / "kitti" / (vtab / "kitti/train800.txt").read_text().split()[0]
    image.write_bytes(trees.picture(3, 999).data)
    refused(here, command, "data of kitti changed", "--out")


def spoil(vtab: Path, how: str) -> str:
    """Breaks the task kitti; returns what the message must name."""
    folder = vtab / "kitti"
    train = folder / "train800.txt"
    lines = train.read_text().splitlines()
    image = folder / lines[3].split()[0]
    if how == "cut":
        image.write_bytes(image.read_bytes()[:-40])
        return f"train800.txt:4: {image}"
    if how == "gone":
        image.unlink()
        return "train800.txt:4"
    if how == "list":
        (folder / "test.txt").unlink()
        return "test.txt"
    lines[3] = f"{image.relative_to(folder)} 4"
    train.write_text("\n".join(lines) + "\n")
    return "train800.txt:4"


@pytest.mark.parametrize("how", ["cut", "gone", "list", "label"])
def test_bad_data_is_named_with_its_line_and_the_rest_is_kept(
    how: str, vtab: Path, tmp_path: Path, here: Here
) -> None:
    where = spoil(vtab, how)
    command = ["sweep", "vtab", "--tasks", "kitti,patch_camelyon", "--adapter", "linear", *QUICK]
    refused(
        here,
        [*command, "--out", str(tmp_path / "out")],
        "1 of 2 tasks of 'vtab' cannot be used (kitti); prepared: 1",
        where,
        "--tasks",
    )
    assert (tmp_path / "data/vtab/patch_camelyon/manifest.json").exists()
    assert not (tmp_path / "data/vtab/kitti").exists()
    refused(here, ["data", "verify", "vtab", "--tasks", "kitti"], "problem: kitti", where)


def test_what_the_published_protocol_reports_is_set_beside_the_honest_one(
    tmp_path: Path, here: Here
) -> None:
    out = tmp_path / "out"
    command = ["sweep", garden(), "--tasks", "tulips", "--adapter", "linear", *QUICK]
    command += ["--epochs", "12", "--trials", "2", "--seeds", "2", "--out", str(out)]
    here(command)
    assert "LEAKS" not in (out / "report.html").read_text()
    shown = here([*command, "--protocol", "paper"])
    assert "protocol paper LEAKS" in shown
    rows = results(out).values()
    assert {r.trial.stage for r in rows if r.trial.protocol == "paper"} == {"search", "final"}
    for row in rows:
        reads = {"search": 0, "replicate": 0, "final": 1}[row.trial.stage]
        assert row.test_reads == (2 if row.trial.protocol == "paper" else reads)
        evaluated = [p.eval_accuracy for p in row.curve if p.eval_accuracy is not None]
        if row.trial.protocol == "paper":
            assert [p.epoch for p in row.curve if p.eval_accuracy is not None] == [10, 12]
            assert row.value == max(evaluated)
    page = (out / "report.html").read_text()
    assert 'id="inflation"' in page
    assert "tulips/linear/paper-leaks" in here(["status", str(out)])
    audited = here(["audit", str(out)])
    assert "clean" in audited and "(4 trials)" in audited
    (entry,) = json.loads((out / "registry/index.json").read_text())["entries"]
    assert (entry["protocol"], entry["leaks"]) == ("honest", False)


def test_the_published_protocol_alone_is_labelled_everywhere(tmp_path: Path, here: Here) -> None:
    out = tmp_path / "out"
    command = ["sweep", garden(), "--tasks", "tulips", "--adapter", "linear", *QUICK, *ONE]
    shown = here([*command, "--protocol", "paper", "--out", str(out)])
    assert "protocol paper LEAKS" in shown
    assert "LEAKS" in (out / "report.html").read_text().split("</title>")[0]
    assert "paper-leaks" in here(["status", str(out)])
    here(["audit", str(out)], code=1)
    (entry,) = json.loads((out / "registry/index.json").read_text())["entries"]
    assert entry["leaks"] and "test" in entry["warning"]
    with pytest.warns(UserWarning, match="test split"):
        registry.load(out / "registry", "tulips", "linear")


def test_fgvc_is_cropped_at_random_and_tested_at_the_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    out = tmp_path / "out"
    trees.make_fgvc(tmp_path / "fgvc")
    monkeypatch.setenv("FGVC_ROOT", str(tmp_path / "fgvc"))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    command = ["sweep", "fgvc", "--tasks", "flowers", "--adapter", "linear", *QUICK, *ONE]
    here([*command, "--out", str(out)])
    rows = results(out).values()
    assert {row.trial.recipe.augment for row in rows} == {"crop_flip"}
    manifest = json.loads((tmp_path / "data/fgvc/oxford_flowers/manifest.json").read_text())
    assert (manifest["side"], manifest["view"]) == (320, "centre")
    assert manifest["splits"]["test"]["encoded"] is True


def test_few_shot_tasks_are_read_from_their_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    trees.make_fewshot(tmp_path / "fewshot")
    monkeypatch.setenv("FEWSHOT_ROOT", str(tmp_path / "fewshot"))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    name = "oxford-pets-1shot-seed0"
    out = tmp_path / "out"
    shown = here(["sweep", "fewshot", "--tasks", name, "--adapter", "linear", *QUICK, *ONE,
                  "--out", str(out)])  # fmt: skip
    assert f"notice: {name}: no split has an image of classes 1…6, " in shown
    assert {row.trial.task for row in results(out).values()} == {name}


def test_a_suite_of_ones_own_runs_reports_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    file, out = trees.make_own(tmp_path / "own"), tmp_path / "out"
    command = ["sweep", str(file), *QUICK, *ONE, "--out", str(out)]
    here(command)
    assert {row.trial.task for row in results(out).values()} == {"tulips", "weeds", "ferns"}
    file.rename(tmp_path / "moved.yaml")  # what a folder holds does not depend on the file
    assert "tulips/linear" in here(["status", str(out)])
    here(["report", str(out)])
    content = yaml.safe_load((tmp_path / "moved.yaml").read_text())
    content["tasks"]["tulips"]["classes"] = ["parrot", "triumph"]
    file.write_text(yaml.safe_dump(content))
    refused(here, command, "garden/tulips", "viridiflora")


def test_the_data_commands_say_what_they_did(vtab: Path, tmp_path: Path, here: Here) -> None:
    shown = here(["data", "prepare", "vtab", "--tasks", "kitti"])
    assert "36 12 12" in shown and "prepared: " in shown
    shown = here(["data", "show", "vtab", "--tasks", "kitti", "--out", str(tmp_path / "sheets")])
    assert "kitti.png" in shown
    assert (tmp_path / "sheets/kitti.png").read_bytes().startswith(b"\x89PNG")
    here(["data", "fetch", "vtab", "--from", str(vtab), "--suite-root", str(tmp_path / "link")])
    assert (tmp_path / "link").resolve() == vtab.resolve()
    here(["data", "prepare", "vtab", "--tasks", "kitti", "--suite-root", str(tmp_path / "link")])


def test_a_person_chooses_the_val_of_a_folder_with_one_list(vtab: Path, here: Here) -> None:
    for name in ("train800.txt", "val200.txt"):
        (vtab / "kitti" / name).unlink()
    command = ["data", "prepare", "vtab", "--tasks", "kitti"]
    refused(here, command, "1 problem", "data split vtab", "--val last", "--val stratified")
    shown = here(["data", "split", "vtab", "--tasks", "kitti,patch_camelyon", "--val", "last"])
    assert "kitti: train and val are written" in shown and "camelyon: has its own" in shown
    assert "notice: kitti: val is the last fifth of train800val200.txt" in here(command)
    here(["data", "split", "vtab", "--tasks", "kitti", "--val", "stratified"])
    assert "notice: kitti: val is a fifth of each class" in here(command)


@pytest.mark.parametrize("spoilt", ["the folder is a file", "a sheet is a folder"])
def test_a_sweep_does_without_contact_sheets(
    spoilt: str, vtab: Path, tmp_path: Path, here: Here
) -> None:
    options = {"suite": "vtab", "tasks": "kitti", "backbone": "vit_mini", "set": {"batch": 12}}
    config = make_config({**options, "adapter": ("linear",), "out": tmp_path / "out"}, None)
    planned, messages = sweep.plan(config, sweep.Observer()), list[str]()
    (tmp_path / "out").mkdir()
    if spoilt == "the folder is a file":
        (tmp_path / "out/sheets").write_text("")
    else:
        (tmp_path / "out/sheets/kitti.png").mkdir(parents=True)
    sweep._write_sheets(planned, sweep.Observer(message=messages.append))
    assert len(messages) == 1 and "no contact sheet of 'kitti': " in messages[0]


def test_damaged_prepared_pixels_are_never_trained_on(
    vtab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    command = ["sweep", "vtab", "--tasks", "kitti", "--adapter", "linear", *QUICK, *ONE]
    here(["data", "prepare", "vtab", "--tasks", "kitti"])
    path = tmp_path / "data/vtab/kitti/train.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    out = ["--out", str(tmp_path / "out")]
    refused(here, [*command, *out], "train.arrow' is damaged", "another fingerprint", "Delete")


def test_a_sweep_that_could_not_start_does_not_keep_its_folder(
    vtab: Path, tmp_path: Path, here: Here
) -> None:
    command = ["sweep", "vtab", "--tasks", "kitti", "--adapter", "linear", *QUICK, *ONE]
    command += ["--out", str(tmp_path / "out")]
    refused(here, [*command, "--set", "batch=64"], "batch 64", "36 images", "--set batch=36")
    (tmp_path / "out").mkdir(exist_ok=True)
    here([*command, "--device", "cpu", "--width", "1", "--dry-run"])
    refused(here, [*command, "--device", "cuda:7"], "cuda:7")
    assert (tmp_path / "out/sweep.json").exists()
    here([*command, "--set", "batch=9"])  # nothing had come of it: it may still become another
    refused(here, [*command, "--set", "batch=8"], "another sweep", "batch=9")


def test_space_for_all_tasks_is_looked_for_first(
    vtab: Path, monkeypatch: pytest.MonkeyPatch, here: Here, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 9 * 2**20))
    refused(here, ["data", "prepare", "vtab", "--tasks", "kitti,patch_camelyon"], "only 9 MiB")
    assert not list(tmp_path.glob("data/vtab/*"))


def test_what_is_prepared_is_used_where_the_images_are_gone(
    vtab: Path, tmp_path: Path, here: Here
) -> None:
    here(["data", "prepare", "vtab", "--tasks", "kitti"])
    shutil.rmtree(vtab / "kitti")
    here(["data", "prepare", "vtab", "--tasks", "kitti"])
    refused(here, ["data", "prepare", "vtab", "--tasks", "kitti", "--data-root", "x"], "kitti")


def test_draws_of_a_few_shot_data_set_share_what_they_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    draws = tuple(f"oxford-pets-1shot-seed{seed}" for seed in (0, 1))
    trees.make_fewshot(tmp_path / "fewshot", tasks=draws)
    monkeypatch.setenv("FEWSHOT_ROOT", str(tmp_path / "fewshot"))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    here(["data", "prepare", "fewshot", "--tasks", ",".join(draws)])
    files = {
        split: {(tmp_path / "data/fewshot" / draw / f"{split}.arrow").stat().st_ino
                for draw in draws}
        for split in ("train", "val", "test")
    }  # fmt: skip
    assert {split: len(inodes) for split, inodes in files.items()} == {
        "train": 2, "val": 1, "test": 1,
    }  # fmt: skip


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, here: Here) -> None:
    file = trees.make_own(tmp_path / "own")
    text = file.read_text()
    again = "  tulips:\n    classes: 3\n    folders: {train: a, val: b, test: c}\n"
    file.write_text(text.replace("recipe:", again + "recipe:"))
    refused(here, ["data", "verify", str(file)], "garden.yaml", "'tulips' is given twice", "line")


def test_a_root_is_refused_where_there_is_nothing_to_name(tmp_path: Path, here: Here) -> None:
    file = trees.make_own(tmp_path / "own")
    for suite in ("mini", str(file)):
        command = ["data", "prepare", suite, "--suite-root", str(tmp_path)]
        refused(here, command, "--suite-root", "leave it out")
