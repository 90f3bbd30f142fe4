from __future__ import annotations

from collections import Counter

import pytest

import search_spaces
from orchestrator.data.sources import SOURCES
from orchestrator.errors import InvalidInput
from orchestrator.spec import Suite
from orchestrator.tasks import SUITES, suite
from orchestrator.tasks.mini import MINI


def test_a_suite_is_found_by_its_name() -> None:
    assert suite("mini") is MINI
    with pytest.raises(InvalidInput, match=r"unknown suite 'mni'\. Did you mean 'mini'\?"):
        suite("mni")
    with pytest.raises(InvalidInput, match=r"unknown task of suite 'mini' 'digit'.*'digits'"):
        MINI.task("digit")


@pytest.mark.parametrize("row", SUITES.values(), ids=SUITES.keys())
def test_every_suite_is_consistent(row: Suite) -> None:
    names = [task.name for task in row.tasks]
    assert len(set(names)) == len(names)
    assert set(row.default_tasks) <= set(names)
    assert set(row.default_adapters) | set(row.spaces) <= set(search_spaces.names())
    assert row.name in SOURCES
    assert all(task.classes >= 2 and min(task.train, task.val, task.test) > 0 for task in row.tasks)


def test_mini_mirrors_the_groups_of_vtab() -> None:
    groups = Counter(task.group for task in MINI.tasks)
    assert groups == {"natural": 2, "specialized": 1, "structured": 3}
    assert {MINI.task(name).group for name in MINI.default_tasks} == set(groups)
    assert all((task.train, task.val) == (800, 200) for task in MINI.tasks)


def test_mini_states_the_classes_that_its_source_makes() -> None:
    from orchestrator.data.mini import NUM_CLASSES

    assert {task.name: task.classes for task in MINI.tasks} == dict(NUM_CLASSES)
