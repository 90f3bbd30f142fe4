from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, IntDistribution

import search_spaces
from orchestrator.spec import RECIPE_FIELDS, Recipe
from orchestrator.tasks.suites import VTAB

USERS: dict[str, BaseDistribution] = {"width": IntDistribution(1, 4)}
NO_SPACE = {"width": 3}


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, dict[str, Any]]]:
    table: dict[str, dict[str, dict[str, Any]]] = search_spaces._published()
    return table


def test_names_and_sizes() -> None:
    sizes = {name: search_spaces.grid_size(space) for name, space in search_spaces.SPACES.items()}
    assert sizes == {
        "adapter": 48,
        "adaptformer": 12,
        "arc": 105,
        "bitfit": 16,
        "efft1": 72,
        "efft2": 144,
        "fact_tk": 10,
        "fact_tt": 15,
        "full": 16,
        "hta": 2100,
        "hta_adapter": 2100,
        "linear": 7,
        "lora": 5,
        "mlp_head": 35,
        "noah": 1728,
        "partial": 16,
        "rlrr": 35,
        "ssf": 8,
        "vpt_deep": 42,
        "vpt_shallow": 42,
    }


def test_every_built_in_adapter_has_a_space() -> None:
    names = pytest.importorskip("adapters.names")
    assert set(search_spaces.SPACES) == set(names.built_in())


def test_unknown_adapter() -> None:
    with pytest.raises(ValueError, match=r"'lra'\. Available: adapter, .*efft2, .*lora"):
        search_spaces.get("lra")


def test_get_gives_a_copy() -> None:
    search_spaces.get("lora").clear()
    assert search_spaces.get("lora")


@pytest.mark.parametrize("name", search_spaces.SPACES)
def test_every_field_and_choice_is_one_the_adapter_or_the_recipe_takes(name: str) -> None:
    adapters = pytest.importorskip("adapters")
    adapter = adapters.get(name)
    for field, distribution in search_spaces.get(name).items():
        choices = search_spaces.choices(distribution)
        assert choices
        for value in choices:
            if field in RECIPE_FIELDS:
                taken = getattr(Recipe().with_values({field: value}), field)
            else:
                taken = getattr(adapter(**{field: value}), field)
            assert (taken, type(taken)) == (value, type(value))


def test_published_winners_use_fields_of_the_spaces(
    published: dict[str, dict[str, dict[str, Any]]],
) -> None:
    assert set(published) == {"efft1", "efft2", "fact_tt", "fact_tk"}
    for adapter, tasks in published.items():
        assert len(tasks) == 19
        fields = {"rank", "scale", "init"} if adapter.startswith("efft") else {"rank", "scale"}
        assert all(set(values) == fields for values in tasks.values())
        assert fields == set(search_spaces.get(adapter))


def test_published_winners_are_points_of_their_spaces(
    published: dict[str, dict[str, dict[str, Any]]],
) -> None:
    adapters = pytest.importorskip("adapters")
    for adapter, tasks in published.items():
        assert set(tasks) == {task.name for task in VTAB.tasks}
        for task in tasks:
            values = search_spaces.published(adapter, task)
            assert values is not None
            assert search_spaces.contains(search_spaces.get(adapter), values), (adapter, task)
            assert adapters.build(adapter, values).to_dict().items() >= values.items()


def test_a_published_value_or_two_by_hand() -> None:
    """From the authors' files, so that the table cannot move as a whole."""
    assert search_spaces.published("efft1", "svhn") == {"rank": 32, "scale": 50.0, "init": "u"}
    assert search_spaces.published("efft2", "clevr_dist") == {
        "rank": 32,
        "scale": 0.05,
        "init": "vu",
    }
    assert search_spaces.published("fact_tt", "clevr_dist") == {"rank": 4, "scale": 10.0}


def test_published_values_have_the_types_of_the_space() -> None:
    found = search_spaces.published("efft2", "cifar")
    assert found == {"rank": 16, "scale": 1.0, "init": "vv"}
    assert [type(value) for value in found.values()] == [int, float, str]
    found = search_spaces.published("fact_tk", "svhn")
    assert found == {"rank": 32, "scale": 100.0}
    assert [type(value) for value in found.values()] == [int, float]
    assert search_spaces.published("efft2", "digits") is None
    assert search_spaces.published("lora", "cifar") is None


def test_spaces_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    group = search_spaces.ENTRY_POINTS
    entries = EntryPoints(
        [
            EntryPoint("mine", "tests.search_spaces.test_spaces:USERS", group),
            EntryPoint("broken", "tests.search_spaces.test_spaces:NO_SPACE", group),
        ]
    )
    monkeypatch.setattr(search_spaces, "entry_points", lambda **query: entries.select(**query))
    assert {"broken", "efft2", "mine"} <= set(search_spaces.names())
    assert list(search_spaces.names()) == sorted(search_spaces.names())
    assert search_spaces.get("mine") == USERS
    with pytest.raises(ValueError, match=r"broken = .*:NO_SPACE.*orchestrate\.search_spaces"):
        search_spaces.get("broken")


def test_published_yaml_is_plain_and_spaces_need_only_optuna() -> None:
    code = (
        "import sys, search_spaces; search_spaces.published('efft2', 'cifar');"
        "sys.exit(bool({'torch', 'orchestrator', 'adapters'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
