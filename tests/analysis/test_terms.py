"""What the report says of the terms of a comparison."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.analysis.terms import terms
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.resolve import plan_sweep


def test_what_adapters_do_not_have_in_common_is_named() -> None:
    _, sweep = plan_sweep(SweepConfig(suite="vtab", adapter=("lora", "ssf", "hta", "bitfit")))
    first, recipe, *rest = terms(replace(sweep, sampler="grid", trials=None))
    assert first == "All adapters were trained with one recipe."
    assert recipe.startswith("Not on equal terms: of the recipe, nothing (lora); lr [")
    assert "weight_decay [0.05, 5e-05] (ssf)" in recipe
    assert rest == [
        "Not on equal terms: configurations tried per task, 5 (lora); 8 (ssf); 2100 (hta); "
        "16 (bitfit)."
    ]
    fair = SweepConfig(suite="vtab", adapter=("lora", "ssf", "hta"), preset="fair")
    assert terms(plan_sweep(fair)[1]) == [first], "nothing to say"
    held = replace(sweep, adapters=("lora", "ssf"), fixed={"ssf": {"lr": 0.5, "init": "zero"}})
    assert "held at another value than the others', nothing (lora); lr 0.5 (ssf)." in "".join(
        terms(held)
    )


def test_published_recipes_are_named_above_every_table() -> None:
    config = SweepConfig(suite="vtab", adapter=("fact_tt", "efft2"), recipe="published")
    assert "the recipe of its authors' script" in terms(plan_sweep(config)[1])[0]


def test_it_says_which_precision_made_which_number() -> None:
    config = SweepConfig(suite="vtab", adapter=("lora",), precision="fp8")
    _, sentence = terms(plan_sweep(config)[1])
    assert "float8" in sentence and "bf16" in sentence
