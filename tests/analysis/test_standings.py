from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from orchestrator.analysis.standings import COLUMNS, STUDY, leaders, standings
from orchestrator.results.ledger import Ledger
from orchestrator.results.selection import winner
from orchestrator.spec import STAGES, STATUSES, TrialResult
from tests.rows import RESULT, TRIAL


def rows(seed: int) -> list[TrialResult]:
    """Three studies with many exact ties of value, of loss and of parameters."""
    draw, made = random.Random(seed), {}
    for _ in range(150):
        trial = replace(
            TRIAL,
            task=draw.choice(["digits", "scenes", "shapes"]),
            params={"rank": draw.randrange(6)},
            seed=draw.randrange(4),
            stage=draw.choice(STAGES[:2] if draw.random() < 0.5 else STAGES),
        )
        status = draw.choice(STATUSES)
        loss = draw.choice([0.5, 0.7, math.nan, None])
        made[trial.key] = replace(
            RESULT,
            trial=trial,
            status=status,
            value=None if status == "diverged" else draw.choice([0.1, 0.2, 0.3, 0.7]),
            eval_loss=None if status == "diverged" else loss,
            parameters=draw.choice([10, 20]),
            finished=draw.random(),
        )
    return list(made.values())


def by_study(results: list[TrialResult]) -> dict[tuple[str, ...], list[TrialResult]]:
    found: defaultdict[tuple[str, ...], list[TrialResult]] = defaultdict(list)
    for row in results:
        found[tuple(getattr(row.trial, name) for name in STUDY)].append(row)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_leaders_are_the_winners_of_selection(seed: int, tmp_path: Path) -> None:
    ledger, made = Ledger(tmp_path), rows(seed)
    for row in made:
        ledger.append(row)
    expected = {study: winner(group) for study, group in by_study(made).items()}
    assert leaders(ledger.table(COLUMNS)) == {k: v for k, v in expected.items() if v}


def test_standings_are_the_plain_statistics(tmp_path: Path) -> None:
    ledger, made = Ledger(tmp_path), rows(0)
    for row in made:
        ledger.append(row)
    groups: defaultdict[tuple[str, ...], list[TrialResult]] = defaultdict(list)
    for row in made:
        if row.status != "stopped":
            groups[row.trial.task, row.trial.stage, row.trial.config].append(row)
    ended = {
        key: [row.value or 0.0 for row in group]
        for key, group in groups.items()
        if any(row.status == "finished" for row in group)
    }
    found = standings(ledger.table(COLUMNS)).to_pylist()
    assert len(found) == len(ended)
    for row in found:
        values = ended[row["task"], row["stage"], row["config"]]
        assert (row["n"], row["best"]) == (len(values), max(values))
        assert row["mean"] == pytest.approx(fmean(values))
        assert row["sd"] == (pytest.approx(stdev(values)) if len(values) > 1 else None)


def test_a_ledger_without_results_has_no_leaders(tmp_path: Path) -> None:
    assert leaders(Ledger(tmp_path).table(COLUMNS)) == {}
