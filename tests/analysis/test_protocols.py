from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.protocols import Inflation, inflation
from orchestrator.spec import Point, TrialResult
from tests.analysis.synthetic import SUITE, SWEEP, result, trial

BOTH = replace(
    SWEEP, tasks=("digits", "location"), adapters=("lora",), protocols=("honest", "paper")
)


def study(
    task: str, protocol: str, values: Sequence[tuple[float, float | None]]
) -> list[TrialResult]:
    """A search row and finals of seeds 1, 2, … by (value, accuracy at the last epoch)."""
    rows = [result(trial(task, "lora", protocol=protocol), 0.5)]
    for seed, (value, last) in enumerate(values, 1):
        of = trial(task, "lora", stage="final", seed=seed, protocol=protocol)
        rows.append(replace(result(of, 0.5), value=value, curve=(Point(10, 1e-3, 1.0, 1.0, last),)))
    return rows


def found(rows: Sequence[TrialResult]) -> Inflation:
    honest, paper = (summarise(rows, BOTH, SUITE, protocol) for protocol in BOTH.protocols)
    return inflation(honest, paper)


def test_the_difference_splits_into_epochs_and_choice() -> None:
    rows = study("digits", "honest", [(0.70, 0.70), (0.72, 0.72)])
    rows += study("digits", "paper", [(0.75, 0.73), (0.77, 0.76)])
    both = found(rows)
    (gap,) = both.gaps
    assert both.gap("digits", "lora") == gap and both.gap("location", "lora") is None
    assert (gap.task, gap.adapter, gap.seeds) == ("digits", "lora", 2)
    assert (gap.honest, gap.paper) == (pytest.approx(0.71), pytest.approx(0.76))
    assert gap.difference == pytest.approx(0.05)
    assert gap.epochs == pytest.approx((0.02 + 0.01) / 2)
    assert gap.choice == pytest.approx(0.05 - 0.015)


def test_seeds_are_paired() -> None:
    """The third seed of paper, and what it would add, has no partner."""
    rows = study("digits", "honest", [(0.70, 0.70), (0.72, 0.72)])
    rows += study("digits", "paper", [(0.75, 0.75), (0.77, 0.77), (0.99, 0.10)])
    (gap,) = found(rows).gaps
    assert (gap.seeds, gap.paper, gap.epochs) == (2, pytest.approx(0.76), pytest.approx(0))


def test_means_are_over_the_tasks_that_both_have() -> None:
    rows = study("digits", "honest", [(0.70, 0.70)]) + study("location", "honest", [(0.3, 0.3)])
    rows += study("digits", "paper", [(0.75, 0.73)])
    (mean,) = found(rows).means
    assert (mean.adapter, mean.tasks, mean.honest) == ("lora", 1, pytest.approx(0.7))
    rows += study("location", "paper", [(0.4, 0.4)])
    (mean,) = found(rows).means
    assert (mean.tasks, mean.honest, mean.paper) == (2, pytest.approx(0.5), pytest.approx(0.575))
    assert mean.difference == pytest.approx(0.075)
    assert (mean.epochs, mean.choice) == (pytest.approx(0.01), pytest.approx(0.065))


def test_without_the_last_epoch_nothing_is_split() -> None:
    rows = study("digits", "honest", [(0.70, 0.70)]) + study("digits", "paper", [(0.75, None)])
    both = found(rows)
    assert (both.gaps[0].epochs, both.gaps[0].choice) == (None, None)
    assert both.gaps[0].difference == pytest.approx(0.05)
    assert (both.means[0].epochs, both.means[0].choice) == (None, None)


def test_one_protocol_alone_has_no_gap() -> None:
    assert found(study("digits", "paper", [(0.7, 0.7)])) == Inflation((), ())
    assert found([]) == Inflation((), ())
