from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.analysis.audit import MAX_LISTED, Audit, Check, audit
from orchestrator.results.selection import winner
from orchestrator.spec import Point, TrialResult
from tests.analysis.synthetic import (
    SWEEP,
    identity,
    interrupted,
    on_folds,
    result,
    sweep_results,
    trial,
)

DATA = {task: identity(task) for task in SWEEP.tasks}
A, B = {"rank": 2, "scale": 1.0}, {"rank": 4, "scale": 1.0}


def row(params: dict[str, Any], value: float, stage: Any, seed: int, start: float) -> TrialResult:
    of = trial("digits", "lora", params, stage=stage, seed=seed)
    return replace(result(of, value), started=start, finished=start + 4)


def study() -> list[TrialResult]:
    """A wins the search, B then the replicates; finals of B."""
    rows = [row(A, 0.8, "search", 0, 10), row(B, 0.7, "search", 0, 20)]
    for seed in (1, 2, 3):
        rows.append(row(A, 0.6, "replicate", seed, 30))
        rows.append(row(B, 0.7, "replicate", seed, 40))
        rows.append(row(B, 0.7, "final", seed, 50))
    return rows


def check(found: Audit, letter: str) -> Check:
    (one,) = [item for item in found.checks if item.letter == letter]
    return one


def broken(found: Audit) -> str:
    assert found.clean == (not any(not item.ok for item in found.checks))
    return "".join(item.letter for item in found.checks if not item.ok)


def changed(
    rows: Sequence[TrialResult], index: int, change: Callable[[TrialResult], TrialResult]
) -> list[TrialResult]:
    return [change(one) if number == index else one for number, one in enumerate(rows)]


@pytest.mark.parametrize("data", [None, DATA])
@pytest.mark.parametrize("rows", [sweep_results(), interrupted(sweep_results()), study(), []])
def test_an_honest_ledger_is_clean(rows: list[TrialResult], data: Any) -> None:
    found = audit(rows, SWEEP, data)
    assert found.clean, found.lines()
    assert [item.letter for item in found.checks] == list("abcdef")
    assert (found.honest, found.paper) == (len(rows), 0)


def test_replicates_on_folds_read_the_fold_of_their_seed() -> None:
    rows, sweep = on_folds(sweep_results()), replace(SWEEP, splits="folds")
    for data in (None, DATA):
        assert audit(rows, sweep, data).clean
        assert broken(audit(rows, SWEEP, data)) == "a", "the sweep has none"
        assert broken(audit(sweep_results(), sweep, data)) == "a"


SEARCH, REPLICATE, FINAL = 0, 2, 4
"""Indices in `study()`."""


def with_data(fingerprint: str) -> Callable[[TrialResult], TrialResult]:
    return lambda one: replace(one, trial=replace(one.trial, data=fingerprint))


@pytest.mark.parametrize("index", [SEARCH, REPLICATE])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: replace(one, test_reads=1), "read test 1 time"),
        (with_data(identity("digits").final), "is that of trials that read test"),
    ],
)
def test_a_choice_that_read_or_could_read_test_is_found(
    index: int, change: Callable[[TrialResult], TrialResult], why: str
) -> None:
    rows = changed(study(), index, change)
    found = audit(rows, SWEEP)
    assert "a" in broken(found)
    (violation,) = check(found, "a").violations
    assert violation.key == rows[index].key and why in violation.why
    assert any(rows[index].key in line and why in line for line in found.lines())


def test_a_choice_on_other_data_is_found() -> None:
    rows = changed(study(), SEARCH, with_data("e" * 64))
    for data in (None, DATA):
        (violation,) = check(audit(rows, SWEEP, data), "a").violations
        assert "its data is eeeeeeeeeeee, not train and val" in violation.why
    rows = [with_data("e" * 64)(one) if one.trial.stage != "final" else one for one in study()]
    assert broken(audit(rows, SWEEP)) == "", "all alike: nothing to compare with"
    assert len(check(audit(rows, SWEEP, DATA), "a").violations) == 8


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: replace(one, test_reads=0), "read test 0 times, not once"),
        (lambda one: replace(one, test_reads=2), "read test 2 times, not once"),
        (
            lambda one: replace(one, curve=(Point(7, 1e-3, 1.0, None, 0.5), *one.curve[7:])),
            "its curve was evaluated at epoch 7",
        ),
        (
            lambda one: replace(one, curve=(replace(one.curve[0], eval_loss=0.5), *one.curve[1:])),
            "its curve was evaluated at epoch 1",
        ),
        (
            lambda one: replace(one, curve=(*one.curve[:-1], Point(10, 1e-3, 1.0))),
            "its curve lacks the evaluation at the last epoch",
        ),
    ],
)  # fmt: skip
def test_a_final_that_did_not_read_test_once_at_its_end_is_found(
    change: Callable[[TrialResult], TrialResult], why: str
) -> None:
    found = audit(changed(study(), FINAL, change), SWEEP)
    assert "b" in broken(found)
    assert [violation.why for violation in check(found, "b").violations] == [why]


def test_a_final_that_read_other_data_is_found() -> None:
    rows = changed(study(), FINAL, with_data("e" * 64))
    assert broken(audit(rows, SWEEP)) == ""
    (violation,) = check(audit(rows, SWEEP, DATA), "b").violations
    assert "its data is eeeeeeeeeeee, not every split" in violation.why


def test_a_final_that_diverged_may_not_have_read_test() -> None:
    def diverge(one: TrialResult) -> TrialResult:
        return replace(result(one.trial, None, status="diverged"), test_reads=0)

    assert audit(changed(study(), FINAL, diverge), SWEEP, DATA).clean


def test_a_final_of_another_configuration_is_found() -> None:
    rows = [*study(), row(A, 0.9, "final", 1, 60)]
    found = audit(rows, SWEEP, DATA)
    assert broken(found) == "c"
    (violation,) = check(found, "c").violations
    assert (violation.key, violation.why) == (
        rows[-1].key, "its configuration is not the one chosen on val",
    )  # fmt: skip


def test_the_default_configuration_may_read_test_where_the_sweep_says_so() -> None:
    rows = [*study(), *(row(A, 0.7, "final", seed, 60) for seed in (1, 2, 3))]
    assert broken(audit(rows, replace(SWEEP, defaults={"lora": A}), DATA)) == ""
    assert broken(audit(rows, SWEEP, DATA)) == "c"


def test_a_former_winner_is_noted_not_blamed() -> None:
    """B was the winner when its finals ran; an extended search then found C."""
    c = {"rank": 8, "scale": 1.0}
    later = [row(c, 0.9, "search", 0, 100)]
    later += [row(c, 0.9, "replicate", seed, 110) for seed in (1, 2, 3)]
    later += [row(c, 0.9, "final", seed, 120) for seed in (1, 2, 3)]
    rows = [*study(), *later]
    assert winner(rows) == later[0].trial.config
    found = audit(rows, SWEEP, DATA)
    assert found.clean
    notes = check(found, "c").notes
    assert len(notes) == 3
    assert all("digits/lora final seed" in note for note in notes)
    assert all("also read test: chosen on val at that time" in note for note in notes)
    assert sum("also read test" in line for line in found.lines()) == 3


def test_the_clocks_of_hosts_may_differ_a_little() -> None:
    """The last replicates seem to end after the finals begin, and those winners are former ones."""
    c = {"rank": 8, "scale": 1.0}
    rows = [replace(one, finished=52) if one.trial.stage == "replicate" else one for one in study()]
    rows += [row(c, 0.9, "search", 0, 100)]
    rows += [row(c, 0.9, "replicate", seed, 110) for seed in (1, 2, 3)]
    assert audit(rows, SWEEP, DATA).clean


def test_reading_test_twice_with_one_configuration_and_seed_is_found() -> None:
    again = study()[FINAL]
    again = replace(again, trial=replace(again.trial, weights="c" * 64))
    found = audit([*study(), again], SWEEP, DATA)
    assert broken(found) == "d"
    assert [violation.why for violation in check(found, "d").violations] == [
        "this configuration and seed read test 2 times"
    ] * 2


def test_choices_on_other_images_are_found() -> None:
    rows = changed(study(), SEARCH, lambda one: replace(one, correct=b"\1" * 1000))
    (violation,) = check(audit(rows, SWEEP), "e").violations
    assert violation.why == "compared on 1000 images, the task's other trials on 200"
    same = [replace(one, correct=b"\1" * 200) for one in study()]
    assert audit(same, SWEEP).clean, "as many test as val images, other data"
    rows = [with_data("e" * 64)(one) for one in same]
    whys = {violation.why for violation in check(audit(rows, SWEEP), "e").violations}
    assert whys == {"compared on 200 images of the same data as final trials"}


def test_rows_of_paper_are_counted_and_labelled() -> None:
    paper = sweep_results("paper")
    both = audit([*sweep_results(), *paper], replace(SWEEP, protocols=("honest", "paper")), DATA)
    assert both.clean and both.paper == len(paper)
    (note,) = check(both, "f").notes
    assert note == (
        f"leaking: {len(paper)} trials of 9 studies; they read test "
        f"{sum(one.test_reads for one in paper)} times"
    )
    alone = audit(paper, SWEEP)
    assert any("no longer asks" in note for note in check(alone, "f").notes)
    assert not alone.clean
    assert alone.lines()[0].startswith("NOT CLEAN: only trials of the protocol paper")


def test_an_honest_label_on_a_paper_row_is_found() -> None:
    paper = [one for one in sweep_results("paper") if one.trial.adapter == "lora"]
    rows = [replace(one, trial=replace(one.trial, protocol="honest")) for one in paper]
    assert set("ab") <= set(broken(audit(rows, SWEEP)))


def test_the_lines_are_for_people() -> None:
    found = audit(study(), SWEEP, DATA)
    assert found.lines()[0] == "clean: in 11 honest trials no choice saw the test split"
    assert found.lines()[1].startswith("(a) ok: search and replicate trials")
    assert "(8 trials)" in found.lines()[1]
    assert audit([], SWEEP).lines()[0] == "nothing to audit: the ledger is empty"
    rows = [replace(one, test_reads=1) for one in sweep_results()]
    lines = audit(rows, SWEEP).lines()
    total = sum(one.trial.stage != "final" for one in rows)
    assert lines[0] == f"NOT CLEAN: broken in a, of {len(rows)} honest trials"
    assert lines[1].startswith("(a) BROKEN:")
    assert f"    and {total - MAX_LISTED} more" in lines
    assert len(lines) == 1 + 6 + MAX_LISTED + 1


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [*study(), row(A, 0.9, "final", 1, 60)]
    assert audit(rows[::-1], SWEEP, DATA) == audit(rows, SWEEP, DATA)
