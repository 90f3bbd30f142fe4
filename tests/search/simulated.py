"""Sweeps without training: results are a fixed function of the trial."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from orchestrator.search import Done, Search, SuggestionStore, Wait
from orchestrator.spec import (
    DataIdentity,
    Point,
    Recipe,
    Study,
    Sweep,
    Trial,
    TrialResult,
    derived_seed,
)

SPACE: dict[str, BaseDistribution] = {
    "scale": CategoricalDistribution((0.01, 0.1, 1.0, 10.0, 100.0)),
    "rank": CategoricalDistribution((8, 16, 32)),
}
RECIPE = Recipe(epochs=10, warmup_epochs=2)
TASKS = ("easy", "hard")


def study(
    task: str = "easy",
    adapter: str = "efft2",
    space: Mapping[str, BaseDistribution] = SPACE,
    recipe: Recipe = RECIPE,
) -> Study:
    return Study(
        suite="mini",
        task=task,
        backbone="vit_mini",
        adapter=adapter,
        params={"scale": 1.0, "rank": 8, "init": "vv"},
        recipe=recipe,
        space=space,
        data=DataIdentity(search=f"{task}-search", test=f"{task}-test"),
        weights="weights",
    )


def sweep(**changes: Any) -> Sweep:
    values: dict[str, Any] = {
        "suite": "mini",
        "backbone": "vit_mini",
        "tasks": TASKS,
        "adapters": ("efft2",),
        "sampler": "grid",
        "stopping": "none",
        "trials": None,
        "seeds": 2,
        "replicate": 2,
        "recipe": RECIPE,
        "spaces": {},
    }
    return Sweep(**(values | changes))


def accuracy(trial: Trial, epoch: int) -> float:
    """Steps of 1/200 like 200 validation images; `hard` stays below every value of `easy`."""
    noise = derived_seed(trial.key, epoch) % 20
    merit = derived_seed(trial.task, trial.config) % 40
    return (100 * (trial.task == "easy") + merit + noise + epoch) / 200


def result(trial: Trial, epochs: int | None = None, stopping: str = "") -> TrialResult:
    """The row of a trial that ran `epochs` epochs (default all); shorter ones are `stopped`."""
    last = epochs or trial.recipe.epochs
    curve = tuple(
        Point(epoch, lr=1e-3, loss=1.0, eval_loss=1.0, eval_accuracy=accuracy(trial, epoch))
        for epoch in range(1, last + 1)
    )
    return TrialResult(
        trial=trial,
        status="stopped" if last < trial.recipe.epochs else "finished",
        value=accuracy(trial, last),
        eval_loss=1.0,
        epochs_run=last,
        curve=curve,
        correct=b"",
        parameters=1,
        stopping=stopping if last < trial.recipe.epochs else "",
    )


def diverged(trial: Trial) -> TrialResult:
    return TrialResult(trial, "diverged", None, None, 1, (), b"", 1)


@dataclass
class SimulatedSweep:
    """Runs up to `width` trials at once and ends them in a random order given by `seed`."""

    search: Search
    stopping: str = "none"
    width: int = 4
    seed: int = 0
    outcome: Callable[[Trial], TrialResult] | None = None
    asked: list[Trial] = field(default_factory=list)
    rows: list[TrialResult] = field(default_factory=list)
    in_flight: list[Trial] = field(default_factory=list)

    def run(self, results: int | None = None) -> list[TrialResult]:
        """Until the search is done, or until there are that many results."""
        order = random.Random(self.seed)
        in_flight = self.in_flight
        while results is None or len(self.rows) < results:
            answer = self.search.ask() if len(in_flight) < self.width else Wait()
            if isinstance(answer, Trial):
                self.asked.append(answer)
                in_flight.append(answer)
            elif in_flight:
                self._end(in_flight.pop(order.randrange(len(in_flight))))
            else:
                assert isinstance(answer, Done), "nothing runs and nothing is asked"
                break
        return self.rows

    def _end(self, trial: Trial) -> None:
        row = self.outcome(trial) if self.outcome else self._trained(trial)
        self.rows.append(row)
        self.search.tell(row)

    def _trained(self, trial: Trial) -> TrialResult:
        for epoch in self.search.rungs(trial):
            if self.search.rung(trial.key, epoch, accuracy(trial, epoch)) == "stop":
                return result(trial, epoch, self.stopping)
        return result(trial)


def simulate(
    folder: Path,
    finished: Iterable[TrialResult] = (),
    studies: Iterable[Study] | None = None,
    width: int = 4,
    seed: int = 0,
    **changes: Any,
) -> SimulatedSweep:
    """A simulated sweep with these changes, whose suggestions are in `folder`."""
    if studies is None:
        studies = [study(task) for task in TASKS]
    chosen = sweep(**changes)
    search = Search(chosen, list(studies), SuggestionStore(folder), finished)
    return SimulatedSweep(search, stopping=chosen.stopping, width=width, seed=seed)


def configurations(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Searched configurations by study, in the order asked."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        if trial.stage == "search":
            found.setdefault(trial.study, []).append(trial.config)
    return found
