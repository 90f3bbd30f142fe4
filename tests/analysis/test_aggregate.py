from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.aggregate import own_rows, summarise
from orchestrator.analysis.metrics import probability_metrics
from orchestrator.analysis.statistics import interquartile_mean, iqm_interval
from orchestrator.analysis.summary import StudySummary, Summary
from orchestrator.errors import InvalidInput
from orchestrator.results.predictions import Predictions
from orchestrator.spec import Stage, Sweep, Trial, TrialResult
from tests.analysis.synthetic import SUITE, SWEEP, interrupted, result, sweep_results, trial

ONE = replace(SWEEP, tasks=("digits",), adapters=("lora",))
A, B, C = ({"rank": rank, "scale": 1.0} for rank in (2, 4, 8))


def row(
    params: dict[str, float],
    value: float | None,
    stage: Stage = "search",
    seed: int = 0,
    task: str = "digits",
    adapter: str = "lora",
    **changes: Any,
) -> TrialResult:
    of = trial(task, adapter, params, stage=stage, seed=seed)
    return result(of, value, **{"eval_loss": 0.5, **changes})


def seeds(
    params: dict[str, float],
    stage: Stage,
    values: Sequence[float | None],
    task: str = "digits",
    adapter: str = "lora",
) -> list[TrialResult]:
    return [
        row(
            params, value, stage, seed, task, adapter,
            status="diverged" if value is None else "finished",
        )
        for seed, value in enumerate(values, 1)
    ]  # fmt: skip


def study(rows: Sequence[TrialResult], sweep: Sweep = ONE) -> StudySummary:
    return summarise(rows, sweep, SUITE).studies[0]


def config(params: dict[str, float]) -> str:
    return trial("digits", "lora", params).config


def finals(table: Mapping[tuple[str, str], Sequence[float]]) -> list[TrialResult]:
    """A search row and final rows for every (task, adapter)."""
    rows = []
    for (task, adapter), values in table.items():
        params = {} if adapter == "linear" else A
        rows.append(row(params, 0.5, task=task, adapter=adapter))
        rows += seeds(params, "final", values, task, adapter)
    return rows


@pytest.fixture(scope="module")
def full() -> Summary:
    return summarise(sweep_results(), SWEEP, SUITE)


def test_the_replicates_choose_and_the_finals_are_reported() -> None:
    rows = [row(A, 0.9), row(B, 0.8), row(C, 0.7)]
    rows += seeds(A, "replicate", [0.6, 0.6, 0.6]) + seeds(B, "replicate", [0.7, 0.8, 0.9])
    rows += seeds(B, "final", [0.75, 0.80, 0.85])
    found = study(rows)
    assert found.winner is not None
    assert (found.winner.config, found.winner.search_value) == (config(B), 0.8)
    assert found.winner.searched == B
    assert found.val.values == (0.7, 0.8, 0.9)
    assert found.test.values == (0.75, 0.80, 0.85)
    assert found.test.std == pytest.approx(0.05)
    assert found.test.half == pytest.approx(stats.t.ppf(0.975, 2) * 0.05 / 3**0.5)
    assert found.counts == {
        "search": {"finished": 3},
        "replicate": {"finished": 6},
        "final": {"finished": 3},
    }
    assert (found.configurations, found.missing) == (3, "")


def test_test_accuracy_chooses_nothing() -> None:
    """The other configuration's finals are better, and are counted but not reported."""
    rows = [row(A, 0.8), row(B, 0.7)]
    rows += seeds(A, "final", [0.6, 0.6, 0.6]) + seeds(B, "final", [0.9, 0.9, 0.9])
    found = study(rows)
    assert found.winner is not None and found.winner.config == config(A)
    assert found.test.mean == pytest.approx(0.6)
    assert found.other_finals == 1


def test_the_order_of_rows_changes_nothing(full: Summary) -> None:
    rows = sweep_results()
    random.Random(1).shuffle(rows)
    assert summarise(rows, SWEEP, SUITE) == full


def test_seeds_beyond_the_sweeps_are_left_out() -> None:
    rows = [row(A, 0.8), *seeds(A, "final", [0.5, 0.6, 0.7, 0.9, 0.9])]
    assert study(rows).test.values == (0.5, 0.6, 0.7)


def test_a_trial_recorded_twice_counts_once() -> None:
    rows = [row(A, 0.8), *seeds(A, "final", [0.5, 0.6, 0.7])]
    again = replace(rows[1], value=0.55, finished=rows[1].finished + 1e6)
    assert study([*rows, again]).test.values == (0.55, 0.6, 0.7)


def test_what_is_missing_is_named() -> None:
    assert study([]).missing == "not started"
    stopped = row(A, 0.3, status="stopped")
    assert study([stopped]).missing == "no search trial has finished (1 stopped)"
    assert study([row(A, 0.8)]).missing == "final seeds 1, 2, 3 not run"
    found = study([row(A, 0.8), *seeds(A, "final", [0.5, None])])
    assert found.missing == "final seed 3 not run"
    assert found.diverged.startswith("final seed 2 diverged and counts as 0 (the loss became")
    assert "below 0.001 (--set lr=" in found.diverged
    assert found.test.values == (0.5, 0.0)
    assert [item.value for item in found.finals] == [0.5, None]
    lost = study([row(A, 0.8), *seeds(A, "final", [None, None, None])])
    assert lost.missing.startswith("all final seeds diverged (the loss became")


def test_a_study_whose_trials_all_diverged_says_so_and_what_to_try() -> None:
    lost = [row(params, None, status="diverged") for params in (A, B)]
    assert study(lost[:1]).missing.startswith("the only trial of its search diverged; the loss")
    assert study(lost).missing == (
        "all 2 trials of its search diverged; the loss became NaN or infinite: try a learning rate "
        "below 0.001 (--set lr=…, or smaller values in --space) with another --out"
    )
    mixed = study([*lost, row(C, 0.3, status="stopped")])
    assert mixed.missing == "no search trial has finished (2 diverged, 1 stopped)"


def test_a_diverged_seed_counts_as_nothing_right() -> None:
    """As in selection: .93, lost, .95 is no better than three times .935."""
    sweep = replace(SWEEP, tasks=("digits",), adapters=("lora", "efft2"))
    whole = finals({("digits", "efft2"): (0.935, 0.935, 0.935)})
    rows = [row(A, 0.8), *seeds(A, "final", [0.93, None, 0.95]), *whole]
    summary = summarise(rows, sweep, SUITE)
    lora, efft2 = summary.studies
    assert lora.test.mean == pytest.approx(1.88 / 3)
    assert (lora.missing, efft2.missing) == ("", "")
    assert summary.best[0].adapter == "efft2"
    assert (efft2.test.interval, efft2.test.undefined) == (None, "3 seeds agree exactly")
    assert summary.adapters[0].mean_tasks.mean == pytest.approx(1.88 / 3)


def test_configurations_beyond_the_margin_are_excluded() -> None:
    """Without replicates: the paired images alone, three pairs of configurations."""
    right = b"\1" * 200
    wrong = {"B": 3, "C": 12}
    rows = [
        row(A, 1.0, correct=right),
        row(B, 0.985, correct=b"\0" * wrong["B"] + right[wrong["B"] :]),
        row(C, 0.94, correct=b"\0" * wrong["C"] + right[wrong["C"] :]),
    ]
    found = study(rows)
    assert found.compared == 2
    (kept,) = found.not_excluded
    assert (kept.config, kept.searched, kept.value) == (config(B), B, 0.985)
    assert kept.difference == pytest.approx(3 / 200)
    share = 3 / 200
    error = (share * (1 - share) / 199) ** 0.5
    assert kept.margin == pytest.approx(stats.t.ppf(1 - 0.025 / 3, 199) * error)
    assert found.detectable is not None and found.detectable > kept.margin


def test_the_noise_of_seeds_widens_the_margin() -> None:
    rows = [row(A, 0.8), row(B, 0.75), row(C, 0.7)]
    steady = [*seeds(A, "replicate", [0.8, 0.8, 0.8]), *seeds(B, "replicate", [0.75, 0.75, 0.75])]
    shaky = [*seeds(A, "replicate", [0.9, 0.8, 0.7]), *seeds(B, "replicate", [0.65, 0.85, 0.7])]
    alone, with_steady, with_shaky = (study([*rows, *some]) for some in ([], steady, shaky))
    assert alone.detectable is not None and with_shaky.detectable is not None
    assert with_shaky.detectable > 1.5 * alone.detectable
    assert with_steady.detectable == pytest.approx(alone.detectable, rel=0.5)
    assert len(with_shaky.not_excluded) == 2


def test_only_the_same_images_and_seed_at_full_length_are_paired() -> None:
    other_data = row(C, 0.6)
    other_data = replace(other_data, trial=replace(other_data.trial, data="e" * 64))
    rows = [
        row(A, 0.8),
        row(B, 0.79, seed=7),
        other_data,
        row({"rank": 2, "scale": 10.0}, 0.7, status="stopped"),
        row({"rank": 4, "scale": 10.0}, 0.7, correct=b"\1" * 10),
        row({"rank": 8, "scale": 10.0}, None, status="diverged"),
        *seeds(B, "replicate", [0.1, 0.1, 0.1]),
        *seeds(A, "replicate", [0.8, 0.8, 0.8]),
    ]
    assert study(rows).compared == 0
    assert study([*rows, row({"rank": 2, "scale": 0.1}, 0.7)]).compared == 1


def test_alternatives_come_best_first(full: Summary) -> None:
    many = [item for item in full.studies if len(item.not_excluded) > 1]
    assert many
    for item in many:
        values = [other.value for other in item.not_excluded]
        assert values == sorted(values, reverse=True)
        assert item.winner and item.winner.config not in {x.config for x in item.not_excluded}


def test_averages_over_tasks_are_taken_seed_by_seed() -> None:
    """Two natural tasks and a structured one; per seed, then over seeds."""
    table = {
        ("digits", "lora"): (0.90, 0.80, 0.70),
        ("patches", "lora"): (0.50, 0.60, 0.70),
        ("location", "lora"): (0.10, 0.40, 0.10),
    }
    sweep = replace(SWEEP, tasks=("digits", "patches", "location"), adapters=("lora",))
    (found,) = summarise(finals(table), sweep, SUITE).adapters
    assert found.groups["natural"].values == pytest.approx((0.7, 0.7, 0.7))
    assert found.groups["structured"].values == pytest.approx((0.1, 0.4, 0.1))
    assert found.mean_tasks.values == pytest.approx((0.5, 0.6, 0.5))
    assert found.mean_tasks.mean == pytest.approx(1.6 / 3)
    assert found.mean_groups.values == pytest.approx((0.4, 0.55, 0.4))
    assert found.iqm == pytest.approx(interquartile_mean(list(table.values())))
    assert found.iqm_interval == iqm_interval(list(table.values()))
    # The tasks' variances over seeds, summed: 0.01, 0.01 and 0.03, each over 3 seeds and 3² tasks.
    variances = [0.01 / 27, 0.01 / 27, 0.03 / 27]
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    half = stats.t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert found.mean_tasks.half == pytest.approx(half)
    assert (found.parameters, found.missing) == (8192, ())


def test_averages_need_every_task() -> None:
    table = {("digits", "lora"): (0.9, 0.8, 0.7), ("location", "lora"): (0.1, 0.2)}
    sweep = replace(SWEEP, tasks=("digits", "location"), adapters=("lora",))
    (found,) = summarise(finals(table), sweep, SUITE).adapters
    assert found.groups["natural"].mean == pytest.approx(0.8)
    assert found.groups["structured"].mean is None
    assert (found.mean_tasks.mean, found.mean_groups.mean) == (None, None)
    assert (found.iqm, found.iqm_interval) == (None, None)
    assert found.missing == ("location",)


TABLE = {
    ("digits", "linear"): (0.50, 0.51, 0.52),
    ("digits", "lora"): (0.80, 0.81, 0.82),
    ("digits", "efft2"): (0.79, 0.82, 0.84),
    ("location", "linear"): (0.30, 0.31, 0.32),
    ("location", "lora"): (0.20,),
}


def test_the_best_adapter_and_those_it_cannot_be_told_from() -> None:
    sweep = replace(SWEEP, tasks=("digits", "location"))
    first, second = summarise(finals(TABLE), sweep, SUITE).best
    assert (first.task, first.adapter, first.untold) == ("digits", "efft2", ("lora",))
    assert (second.task, second.adapter) == ("location", "linear")
    assert second.untold == ("lora",), "one seed cannot be tested: not told apart"


def test_every_pair_of_adapters_is_compared() -> None:
    table = {
        **TABLE,
        ("location", "lora"): (0.29, 0.31, 0.36),
        ("location", "efft2"): (0.40, 0.41, 0.43),
    }
    sweep = replace(SWEEP, tasks=("digits", "location"))
    found = {
        (c.adapter, c.other, c.task, c.question): c
        for c in summarise(finals(table), sweep, SUITE).comparisons
    }
    assert len(found) == 3 * 2 + 3 + 3
    on_digits = found["lora", "linear", "digits", "task"]
    assert on_digits.difference == pytest.approx(0.3)
    assert on_digits.told and on_digits.p is not None and on_digits.adjusted is not None
    assert on_digits.p < on_digits.adjusted
    assert not found["lora", "linear", "location", "task"].told
    here = found["lora", "linear", None, "these tasks"]
    assert here.difference == pytest.approx(0.155) and here.told
    assert here.interval is not None and here.interval.low < 0.155 < here.interval.high
    like = found["efft2", "linear", None, "tasks like these"]
    differences = [0.3066667, 0.1033333]  # of the means, by task
    test = stats.ttest_1samp(differences, 0)
    assert like.p == pytest.approx(test.pvalue, rel=1e-4)
    interval = test.confidence_interval()
    assert like.interval is not None
    assert (like.interval.low, like.interval.high) == pytest.approx(tuple(interval), rel=1e-4)
    assert like.effect == pytest.approx(0.205 / 0.143778, rel=1e-4)


def test_differences_that_are_equal_on_every_task_are_no_sample_of_tasks() -> None:
    """By hand: .1 on each task, but for rounding; a test of it would be sure of anything."""
    table = {
        (task, name): (base + gain, base + gain + 0.02, base + gain + 0.01)
        for task, base in (("digits", 0.5), ("patches", 0.63), ("location", 0.17))
        for name, gain in (("linear", 0.0), ("lora", 0.1))
    }
    sweep = replace(SWEEP, tasks=("digits", "patches", "location"), adapters=("linear", "lora"))
    (like,) = (
        item
        for item in summarise(finals(table), sweep, SUITE).comparisons
        if item.question == "tasks like these"
    )
    assert like.difference == pytest.approx(0.1)
    assert (like.interval, like.p, like.effect) == (None, None, None)
    assert like.undefined == "the same difference on every task"


def test_a_question_that_cannot_be_answered_says_why() -> None:
    sweep = replace(SWEEP, tasks=("digits",), adapters=("linear", "lora"), seeds=1)
    rows = finals({("digits", "linear"): (0.5,), ("digits", "lora"): (0.6,)})
    found = summarise(rows, sweep, SUITE).comparisons
    assert [(item.question, item.undefined) for item in found] == [
        ("task", "one seed"),
        ("these tasks", "one seed"),
        ("tasks like these", "one task"),
    ]
    assert not any(item.told for item in found)
    three = finals({("digits", "linear"): (0.5, 0.6, 0.7), ("digits", "lora"): (0.6, 0.7, 0.9)})
    bare = [replace(row, correct=b"") for row in three]
    first, *_ = summarise(bare, replace(sweep, seeds=3), SUITE).comparisons
    assert (first.interval, first.undefined) == (None, "no matching results per image")


MEANS = ((0.5, 0.6, 0.7), (0.5, 0.7, 0.6), (0.5, 0.6, 0.7))


def test_ranks_need_three_tasks_and_adapters() -> None:
    names = ("digits", "patches", "location")
    table = {
        (task, adapter): tuple(base + 0.01 * seed for seed in range(3))
        for task, bases in zip(
            names, ((0.5, 0.6, 0.7), (0.5, 0.7, 0.6), (0.5, 0.6, 0.7)), strict=True
        )
        for adapter, base in zip(("linear", "lora", "efft2"), bases, strict=True)
    }
    sweep = replace(SWEEP, tasks=names)
    found = summarise(finals(table), sweep, SUITE).ranking
    assert found is not None
    assert found.ranks == pytest.approx({"linear": 3.0, "lora": 5 / 3, "efft2": 4 / 3})
    assert found.win_rates == pytest.approx({"linear": 0, "lora": 4 / 6, "efft2": 5 / 6})
    won = {
        f"{item.adapter} {item.other}": (item.won, item.lost)
        for item in summarise(finals(table), sweep, SUITE).comparisons
        if item.question == "tasks like these"
    }
    assert won == {"lora linear": (3, 0), "efft2 linear": (3, 0), "efft2 lora": (2, 1)}
    # Demsar 2006, table 5: q = 2.343 for three; CD = q √(k (k + 1) / 6 N).
    assert found.critical == pytest.approx(2.343 * (12 / 18) ** 0.5, abs=2e-3)
    assert found.p == pytest.approx(stats.friedmanchisquare([1, 1, 1], [2, 3, 2], [3, 2, 3]).pvalue)
    assert summarise(finals(table), replace(sweep, tasks=names[:2]), SUITE).ranking is None


def test_the_default_configuration_stands_beside_the_winner() -> None:
    sweep = replace(ONE, defaults={"lora": B})
    rows = [row(A, 0.8), row(B, 0.7), *seeds(A, "final", [0.9, 0.91, 0.92])]
    assert study(rows, sweep).default.mean is None
    found = study([*rows, *seeds(B, "final", [0.8, None, 0.82])], sweep)
    assert found.test.mean == pytest.approx(0.91)
    assert found.default.mean == pytest.approx(1.62 / 3), "a diverged seed counts as 0"
    assert found.tuning is not None and found.tuning.interval is not None
    assert found.tuning.difference == pytest.approx(0.91 - 0.54)
    low, high = found.tuning.interval.low, found.tuning.interval.high
    assert low < found.tuning.difference < high
    assert found.other_finals == 0
    assert study([*rows, *seeds(B, "final", [0.8])], ONE).other_finals == 1, "nobody asked for it"
    alone = study(rows, replace(ONE, defaults={"lora": A}))
    assert (alone.default, alone.tuning) == (alone.test, None), "the default won"


def test_final_seeds_are_put_together_from_their_logits() -> None:
    rows = [row(A, 0.8), *seeds(A, "final", [0.9, 0.9])]
    labels = np.array([0, 1, 1, 2])
    one = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.1, 0.2, 0.7]])
    other = np.array([[0.4, 0.6, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.1, 0.2, 0.7]])
    known = {1: Predictions(one, labels), 2: Predictions(other, labels)}

    def seen(rows: Sequence[TrialResult], of: Mapping[int, Predictions]) -> StudySummary:
        def probabilities(finals: Sequence[TrialResult]) -> Any:
            return probability_metrics([of.get(one.trial.seed) for one in finals])

        return summarise(rows, ONE, SUITE, probabilities=probabilities).studies[0]

    found = seen(rows, known).probabilities
    assert found is not None and found.ensemble is not None and found.gain is not None
    assert (found.ensemble.mean, found.gain.difference) == (1.0, pytest.approx(0.25))
    # Classes 0, 1, 2: of the first seed 1, 1/2, 1 right, of the second 0, 1, 1.
    assert found.mean_class.values == pytest.approx((5 / 6, 2 / 3))
    # Of the first: bins of 0.9, 0.8, 0.6, 0.7 with gaps 0.1, 0.2, -0.6, 0.3.
    assert found.calibration.values[0] == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)
    single = seen(rows[:2], known).probabilities
    assert single is not None and (single.ensemble, single.gain) == (None, None)
    assert seen(rows, {1: known[1]}).probabilities is None, "one seed's are not known"
    others = {**known, 2: Predictions(other, labels[::-1])}
    assert seen(rows, others).probabilities is None, "of other images"


def test_rows_of_other_sweeps_are_left_out() -> None:
    own = row(A, 0.8)
    others = [
        replace(own, trial=Trial.from_dict({**own.trial.to_dict(), field: "other"}))
        for field in ("suite", "backbone", "task", "adapter")
    ]
    assert own_rows([*others, own], ONE) == [own]
    assert summarise([*others, own], ONE, SUITE).run.trials == 1


def test_where_the_numbers_come_from() -> None:
    rows = [
        row(A, 0.8, started=10.0, finished=30.0, seconds=4.0, host="b", versions={"torch": "2"}),
        row(B, 0.3, status="stopped", started=5.0, finished=20.0, seconds=1.0, host="a"),
        *seeds(A, "final", [0.5]),
    ]
    rows[2] = replace(rows[2], started=31.0, finished=40.0, seconds=2.0, host="a")
    facts = summarise(rows, ONE, SUITE).run
    assert (facts.trials, facts.trial_epochs, facts.device_seconds) == (3, 23, 7.0)
    assert (facts.started, facts.finished, facts.hosts) == (5.0, 40.0, ("a", "b"))
    assert facts.statuses == {"finished": 2, "stopped": 1, "diverged": 0}
    assert facts.stages == {"search": 2, "replicate": 0, "final": 1}
    assert facts.versions["torch"] == ("2", "2.15.0")
    assert facts.data["digits"] == (rows[0].trial.data, rows[2].trial.data)
    assert (facts.test_reads, facts.leaks) == (1, 0)


def test_reads_of_test_that_break_the_protocol_are_counted() -> None:
    rows = [row(A, 0.8, test_reads=1), *seeds(A, "final", [0.5, 0.6])]
    rows[1] = replace(rows[1], test_reads=2)
    assert summarise(rows, ONE, SUITE).run.leaks == 2


@pytest.mark.parametrize("rows", [[], interrupted(sweep_results()), sweep_results()])
def test_a_summary_is_json(rows: list[TrialResult]) -> None:
    text = json.dumps(asdict(summarise(rows, SWEEP, SUITE)), allow_nan=False)
    assert len(json.loads(text)["suite_tasks"]) == 4


def test_unknown_tasks_and_protocols_are_refused() -> None:
    with pytest.raises(InvalidInput, match="digitz"):
        summarise([], replace(SWEEP, tasks=("digitz",)), SUITE)
    with pytest.raises(InvalidInput, match="unknown protocol 'papr'"):
        summarise([], ONE, SUITE, "papr")


def paper_row(
    params: dict[str, float], value: float | None, stage: Stage = "search", seed: int = 0
) -> TrialResult:
    of = trial("digits", "lora", params, stage=stage, seed=seed, protocol="paper")
    return result(of, value, eval_loss=0.5)


def test_protocols_never_mix() -> None:
    """B is best on test, A on val; each protocol sees its own rows only."""
    honest = [row(A, 0.8), row(B, 0.7), *seeds(A, "final", [0.60, 0.61, 0.62])]
    paper = [paper_row(A, 0.6), paper_row(B, 0.9)]
    paper += [paper_row(B, value, "final", seed) for seed, value in enumerate((0.7, 0.8, 0.9), 1)]
    summary = summarise([*paper, *honest], ONE, SUITE)
    (found,) = summary.studies
    assert (summary.protocol, summary.leaks, found.protocol) == ("honest", False, "honest")
    assert (summary.chosen_on, summary.score) == ("val", "val accuracy")
    assert (found.configurations, found.test.values) == (2, (0.60, 0.61, 0.62))
    assert found.winner is not None and found.winner.config == config(A)
    assert (summary.run.trials, summary.run.test_reads, summary.run.leaks) == (5, 3, 0)
    summary = summarise([*paper, *honest], ONE, SUITE, "paper")
    (found,) = summary.studies
    assert (summary.protocol, summary.leaks, found.protocol) == ("paper", True, "paper")
    assert (summary.chosen_on, summary.score) == ("test", "test accuracy, best epoch")
    assert found.winner is not None and found.winner.config == config(B)
    assert found.winner.search_value == 0.9
    assert (found.test.values, found.missing) == ((0.7, 0.8, 0.9), "")
    assert found.name == paper[0].trial.study != honest[0].trial.study
    assert (summary.run.trials, summary.run.test_reads) == (5, 25)
    assert summary.run.leaks == 0, "leaking by design is not breaking the protocol"


def test_a_seed_states_its_last_epoch_too() -> None:
    (found,) = study([row(A, 0.8), *seeds(A, "final", [0.6])]).finals
    assert found.last == found.value == 0.6
    rows = [paper_row(A, 0.8), paper_row(A, 0.6, "final", 1), paper_row(A, None, "final", 2)]
    rows[2] = replace(rows[2], status="diverged", curve=())
    first, second = summarise(rows, ONE, SUITE, "paper").studies[0].finals
    assert (first.value, first.last) == (0.6, pytest.approx(0.59))
    assert (second.value, second.last) == (None, None)
