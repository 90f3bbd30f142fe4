from __future__ import annotations

from dataclasses import fields
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, IntDistribution

import adapters
import search_spaces
from adapters.names import built_in
from orchestrator.spec import RECIPE_FIELDS, Recipe
from orchestrator.tasks.suites import VTAB

USERS: dict[str, BaseDistribution] = {"width": IntDistribution(1, 4)}
NO_SPACE = {"width": 3}


def test_names_and_sizes() -> None:
    sizes = {name: search_spaces.grid_size(space) for name, space in search_spaces.SPACES.items()}
    assert sizes == {
        "full": 16, "linear": 7, "partial": 16, "mlp_head": 35, "bitfit": 16, "vpt_shallow": 42,
        "vpt_deep": 42, "adapter": 48, "adaptformer": 12, "lora": 5, "ssf": 8, "fact_tt": 15,
        "fact_tk": 10, "efft1": 72, "efft2": 144, "hta": 2100, "hta_adapter": 2100, "arc": 105,
        "rlrr": 35, "noah": 1728, "dtl": 8, "last": 21,
    }  # fmt: skip
    assert set(sizes) == set(built_in())


def test_unknown_adapter() -> None:
    with pytest.raises(ValueError, match=r"'lra'\. Available: adapter, .*efft2, .*lora"):
        search_spaces.get("lra")


def test_get_gives_a_copy() -> None:
    search_spaces.get("lora").clear()
    assert search_spaces.get("lora")


@pytest.mark.parametrize("name", search_spaces.SPACES)
def test_every_field_and_choice_is_one_the_adapter_or_the_recipe_takes(name: str) -> None:
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


def test_published_winners_are_points_of_their_spaces() -> None:
    table = search_spaces._table("published")
    assert set(table) == {"efft1", "efft2", "fact_tt", "fact_tk"}
    for name, tasks in table.items():
        space = search_spaces.get(name)
        assert set(tasks) == {"every_task", *(task.name for task in VTAB.tasks)}
        # What the number of a script depended on: all but where it acts, and ranks that follow.
        own = {item.name for item in fields(adapters.get(name))}
        depends = own - {"sites", "layers", "rank2", "ffn_rank", "ffn_rank2"}
        for task in VTAB.tasks:
            values = search_spaces.published(name, task.name)
            assert values is not None
            assert values.keys() == depends, "every field is fixed"
            searched = {field: values[field] for field in space}
            assert search_spaces.contains(space, searched), (name, task)
            assert adapters.build(name, values).to_dict().items() >= values.items()
        assert search_spaces.published(name, "every_task") is None


@pytest.mark.parametrize(
    ("adapter", "task", "expected"),
    [
        ("efft1", "svhn", {"rank": 32, "scale": 50.0, "init": "u"}),
        ("efft2", "clevr_dist", {"rank": 32, "scale": 0.05, "init": "vu", "cores": "shared"}),
        ("efft2", "cifar", {"rank": 16, "scale": 1.0, "init": "vv", "cores": "shared"}),
        ("fact_tt", "clevr_dist", {"rank": 4, "scale": 10.0}),
        ("fact_tk", "svhn", {"rank": 32, "scale": 100.0, "tiles": "published"}),
    ],
)
def test_published_values_by_hand(adapter: str, task: str, expected: dict[str, Any]) -> None:
    """From the authors' files, so that the table cannot move as a whole; typed as the space is."""
    found = search_spaces.published(adapter, task)
    assert found == {**expected, "dropout": 0.1}
    assert [type(found[name]) for name in expected] == [type(v) for v in expected.values()]


def test_tasks_and_adapters_without_published_values_have_none() -> None:
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


def test_published_recipes_are_recipes_on_every_task() -> None:
    for name in search_spaces.with_recipes():
        assert name in built_in()
        for task in VTAB.tasks:
            values = search_spaces.published_recipe(name, task.name)
            recipe = Recipe().with_values(values)
            searched = search_spaces.published_search(name)
            assert not values.keys() & searched.keys()
            assert values.keys() | searched.keys() == search_spaces.recipe_fields(name), (
                "every task"
            )
            assert search_spaces.recipe_fields(name) >= {
                "lr", "weight_decay", "schedule", "batch", "epochs"
            }  # fmt: skip
            assert {"epochs": recipe.epochs}.items() <= values.items()
        assert set(search_spaces._table("recipes")[name]) <= {
            "every_task", *(task.name for task in VTAB.tasks)
        }  # fmt: skip
    flips = [t.name for t in VTAB.tasks
             if search_spaces.published_recipe("rlrr", t.name)["augment"] == "flip"]  # fmt: skip
    assert len(flips) == 10
    assert search_spaces.published_recipe("ssf", "clevr_dist")["lr"] == 0.05
    assert search_spaces.published_recipe("arc", "dtd")["clip"] == 1
    kept = {n for n in search_spaces.with_recipes()
            if search_spaces.published_recipe(n, "dtd").get("last_batch") == "keep"}  # fmt: skip
    assert kept == {"arc", "rlrr", "vpt_deep", "vpt_shallow"}
    for name in ("vpt_shallow", "vpt_deep"):
        assert search_spaces.published_recipe(name, "dmlab")["optimiser"] == "sgd"
        lr, decay = search_spaces.published_search(name).values()
        base = [5.0, 2.5, 1.0, 50.0, 25.0, 10.0, 0.5, 0.25, 0.1, 0.05]  # of a batch of 256
        assert set(search_spaces.choices(lr)) == {rate * 64 / 256 for rate in base}
        assert set(search_spaces.choices(decay)) == {0.01, 0.001, 0.0001, 0.0}
