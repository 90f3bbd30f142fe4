"""Searches replayed on recorded trials: known regrets, and records that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import InvalidInput
from orchestrator.search.record import RecordedStudy, read_record
from orchestrator.search.replay import PRIORS, Policy, Replayed, replay
from orchestrator.search.samplers import SAMPLERS
from orchestrator.search.stopping import RULES
from tests.commands import start

SCALES, RANKS, INITS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0), (2, 4, 8), ("u", "v")
EPOCHS = 9
FAST = sorted(SAMPLERS.keys() - {"gp"})
"""Optuna's Gaussian process takes a second for a suggestion."""


def rows(tasks: Iterable[str] = ("a", "b")) -> list[dict[str, Any]]:
    """Whole grids: val rises with the scale's place up to 3 (task a) or 1, with noise of seeds."""
    found = []
    for task in tasks:
        best = 3 if task == "a" else 1
        noise = np.random.default_rng(len(found))
        for (place, scale), rank, init in product(enumerate(SCALES), RANKS, INITS):
            level = 0.8 - 0.05 * abs(place - best) - 0.005 * (rank != 4) - 0.002 * (init == "u")
            for seed in range(3):
                end = level + 0.01 * noise.standard_normal()
                found.append({
                    "task": task, "adapter": "efft2", "seed": seed, "scale": scale, "rank": rank,
                    "init": init, "parameters": rank, "test": level - 0.1,
                    "val": [round(end * (1 - 0.5 ** (e + 1)), 4) for e in range(EPOCHS)],
                })  # fmt: skip
    return found


def written(found: list[dict[str, Any]], path: Path) -> Path:
    if path.suffix == ".csv":
        texts = [{**row, "val": " ".join(map(str, row["val"]))} for row in found]
        pc.write_csv(pa.Table.from_pylist(texts), path)
    else:
        pq.write_table(pa.Table.from_pylist(found), path)
    return path


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedStudy]:
    return read_record(written(rows(), tmp_path_factory.mktemp("record") / "r.parquet"))


def test_a_table_is_read_the_same_from_both_kinds_of_file(
    studies: list[RecordedStudy], tmp_path: Path
) -> None:
    assert read_record(written(rows(), tmp_path / "r.csv")) == studies
    one, _ = studies
    assert (one.name, one.seeds, one.epochs) == ("a/efft2", (0, 1, 2), EPOCHS)
    assert {name: field.choices for name, field in one.space.items()} == {
        "scale": SCALES, "rank": RANKS, "init": INITS,
    }  # fmt: skip


@pytest.mark.parametrize("stopping", sorted(RULES))
@pytest.mark.parametrize("sampler", FAST)
def test_a_whole_space_ends_without_regret(
    studies: list[RecordedStudy], sampler: str, stopping: str
) -> None:
    found = replay(studies, Policy(sampler, stopping), 1)
    for one in found:
        assert len(one.steps) == one.size == 36
        regrets = [step.val for step in one.steps]
        assert regrets == sorted(regrets, reverse=True) and regrets[-1] >= 0
        whole = one.size * EPOCHS
        if stopping == "none":
            assert regrets[-1] == 0
            assert [step.epochs for step in one.steps] == list(range(EPOCHS, whole + 1, EPOCHS))
            assert one.epochs == whole + 2 * 3 * EPOCHS, "two replicated with three seeds"
        elif stopping != "patience":
            assert one.steps[-1].epochs < 0.9 * whole
        else:
            assert one.steps[-1].epochs == whole, "every recorded curve rises to its end"
    assert replay(studies, Policy(sampler, stopping), 1) == found
    if sampler != "grid":
        assert replay(studies, Policy(sampler, stopping), 4) != found, "another repetition"


def test_regret_is_that_of_the_configuration_that_would_be_chosen(
    studies: list[RecordedStudy],
) -> None:
    """The grid's first points have the lowest scale: 15 points below the best one of task a."""
    one, other = replay(studies, Policy("grid"), 0, budget=0.1)
    assert [len(one.steps), len(other.steps)] == [4, 4]
    assert one.steps[0].test == pytest.approx(0.15 + 0.005 + 0.002)
    assert other.steps[0].test == pytest.approx(0.05 + 0.005 + 0.002)
    assert one.at(0.01) == one.steps[0] and one.at(1.0) == one.steps[-1]


def mean_test(found: list[Replayed], share: float) -> float:
    return float(np.mean([one.at(share).test for one in found]))


def test_samplers_that_learn_beat_chance(studies: list[RecordedStudy]) -> None:
    at = {
        name: np.mean([mean_test(replay(studies, Policy(name), r, 0.5), 0.5) for r in range(8)])
        for name in ("random", "tpe")
    }
    assert at["tpe"] < at["random"]


def test_what_other_tasks_know_comes_first(studies: list[RecordedStudy]) -> None:
    """Rank 4 and init v are the best on both tasks, the best scales are two steps apart."""
    first = {
        prior: np.mean(
            [
                [one.steps[0].val for one in replay(studies, Policy("random", prior=prior), r, 0.1)]
                for r in range(4)
            ],
            0,
        )
        for prior in PRIORS
    }
    assert (first["record"] < 0.13).all(), "two steps cost 10 points"
    assert first["sweep"][0] == first["none"][0], "nothing is known before the first study"
    assert replay(studies, Policy("random", prior="record"), 1)[0].steps[-1].val == 0


def test_a_study_in_two_records_is_refused(studies: list[RecordedStudy]) -> None:
    with pytest.raises(InvalidInput, match="several records have b/efft2"):
        replay([*studies, studies[1]], Policy("random"), 0)


def test_without_test_accuracies_there_is_no_regret_on_test(tmp_path: Path) -> None:
    bare = [{**row, "test": None} for row in rows(("a",))]
    (one,) = replay(read_record(written(bare, tmp_path / "r.parquet")), Policy("random"), 0)
    assert {step.test for step in one.steps} == {None} and one.winner is None


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r[1:], r"a/efft2: missing: scale=0.01 rank=2 init=u seed=0"),
        (lambda r: [*r, r[0]], r"a/efft2: more than once: scale=0.01 rank=2 init=u seed=0"),
        (lambda r: [r[0] | {"rank": None}, *r[1:]], "a/efft2: rank has no value in some"),
        (lambda r: [r[0] | {"val": [0.5]}, *r[1:]], r"different numbers of epochs \(1 of 1, 107"),
        (lambda r: [r[0] | {"val": [1.5] * 9}, *r[1:]], r"cannot be used \(1\).*from 0 to 1"),
        (lambda r: [r[0] | {"test": 7.0}, *r[1:]], r"cannot be used \(1\)"),
        (lambda r: [r[0] | {"task": ""}, *r[1:]], r"cannot be used \(1\)"),
        (
            lambda r: [{k: v for k, v in x.items() if k != "val"} for x in r],
            "lacks the columns val",
        ),
        (lambda r: r[:0], "no rows|lacks the columns"),
    ],
)
def test_a_record_that_cannot_be_replayed_is_refused_by_name(
    change: Change, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_record(written(change(rows()), tmp_path / "r.parquet"))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    twice = [row for index, row in enumerate(rows()) if index not in (0, 110)]
    with pytest.raises(InvalidInput, match=r"(?s)a/efft2: missing.*b/efft2: missing"):
        read_record(written(twice, tmp_path / "r.parquet"))
    for name, content in (("r.parquet", b"no parquet"), ("r.csv", b"\xff\xfe\0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=r"cannot be read|lacks the columns"):
            read_record(tmp_path / name)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_record(tmp_path / "none.parquet")


def test_the_command_prints_and_plots_every_policy(tmp_path: Path) -> None:
    record, figure = written(rows(("a",)), tmp_path / "r.csv"), tmp_path / "regret.svg"
    asked = ["--sampler", "grid", "--sampler", "random", "--stopping", "none", "--stopping", "asha"]
    shares = ["--repeats", "2", "--budget", "0.5", "--budget", "1", "--plot", str(figure)]
    process = start(["replay", str(record), *asked, *shares], tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    lines = [line.split() for line in printed.splitlines()]
    found = {(line[0], line[1]): line for line in lines if line and line[-1].isdigit()}
    names = ("grid", "grid+asha", "random", "random+asha")
    assert found.keys() == {(name, share) for name in names for share in ("50", "100")}
    assert found["grid", "100"][3:5] == ["0.00", "0.00"] or found["grid", "100"][3] == "0.00"
    assert figure.read_text().startswith("<svg") and "random+asha" in figure.read_text()
