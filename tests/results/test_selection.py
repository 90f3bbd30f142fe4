from __future__ import annotations

import itertools
from typing import Any

from orchestrator.results.selection import rank_configurations, winner
from orchestrator.spec import Recipe, Stage, Trial, TrialResult


def row(
    rank: int, value: float | None, stage: Stage = "search", seed: int = 0, **changes: Any
) -> TrialResult:
    trial = Trial("mini", "t", "vit", "lora", {"rank": rank}, Recipe(), seed, stage, "d", "w")
    values = {"status": "finished", "eval_loss": 1.0, "parameters": 10} | changes
    return TrialResult(trial, value=value, epochs_run=100, curve=(), correct=b"", **values)


def config(rank: int) -> str:
    return row(rank, 0.0).trial.config


def test_higher_value_then_lower_loss_then_fewer_parameters_then_hash() -> None:
    rows = [
        row(1, 0.5, eval_loss=0.1),
        row(2, 0.6, eval_loss=0.9),
        row(3, 0.6, eval_loss=0.5, parameters=20),
        row(4, 0.6, eval_loss=0.5, parameters=10),
        row(5, 0.6, eval_loss=None),
        row(6, 0.6, eval_loss=float("nan")),
    ]
    last = sorted([config(5), config(6)])
    expected = [config(4), config(3), config(2), *last, config(1)]
    for order in itertools.permutations(rows):
        assert rank_configurations(order) == expected


def test_only_full_search_rows_are_ranked() -> None:
    rows = [
        row(1, 0.5),
        row(2, 0.9, status="stopped"),
        row(3, None, status="diverged"),
        row(4, 0.9, stage="replicate", seed=1),
        row(5, 0.9, stage="final", seed=1),
    ]
    assert rank_configurations(rows) == [config(1)]
    assert rank_configurations([]) == []


def test_winner_has_the_highest_mean_over_replicates() -> None:
    rows = [row(1, 0.9), row(2, 0.8), row(3, 0.99)]
    assert winner(rows) == config(3)
    rows += [row(1, value, "replicate", seed) for seed, value in enumerate((0.9, 0.5), 1)]
    rows += [row(2, value, "replicate", seed) for seed, value in enumerate((0.75, 0.7), 1)]
    assert winner(rows) == config(2)
    assert winner(rows[::-1]) == config(2)


def test_ties_of_the_means_follow_the_same_order() -> None:
    rows = [row(1, value, "replicate", s, eval_loss=0.4) for s, value in enumerate((0.25, 0.75), 1)]
    rows += [row(2, value, "replicate", s, eval_loss=0.3) for s, value in enumerate((0.5, 0.5), 1)]
    assert winner(rows) == config(2)


def test_a_diverged_replicate_counts_as_nothing_right() -> None:
    rows = [row(1, 0.9, "replicate", 1), row(1, None, "replicate", 2, status="diverged")]
    rows += [row(2, 0.6, "replicate", seed) for seed in (1, 2)]
    assert winner(rows) == config(2)


def test_no_finished_row_no_winner() -> None:
    assert winner([]) is None
    assert winner([row(1, None, status="diverged"), row(2, 0.3, status="stopped")]) is None
    rows = [row(1, 0.4), row(2, None, "replicate", 1, status="diverged")]
    assert winner(rows) == config(1)
