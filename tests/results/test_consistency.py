"""A folder whose parts do not belong together says so, by name and number."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.results.consistency import misfits
from orchestrator.results.sweep_file import SweepFile
from orchestrator.spec import DataIdentity, TrialResult
from tests.analysis import synthetic
from tests.analysis.synthetic import SUITE, SWEEP, WEIGHTS, on_folds, sweep_results

ROWS = sweep_results()
FILE = SweepFile(
    "id", SWEEP, SUITE, {}, {t: synthetic.identity(t) for t in SWEEP.tasks}, WEIGHTS, "", 1.0
)
SUGGESTED: Mapping[str, Collection[str]] = {
    name: {row.key for row in ROWS if (row.trial.study, row.trial.stage) == (name, "search")}
    for name in {row.trial.study for row in ROWS}
}
TRAINED = {row.key for row in ROWS if row.trial.stage == "final"}


def said(rows: list[TrialResult], file: SweepFile = FILE, **changes: Any) -> str:
    return "\n".join(misfits(file, rows, **{"suggested": SUGGESTED, "trained": TRAINED, **changes}))


def test_a_whole_folder_says_nothing() -> None:
    assert said(ROWS) == ""
    assert said([], suggested={}, trained=()) == ""
    seldom = replace(SWEEP, recipe=replace(SWEEP.recipe, evaluate_every=5))
    assert said(ROWS, replace(FILE, sweep=seldom)) == "", "it changes no result"


def test_replicates_on_folds_belong_to_a_sweep_with_folds() -> None:
    rows, file = on_folds(ROWS), replace(FILE, sweep=replace(SWEEP, splits="folds"))
    assert said(rows, file) == ""
    assert "other images of task 'digits'" in said(rows)
    assert "other images of task 'digits'" in said(ROWS, file)
    kept = [row for row in rows if (row.trial.stage, row.trial.seed) != ("replicate", 2)]
    assert "2 of its replicate trials" in said(kept, file)


def test_the_default_configuration_need_not_have_been_searched() -> None:
    params = {"rank": 8, "scale": 0.1}
    own = [synthetic.result(synthetic.trial(params=params, stage="final", seed=s)) for s in (1, 2)]
    keys = {row.key for row in own}
    sweep = replace(SWEEP, defaults={"lora": params})
    searched = [row for row in ROWS if row.trial.stage == "search" and row.trial.params == params]
    rows = [row for row in ROWS if row not in searched]
    known = {name: some - {row.key for row in searched} for name, some in SUGGESTED.items()}
    given = {"trained": TRAINED | keys, "suggested": known}
    assert said([*rows, *own], replace(FILE, sweep=sweep), **given) == ""
    assert "1 of its search trials" in said([*rows, *own], **given)


def test_a_running_search_says_nothing() -> None:
    first = [row for row in ROWS if row.trial.stage == "search"][:-3]
    assert said(first, trained=()) == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ("digits",)}, "task 'textures': "),
        ({"adapters": ("linear", "lora")}, "adapter 'efft2': "),
        ({"backbone": "vit_large"}, "backbone 'vit_mini': "),
        ({"suite": "maxi"}, "suite 'mini': "),
        ({"protocols": ("paper",)}, "protocol 'honest': "),
        ({"seeds": 2}, "seed 3 of final: 9"),
        ({"recipe": replace(SWEEP.recipe, lr=0.09)}, "lr=0.001 of "),
        ({"fixed": {"lora": {"rank": 99}}, "spaces": {}}, "rank=[248] of lora: "),
        ({"published_recipes": {"digits/lora": {"batch": 7}}}, "batch=[0-9]+ of lora: "),
    ],
)
def test_what_sweep_json_does_not_know_is_counted(changes: dict[str, Any], told: str) -> None:
    text = said(ROWS, replace(FILE, sweep=replace(SWEEP, **changes)))
    assert text.startswith("sweep.json does not know ")
    assert f" of the ledger's {len(ROWS)} trials (" in text.splitlines()[0]
    assert re.search(told, text), text


def test_rows_of_other_images_or_weights_are_counted() -> None:
    other = {**FILE.data, "digits": DataIdentity("another", "test")}
    assert "other images of task 'digits': " in said(ROWS, replace(FILE, data=other))
    assert f"other weights of 'vit_mini': {len(ROWS)}" in said(ROWS, replace(FILE, weights="w"))


@pytest.mark.parametrize("stage", ["search", "replicate", "final"])
def test_a_row_that_the_ledger_lost_is_counted(stage: str) -> None:
    (lost, *_) = [
        row
        for row in ROWS
        if (row.trial.study, row.trial.stage) == ("digits/lora", stage) and row.status == "finished"
    ]
    text = said([row for row in ROWS if row is not lost])
    if stage == "final":
        assert "adapters/ has the weights of 1 final trials that the ledger does not have" in text
    else:
        assert f"digits/lora: the ledger lacks 1 of its {stage} trials, on which" in text
        assert said([row for row in ROWS if row is not lost], failures={lost.key}) == ""


def test_a_search_row_is_missed_also_without_suggestions() -> None:
    repeated = {row.trial.config for row in ROWS if row.trial.stage == "final"}
    rest = [r for r in ROWS if r.trial.stage != "search" or r.trial.config not in repeated]
    assert len(rest) < len(ROWS)
    assert "of its search trials, on which its winner depends" in said(rest, suggested={})


def test_rows_that_were_not_suggested_are_counted() -> None:
    one = next(iter(SUGGESTED["digits/lora"]))
    fewer = {**SUGGESTED, "digits/lora": set(SUGGESTED["digits/lora"]) - {one}}
    assert "digits/lora: the ledger has search trials that this sweep did not suggest" in said(
        ROWS, suggested=fewer
    )
