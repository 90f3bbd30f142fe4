"""Samplers: which configuration of a study is tried next.

A sampler is a class in `SAMPLERS` with the methods of `Sampler`: it makes one point from the space,
the previous suggestions and a seed. It keeps no state, so an interrupted sweep continues as if it
had not been. `propose` refuses repeated points and recognises an exhausted space.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.errors import InvalidInput, unknown
from orchestrator.spec import derived_seed
from search_spaces import contains, grid_point, grid_size, snap

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it logs each study that it creates

Space = Mapping[str, BaseDistribution]

DEFAULT_CONFIGURATIONS = 30
"""How many configurations of a larger space are tried by default."""

_ATTEMPTS = 10
"""How often a sampler may repeat a point before an unseen one is drawn instead."""


@dataclass(frozen=True)
class Observation:
    """A previous suggestion: the searched fields' values and the state of its trial.

    `value` is the accuracy after `epoch` epochs; None while running, when diverged or failed.
    """

    values: Mapping[str, Any]
    state: Literal["running", "finished", "stopped", "diverged", "failed"]
    value: float | None = None
    epoch: int = 0


class Sampler(Protocol):
    """The interface that `propose` uses."""

    exhaustive: ClassVar[bool]
    """True if it enumerates a finite space (and cannot be used with another)."""

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """One value per field of `space`, which is neither empty nor exhausted.

        `history` is in the order of suggestion. Equal arguments must give equal values. For a point
        that was suggested before, `suggest` is called again with another seed.
        """
        ...


class Grid:
    """Every point in declared order, the last field fastest."""

    exhaustive: ClassVar[bool] = True

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """The first point that was not suggested before."""
        taken = _taken(space, history)
        points = (grid_point(space, index) for index in range(grid_size(space) or 0))
        return next(point for point in points if _identity(space, point) not in taken)


class Random:
    """Independent uniform draws (log-uniform where the distribution says so)."""

    exhaustive: ClassVar[bool] = False

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """A point that depends on the seed alone."""
        return _ask(optuna.samplers.RandomSampler(seed=seed % 2**32), space, ())


class Tpe:
    """Optuna's multivariate TPE; running trials count as bad ones, which spreads parallel trials.

    Reference: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization".
    """

    exhaustive: ClassVar[bool] = False

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """A promising point given the finished trials; uniform for the first ten."""
        sampler = optuna.samplers.TPESampler(
            seed=seed % 2**32, multivariate=True, constant_liar=True
        )
        return _ask(sampler, space, history)


SAMPLERS: dict[str, type[Sampler]] = {"tpe": Tpe, "random": Random, "grid": Grid}


def make_sampler(name: str) -> Sampler:
    """The sampler of that name; `InvalidInput` with the alternatives otherwise."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]()


def planned_configurations(sampler: str, space: Space, trials: int | None) -> int:
    """How many configurations a study searches: never more than its space has.

    `trials` None means a whole grid; for other samplers a finite space up to 30 points, 30 points
    of a larger one. `InvalidInput` for a grid over a space that is not finite.
    """
    size, exhaustive = grid_size(space), make_sampler(sampler).exhaustive
    if trials is not None and trials < 1:
        raise InvalidInput(f"trials is {trials}; allowed: at least 1.")
    if size is None and exhaustive:
        open_fields = [name for name in space if grid_size({name: space[name]}) is None]
        raise InvalidInput(
            f"sampler '{sampler}' needs finitely many values of {', '.join(open_fields)}: give a "
            "list of choices or a step, or choose the sampler tpe or random."
        )
    if size is None:
        return trials or DEFAULT_CONFIGURATIONS
    return min(size, trials or (size if exhaustive else DEFAULT_CONFIGURATIONS))


def propose(
    sampler: Sampler, space: Space, history: Sequence[Observation], *identity: Any
) -> dict[str, Any] | None:
    """A point that was not suggested before, or None if there is none left.

    `identity` names the study and the number of the suggestion. With the attempt it makes the seed,
    so a rebuilt sampler does not repeat its first suggestions. If a sampler repeats itself all the
    same, as TPE does on small spaces, an unseen point in a seeded order is taken. Points outside
    the space, suggested before it was narrowed, are ignored.
    """
    history = [observation for observation in history if contains(space, observation.values)]
    taken = _taken(space, history)
    if len(taken) == grid_size(space):
        return None
    for attempt in range(1 if sampler.exhaustive else _ATTEMPTS):
        seed = derived_seed(*identity, attempt)
        point = sampler.suggest(space, history, seed)
        point = {name: snap(space[name], point[name]) for name in space}
        if _identity(space, point) not in taken:
            return point
    return _unseen(space, taken, derived_seed(*identity, "unseen"))


def _unseen(space: Space, taken: set[tuple[Any, ...]], seed: int) -> dict[str, Any] | None:
    size = grid_size(space)
    if size is None:
        return None
    # One more draw than there are taken points must include an unseen one.
    order = random.Random(seed).sample(range(size), min(size, len(taken) + 1))
    points = (grid_point(space, index) for index in order)
    return next((point for point in points if _identity(space, point) not in taken), None)


def _identity(space: Space, values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in space)


def _taken(space: Space, history: Sequence[Observation]) -> set[tuple[Any, ...]]:
    return {_identity(space, observation.values) for observation in history}


def _ask(
    sampler: optuna.samplers.BaseSampler, space: Space, history: Sequence[Observation]
) -> dict[str, Any]:
    """One suggestion of an Optuna sampler for a study with this history."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for observation in history:
        study.add_trial(_frozen(space, observation))
    return study.ask(dict(space)).params


def _frozen(space: Space, observation: Observation) -> FrozenTrial:
    """For Optuna: a stopped trial ranks below every finished one, a diverged one last."""
    state = {
        "running": TrialState.RUNNING,
        "finished": TrialState.COMPLETE,
        "failed": TrialState.FAIL,
    }.get(observation.state, TrialState.PRUNED)
    reached = observation.state == "stopped" and observation.value is not None
    return create_trial(
        state=state,
        value=observation.value if state is TrialState.COMPLETE else None,
        params=dict(observation.values),
        distributions=dict(space),
        intermediate_values={observation.epoch: observation.value or 0.0} if reached else {},
    )
