from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import chain

import pytest

import search_spaces
from orchestrator.data.layouts import LAYOUTS
from orchestrator.errors import InvalidInput
from orchestrator.spec import Recipe, Suite
from orchestrator.tasks import SUITES, suite
from orchestrator.tasks.suites import FEWSHOT, FGVC, MINI, VTAB, draw_of
from tests.imports import ROOT


def test_a_suite_is_found_by_its_name() -> None:
    assert suite("mini") is MINI
    assert suite("vtab") is VTAB
    with pytest.raises(InvalidInput, match=r"unknown suite 'mni'\. Did you mean 'mini'\?"):
        suite("mni")
    with pytest.raises(InvalidInput, match=r"unknown task of suite 'mini' 'digit'.*'digits'"):
        MINI.task("digit")


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "./vtab", "folder/mine"])
def test_a_path_is_a_file_of_ones_own(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"the suite file '.*' cannot be read"):
        suite(name)


@pytest.mark.parametrize("row", SUITES.values(), ids=SUITES.keys())
def test_every_suite_is_consistent(row: Suite) -> None:
    names = [task.name for task in row.tasks]
    assert len(set(names)) == len(names)
    assert set(row.default_tasks) <= set(names)
    assert set(row.default_adapters) | set(row.spaces) <= set(search_spaces.names())
    assert row is MINI or (row.layout in LAYOUTS and row.variable == f"{row.name.upper()}_ROOT")
    counts = [count for task in row.tasks for count in (task.train, task.val, task.test)]
    assert all(task.classes >= 2 for task in row.tasks)
    assert all(count is None or count > 0 for count in counts)


@pytest.mark.parametrize("row", SUITES.values(), ids=SUITES.keys())
def test_no_alias_stands_for_two_tasks(row: Suite) -> None:
    """Folders are found without regard to case, so names that differ in case only are one."""
    owned = [{name.casefold() for name in (task.name, *task.aliases)} for task in row.tasks]
    every = list(chain.from_iterable(owned))
    assert [name for name, count in Counter(every).items() if count > 1] == []
    for task in row.tasks:
        assert {row.task(name) for name in task.aliases} <= {task}


def test_common_names_are_understood() -> None:
    assert VTAB.task("smallnorb_elevation").name == "smallnorb_ele"
    assert FGVC.task("CUB_200_2011").name == "cub_200_2011"
    assert FEWSHOT.task("stanford-cars-16shot-seed2").name == "standford-cars-16shot-seed2"


def test_vtab_has_its_tasks_in_order_with_their_classes_and_test_images() -> None:
    rows = (
        "cifar 100/10,000 · caltech101 102/6,084 · dtd 47/1,880 · oxford_flowers102 102/6,149 · "
        "oxford_iiit_pet 37/3,669 · svhn 10/26,032 · sun397 397/21,750 · patch_camelyon 2/32,768 · "
        "eurosat 10/5,400 · resisc45 45/6,300 · diabetic_retinopathy 5/42,670 · "
        "clevr_count 8/15,000 · clevr_dist 6/15,000 · dmlab 6/22,735 · kitti 4/711 · "
        "dsprites_loc 16/73,728 · dsprites_ori 16/73,728 · smallnorb_azi 18/12,150 · "
        "smallnorb_ele 9/12,150"
    )
    assert " · ".join(f"{t.name} {t.classes}/{t.test:,}" for t in VTAB.tasks) == rows
    groups = [task.group for task in VTAB.tasks]
    assert groups == ["natural"] * 7 + ["specialized"] * 4 + ["structured"] * 8
    assert {(task.train, task.val) for task in VTAB.tasks} == {(800, 200)}
    assert sum(task.test or 0 for task in VTAB.tasks) == 387_904
    assert VTAB.recipe == Recipe(precision="auto")


def test_the_published_configurations_name_tasks_of_vtab() -> None:
    assert all(search_spaces.published("efft2", task.name) for task in VTAB.tasks)


def test_fgvc_has_the_splits_of_vpt() -> None:
    rows = (
        "cub_200_2011 200 5,394/600/5,794 · nabirds 555 21,536/2,393/24,633 · "
        "oxford_flowers 102 1,020/1,020/6,149 · stanford_dogs 120 10,800/1,200/8,580 · "
        "stanford_cars 196 7,329/815/8,041"
    )
    found = [f"{t.name} {t.classes} {t.train:,}/{t.val:,}/{t.test:,}" for t in FGVC.tasks]
    assert " · ".join(found) == rows
    assert FGVC.recipe.augment == "crop_flip"
    assert (FGVC.side, FGVC.view) == (320, "centre")


def test_fewshot_has_every_dataset_with_every_number_of_shots_and_every_list() -> None:
    assert len(FEWSHOT.tasks) == 5 * 5 * 3
    classes = {draw_of(task.name).dataset: task.classes for task in FEWSHOT.tasks}
    assert classes == {
        "food101": 101,
        "fgvc-aircraft": 100,
        "oxford-flowers102": 102,
        "oxford-pets": 37,
        "standford-cars": 196,
    }
    groups = Counter(task.group for task in FEWSHOT.tasks)
    assert groups == dict.fromkeys(("1 shot", "2 shots", "4 shots", "8 shots", "16 shots"), 15)
    assert FEWSHOT.task("food101-4shot-seed1").train is None
    assert FEWSHOT.recipe.batch <= 74  # the images of oxford-pets with one shot


def test_mini_mirrors_the_groups_of_vtab() -> None:
    groups = Counter(task.group for task in MINI.tasks)
    assert groups == {"natural": 2, "specialized": 1, "structured": 3}
    assert {MINI.task(name).group for name in MINI.default_tasks} == set(groups)
    assert all((task.train, task.val) == (800, 200) for task in MINI.tasks)


def test_suites_load_nothing_that_takes_time() -> None:
    code = (
        "import sys, orchestrator.tasks as t; t.suite('vtab'); "
        "print({'torch', 'numpy', 'pyarrow', 'PIL', 'pydantic', 'yaml'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"
