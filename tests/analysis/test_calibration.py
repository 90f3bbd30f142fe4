"""Whether every interval and test of the report is right as often as it says, on known truths.

The product's own functions, on made-up sweeps. The table of docs/statistics.md is made by

    CALIBRATION_SWEEPS=2000 pytest -m long tests/analysis/test_calibration.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaincinv

from orchestrator.analysis.averages import compare
from orchestrator.analysis.exclusion import compared
from orchestrator.analysis.noise import SeedNoise
from orchestrator.analysis.optimism import optimism
from orchestrator.analysis.sensitivity import sensitivities
from orchestrator.analysis.statistics import (
    Answers,
    Interval,
    average,
    estimate,
    interquartile_mean,
    iqm_interval,
)
from orchestrator.analysis.summary import ALPHA, Comparison, Question, StudySummary
from orchestrator.spec import SPLITS, DataIdentity, TrialResult
from tests.analysis.synthetic import SWEEP, result, trial

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
Floats = NDArray[np.float64]
PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SWEEPS = int(os.environ.get("CALIBRATION_SWEEPS", "240"))
"""Made up for each line of the table, of nineteen tasks a third of that; where the variable is set
the table is written.
"""
SHARPNESS = 0.5
"""Few images are in doubt: their chances of being right are Beta with this many observations."""


@dataclass(frozen=True)
class World:
    """Sweeps of `tasks` tasks with `images` test images each and `seeds` seeds."""

    tasks: int
    seeds: int
    images: int = 1000
    noise: str = "normal"
    accuracy: tuple[float, float] = (0.55, 0.9)
    spread: float = 0.01
    """Standard deviation over seeds of a task's accuracy."""

    @property
    def is_edge(self) -> bool:
        """Whether an assumption does not hold: normal noise, or accuracies away from 100 %."""
        return self.noise != "normal" or self.accuracy[0] > 0.95

    @property
    def label(self) -> str:
        near = ", near 100 %" if self.accuracy[0] > 0.95 else ""
        return f"{self.tasks} × {self.seeds}, {self.images:,} images, {self.noise}{near}"


WORLDS = (
    *(World(tasks, seeds) for tasks in (3, 6, 19) for seeds in (3, 5, 10)),
    World(6, 3, images=300),
    World(6, 3, images=8000),
    World(6, 3, noise="skewed"),
    World(6, 10, noise="skewed"),
    World(6, 3, noise="outliers"),
    World(6, 10, noise="outliers"),
    World(6, 3, accuracy=(0.98, 0.99), spread=0.0015),
    World(6, 10, accuracy=(0.98, 0.99), spread=0.0015),
)


def drawn_noise(kind: str, rng: np.random.Generator, size: Any) -> Floats:
    """Mean 0, standard deviation 1."""
    if kind == "skewed":
        found: Floats = rng.exponential(1.0, size) - 1
        return found
    normal: Floats = rng.normal(0, 1, size)
    if kind == "normal":
        return normal
    return np.where(rng.random(size) < 0.1, 4.0, 1.0) * normal / np.sqrt(0.9 + 0.1 * 16)


def chances(accuracy: float, images: int, rng: np.random.Generator) -> Floats:
    """Of every image, that a trained model has it right: their mean over all images is known."""
    found: Floats = rng.beta(accuracy * SHARPNESS, (1 - accuracy) * SHARPNESS, images)
    return found


def answers(
    chance: Floats, accuracy: float, world: World, rng: np.random.Generator, seeds: int
) -> Floats:
    """(seeds, images): a seed moves the images that are in doubt, by its noise on the average."""
    doubt = chance * (1 - chance)
    moved = doubt / (accuracy * (1 - accuracy) * SHARPNESS / (SHARPNESS + 1))
    shift = world.spread * drawn_noise(world.noise, rng, seeds)
    return (rng.random((seeds, len(chance))) < chance + np.outer(shift, moved)).astype(np.float64)


@dataclass
class Counts:
    """How often what is counted happened."""

    hits: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, name: str, hit: bool) -> None:
        self.hits.setdefault(name, []).append(bool(hit))

    def interval(self, name: str, found: Interval | None, truth: float) -> None:
        if found is not None:
            self.add(name, found.low <= truth <= found.high)

    def tested(self, comparisons: Iterable[Comparison], *questions: Question) -> None:
        """Of every question the first comparison alone, and all pairs together after Holm."""
        found = list(comparisons)
        for question in questions:
            own = [c for c in found if c.question == question and c.task in (None, "0")]
            self.add(question, own[0].p is not None and own[0].p < ALPHA)
            self.add(f"{question}, Holm", any(c.told for c in own))

    def share(self, name: str) -> float:
        return float(np.mean(self.hits[name]))


COVERED = {
    "task, seeds": "task: seeds",
    "task, images": "task: seeds, images",
    "mean, seeds": "mean: seeds",
    "mean, images": "mean: seeds, images",
    "IQM": "IQM: seeds",
}
FALSE = {
    "task": "on a task",
    "these tasks": "on these tasks",
    "tasks like these": "on tasks like these",
}
"""Question → its column: a pair of equally good adapters, before Holm."""


def study(task: str, adapter: str, right: Floats) -> StudySummary:
    """A complete study with these final seeds."""
    nothing, test = estimate([]), estimate(right.mean(1).tolist())
    return StudySummary(
        task=task, group="all", adapter=adapter, protocol="honest", counts={}, configurations=1,
        winner=None, replicates=(), finals=(), val=nothing, test=test, compared=0,
        not_excluded=(), detectable=None, optimism=None, default=nothing, tuning=None,
        probabilities=None, other_finals=0, device_seconds=0.0, missing="", diverged="",
    )  # fmt: skip


def sweeps(world: World, rng: np.random.Generator, counts: Counts) -> None:
    """One made-up sweep: three adapters, equally good in the mean of all images of a task."""
    studies, tables, rows, known, truths, means, pooled = [], {}, [], [], [], [], []
    low, high = world.accuracy
    for task in range(world.tasks):
        accuracy = rng.uniform(low, high)
        shared = chances(accuracy, world.images, rng)
        for adapter in ("a", "b", "c"):
            own = chances(accuracy, world.images, rng)
            chance = np.where(rng.random(world.images) < 0.7, shared, own)
            right = answers(chance, accuracy, world, rng, world.seeds)
            studies.append(study(str(task), adapter, right))
            tables[str(task), adapter] = Answers(right)
            if adapter == "a":
                rows.append(right.mean(1).tolist())
                known.append(tables[str(task), adapter])
                truths.append(chance.mean())
                means.append(accuracy)
                rest = np.sqrt((chance * (1 - chance)).mean() / world.images)
                noise = world.spread * drawn_noise(world.noise, rng, 400)
                pooled.append(chance.mean() + noise + rng.normal(0, rest, 400))
    first = estimate(rows[0], known[0])
    counts.interval("task, seeds", first.interval, truths[0])
    counts.interval("task, images", first.images, means[0])
    mean = average(rows, [1 / world.tasks] * world.tasks, known)
    counts.interval("mean, seeds", mean.interval, float(np.mean(truths)))
    counts.interval("mean, images", mean.images, float(np.mean(means)))
    truth = interquartile_mean([one.tolist() for one in pooled])
    counts.interval("IQM", iqm_interval(rows, repetitions=500), truth)
    counts.tested(compare(studies, tables), "task", "these tasks")


def like_these(world: World, rng: np.random.Generator, counts: Counts) -> None:
    """Adapters that are equally good over all tasks, each better on some: by 1.5 points or so."""
    studies = []
    for task in range(world.tasks):
        accuracy = rng.uniform(*world.accuracy)
        for adapter in ("a", "b", "c"):
            own = float(np.clip(accuracy + rng.normal(0, 0.015), 0.01, 0.999))
            right = answers(chances(own, world.images, rng), own, world, rng, world.seeds)
            studies.append(study(str(task), adapter, right))
    counts.tested(compare(studies, {}), "tasks like these")


def one_point(world: World, rng: np.random.Generator, counts: Counts) -> None:
    """Whether one point over all tasks is found."""
    studies, tables = [], {}
    for task in range(world.tasks):
        accuracy = rng.uniform(*world.accuracy)
        shared = chances(accuracy, world.images, rng)
        for adapter, gain in (("a", 0.0), ("b", 0.01)):
            chance = np.clip(shared + gain * (shared < 0.97) / (shared < 0.97).mean(), 0, 1)
            right = answers(chance, accuracy, world, rng, world.seeds)
            studies.append(study(str(task), adapter, right))
            tables[str(task), adapter] = Answers(right)
    (found,) = (c for c in compare(studies, tables) if c.question == "these tasks")
    counts.add("power", found.told)


def measure() -> dict[World, Counts]:
    found = {}
    for number, world in enumerate(WORLDS):
        rng, counts = np.random.default_rng(number), Counts()
        for index in range(SWEEPS if world.tasks < 19 else SWEEPS // 3):
            sweeps(world, rng, counts)
            like_these(world, rng, counts)
            if index % 4 == 0:
                one_point(world, rng, counts)
        found[world] = counts
    return found


def write(found: Mapping[World, Counts]) -> None:
    """Puts the table into docs/statistics.md."""
    columns = [*COVERED, *FALSE, *(f"{question}, Holm" for question in FALSE), "power"]
    heads = [*COVERED.values(), *FALSE.values(), *(f"{name}, Holm" for name in FALSE.values())]
    lines = [f"| tasks × seeds | {' | '.join(heads)} | a point found |", "|---" * 13 + "|"]
    for world, counts in found.items():
        cells = (f"{100 * counts.share(name):.1f}" for name in columns)
        lines.append(f"| {world.label} | {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    note = f"Of {SWEEPS:,} made-up sweeps for each line ({SWEEPS // 3:,} with 19 tasks):"
    PAGE.write_text(f"{before}{BEGIN}\n{note}\n\n{chr(10).join(lines)}\n{END}{after}")


def pooled_share(found: Mapping[World, Counts], name: str, edges: bool) -> float:
    worlds = [world for world in found if world.is_edge == edges]
    return float(np.mean([hit for world in worlds for hit in found[world].hits[name]]))


def test_intervals_and_tests_are_right_as_often_as_they_say() -> None:
    found = measure()
    if os.environ.get("CALIBRATION_SWEEPS"):
        write(found)
    for name in COVERED:
        assert 0.93 <= pooled_share(found, name, edges=False) <= 0.97, name
    for question in FALSE:
        for edges in (False, True):
            assert 0.03 <= pooled_share(found, question, edges) <= 0.06, question
            assert pooled_share(found, f"{question}, Holm", edges) <= 0.06, question
    for world, counts in found.items():
        for name in COVERED:
            error = (0.9 * 0.1 / len(counts.hits[name])) ** 0.5
            assert counts.share(name) >= 0.90 - 2 * error, (name, world.label)
        for question in FALSE:
            error = (0.07 * 0.93 / len(counts.hits[question])) ** 0.5
            assert counts.share(question) <= 0.07 + 2 * error, (question, world.label)
    assert found[World(19, 3)].share("power") > 0.9, "one point over 19 tasks at 3 seeds"


EQUAL = 24
"""Configurations that are equally good."""


@dataclass(frozen=True)
class MadeSearch:
    """A search whose two best configurations were replicated, the better of them the winner."""

    rows: list[TrialResult]
    """Of the search, by configuration."""
    every: list[TrialResult]
    winner: int
    noise: SeedNoise
    truths: Floats
    """Of every configuration with the difficulty that these images have for all of them."""


def made_search(
    rng: np.random.Generator, seeds: int, spread: float, gains: Floats, splits: str = "fixed"
) -> MadeSearch:
    """Of configurations that are better than a common accuracy by `gains` (K,); 200 val images, or
    with folds of 1,000 other 200 for every seed.
    """
    images, accuracy = 1000 if splits == "folds" else 200, rng.uniform(0.6, 0.85)
    world = World(1, seeds, images, spread=spread)
    shared, common = rng.random(images), rng.random(images) < 0.7
    folds = [np.arange(200), *(rng.permutation(images)[:200] for _ in range(seeds))]
    folds = folds if splits == "folds" else [np.arange(200)] * (1 + seeds)
    rows, replicates, luck = [], [], []
    for number, gain in enumerate(gains):
        own = float(np.clip(accuracy + gain, 0.02, 0.98))
        place = np.where(common, shared, rng.random(images))
        chance = betaincinv(own * SHARPNESS, (1 - own) * SHARPNESS, place)
        right = answers(chance, own, world, rng, 1 + seeds)
        one = replace(ROW, trial=replace(ROW.trial, params={"rank": number}))
        rows.append(with_answers(one, right[0][folds[0]]))
        replicates.append([
            with_answers(replicate(one, seed, splits), right[seed][folds[seed]])
            for seed in range(1, 1 + seeds)
        ])  # fmt: skip
        luck.append(np.mean([chance[fold].mean() for fold in folds]) - own)
    best = sorted(range(len(rows)), key=lambda i: -(rows[i].value or 0))[:2]
    winner = max(best, key=lambda i: np.mean([row.value for row in replicates[i]]))
    chosen = [row for index in best for row in replicates[index]]
    truths = np.clip(accuracy + gains, 0.02, 0.98) + np.mean(luck)
    noise = SeedNoise.of(rows[winner], [*rows, *chosen], 0.2)
    return MadeSearch(rows, [*rows, *chosen], winner, noise, truths)


def replicate(row: TrialResult, seed: int, splits: str) -> TrialResult:
    data = DataIdentity(row.trial.data, "").read_by("replicate", seed, splits, leaks=False)
    return replace(row, trial=replace(row.trial, stage="replicate", seed=seed, data=data))


def excludes_an_equal(rng: np.random.Generator, seeds: int, spread: float, splits: str) -> bool:
    made = made_search(rng, seeds, spread, np.zeros(EQUAL), splits)
    return any(item.excluded for item in compared(made.rows[made.winner], made.rows, made.noise))


GAINS: Mapping[str, Callable[[np.random.Generator, int], Floats]] = {
    "equal": lambda rng, count: np.zeros(count),
    "close": lambda rng, count: rng.normal(0, 0.01, count),
    "wide": lambda rng, count: rng.normal(0, 0.03, count),
    "half far off": lambda rng, count: np.where(
        rng.random(count) < 0.5, -rng.uniform(0.05, 0.5, count), rng.normal(0, 0.01, count)
    ),
}
"""How configurations differ."""


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("count", [8, 24])
@pytest.mark.parametrize("kind", GAINS)
def test_the_advantage_of_having_been_chosen_is_taken_off(
    kind: str, count: int, splits: str
) -> None:
    rng = np.random.default_rng(count)
    errors, raw, covered = [], [], []
    for _ in range(SWEEPS):
        made = made_search(rng, 3, 0.01, GAINS[kind](rng, count), splits)
        found = optimism(made.rows[made.winner], made.rows, made.every, made.noise)
        assert found is not None and found.replicated is not None
        truth = made.truths[made.winner]
        errors.append(found.corrected - truth)
        raw.append(found.corrected + found.replicated - truth)
        covered.append(found.interval.low <= truth <= found.interval.high)
    assert abs(np.mean(errors)) < 0.01
    if splits == "fixed":
        assert np.mean(raw) > 0.007, "what replicates say is too high"
        assert abs(np.mean(errors)) < 0.5 * np.mean(raw)
    assert np.mean(covered) > 0.88


ROW = result(trial())


def with_answers(row: TrialResult, right: Floats) -> TrialResult:
    correct = right.astype(np.uint8).tobytes()
    return replace(row, value=float(right.mean()), correct=correct)


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("spread", [0.002, 0.01])
@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_configurations_are_excluded_together_in_five_per_cent(
    seeds: int, spread: float, splits: str
) -> None:
    rng = np.random.default_rng(seeds)
    share = np.mean([excludes_an_equal(rng, seeds, spread, splits) for _ in range(SWEEPS)])
    assert share < 0.07


@pytest.mark.parametrize("tasks", [1, 3, 19])
def test_a_field_without_effect_is_recommended_in_five_per_cent(tasks: int) -> None:
    """One level is tried most, as a sampler does that prefers it."""
    names = tuple(f"task{index}" for index in range(tasks))
    sweep = replace(
        SWEEP, tasks=names, adapters=("lora",), spaces={"lora": {"scale": [0.1, 1.0, 10.0]}}
    )
    rng = np.random.default_rng(tasks)
    found = []
    for _ in range(SWEEPS // 2):
        rows = []
        for name in names:
            base = rng.uniform(0.4, 0.9)
            levels = [0.1, 1.0, 10.0, *rng.choice([0.1, 1.0, 10.0], 17, p=[0.15, 0.7, 0.15])]
            for number, level in enumerate(levels):
                params = {"scale": float(level), "rank": number}
                of = replace(ROW.trial, task=name, params=params)
                rows.append(replace(ROW, trial=of, value=base + rng.normal(0, 0.03)))
        (one,) = sensitivities(rows, sweep)
        found.append(one.recommended is not None)
    assert np.mean(found) < 0.08
