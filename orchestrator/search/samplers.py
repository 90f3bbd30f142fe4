"""Samplers: which configuration of a study is tried next.

A sampler is a class in `SAMPLERS` with the methods of `Sampler`: it makes one point from the space,
the previous suggestions and a seed. It keeps no state, so an interrupted sweep continues as if it
had not been. `propose` refuses repeated points and recognises an exhausted space: where a sampler
repeats itself, as TPE does in four of five cases on a grid of some dozens of points, the unseen
point nearest to its suggestion is taken.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.errors import InvalidInput, unknown
from orchestrator.spec import derived_seed
from search_spaces import choices, contains, grid_point, grid_size, snap

# It logs each study that it creates, and warns where a Gaussian process has nothing to fit yet.
optuna.logging.set_verbosity(optuna.logging.ERROR)

Space = Mapping[str, BaseDistribution]

DEFAULT_CONFIGURATIONS = 30
"""How many configurations of a larger space are tried by default."""

_ATTEMPTS = 10
"""How often a sampler may repeat a point of a space that is not finite."""
_MOST_SCORED = 20_000
"""Points that are looked at for the nearest unseen one: of a larger space, a sample of so many."""
_ORDERED = 3
"""Numbers of a field from which on their order tells something."""


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

        `history` is in the order of suggestion. Equal arguments must give equal values. Of a point
        that was suggested before, the nearest that was not is taken.
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
    """Uniform draws among the unseen points of a finite space; of another, independent draws of its
    fields (log-uniform where the distribution says so).
    """

    exhaustive: ClassVar[bool] = False

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """A point for which no result was looked at."""
        if size := grid_size(space):
            taken = _taken(space, history)
            # One more draw than there are taken points must include an unseen one.
            order = random.Random(seed).sample(range(size), min(size, len(taken) + 1))
            points = (grid_point(space, index) for index in order)
            return next(point for point in points if _identity(space, point) not in taken)
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


class Gp:
    """Optuna's Gaussian process with the logarithm of expected improvement.

    A trial that was stopped early counts with the accuracy that it had, one that diverged with the
    lowest of all. Running trials count as their prediction.

    Reference: Snoek et al. 2012, "Practical Bayesian optimization of machine learning algorithms".
    """

    exhaustive: ClassVar[bool] = False

    def suggest(self, space: Space, history: Sequence[Observation], seed: int) -> dict[str, Any]:
        """A point of high expected improvement; uniform for the first ten."""
        known = [one.value for one in history if one.value is not None]
        worst = min(known, default=0.0)
        complete = [
            replace(one, state="finished", value=worst if one.value is None else one.value)
            if one.state in ("stopped", "diverged")
            else one
            for one in history
        ]
        return _ask(optuna.samplers.GPSampler(seed=seed % 2**32), space, complete)


SAMPLERS: dict[str, type[Sampler]] = {"tpe": Tpe, "gp": Gp, "random": Random, "grid": Grid}


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
            "list of choices or a step, or choose the sampler tpe, gp or random."
        )
    if size is None:
        return trials or DEFAULT_CONFIGURATIONS
    return min(size, trials or (size if exhaustive else DEFAULT_CONFIGURATIONS))


def propose(
    sampler: Sampler, space: Space, history: Sequence[Observation], *identity: Any
) -> dict[str, Any] | None:
    """A point that was not suggested before, or None if there is none left.

    `identity` names the study and the number of the suggestion. With the attempt it makes the seed,
    so a rebuilt sampler does not repeat its first suggestions. Points outside the space, suggested
    before it was narrowed, are ignored.
    """
    history = [observation for observation in history if contains(space, observation.values)]
    taken, size = _taken(space, history), grid_size(space)
    if len(taken) == size:
        return None
    for attempt in range(1 if size else _ATTEMPTS):
        seed = derived_seed(*identity, attempt)
        point = sampler.suggest(space, history, seed)
        point = {name: snap(space[name], point[name]) for name in space}
        if _identity(space, point) not in taken:
            return point
        if size:
            return _nearest(space, point, taken, random.Random(seed))
    return None


def _nearest(
    space: Space, point: Mapping[str, Any], taken: set[tuple[Any, ...]], drawn: random.Random
) -> dict[str, Any]:
    """The unseen point of a finite space that is nearest to `point`; of equally near ones any.

    Along an ordered field a distance counts steps, as a share of all of them; other values are 1
    apart. Distances of fields are added.
    """
    fields = {name: _Encoding.of(space[name]) for name in space}
    known = {name: one.places or choices(space[name]) or () for name, one in fields.items()}

    def distance(other: Mapping[str, Any]) -> float:
        return sum(
            abs(known[n].index(other[n]) - known[n].index(point[n])) / max(len(known[n]) - 1, 1)
            if fields[n].ordered
            else float(other[n] != point[n])
            for n in space
        )

    size, most = grid_size(space) or 0, max(_MOST_SCORED, len(taken) + 1)
    indices = range(size) if size <= most else drawn.sample(range(size), most)
    points = (grid_point(space, index) for index in indices)
    unseen = [one for one in points if _identity(space, one) not in taken]
    return min(unseen, key=lambda one: (round(distance(one), 9), drawn.random()))


@dataclass(frozen=True)
class _Encoding:
    """How a field is told to Optuna: an ordered list of numbers by their places, so that samplers
    know which are neighbours.
    """

    distribution: BaseDistribution
    ordered: bool
    places: tuple[Any, ...] = ()

    @classmethod
    def of(cls, field: BaseDistribution) -> _Encoding:
        if not isinstance(field, CategoricalDistribution):
            return cls(field, True)
        numbers = [
            v for v in field.choices if isinstance(v, int | float) and not isinstance(v, bool)
        ]
        if len(numbers) < max(len(field.choices), _ORDERED):
            return cls(field, False)
        places = tuple(sorted(numbers))
        return cls(IntDistribution(0, len(places) - 1), True, places)

    def encode(self, value: Any) -> Any:
        return self.places.index(value) if self.places else value

    def decode(self, value: Any) -> Any:
        return self.places[value] if self.places else value


def _identity(space: Space, values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in space)


def _taken(space: Space, history: Sequence[Observation]) -> set[tuple[Any, ...]]:
    return {_identity(space, observation.values) for observation in history}


def _ask(
    sampler: optuna.samplers.BaseSampler, space: Space, history: Sequence[Observation]
) -> dict[str, Any]:
    """One suggestion of an Optuna sampler for a study with this history."""
    fields = {name: _Encoding.of(space[name]) for name in space}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_frozen(fields, observation) for observation in history])
    asked = study.ask({name: one.distribution for name, one in fields.items()})
    return {name: fields[name].decode(value) for name, value in asked.params.items()}


def _frozen(fields: Mapping[str, _Encoding], observation: Observation) -> FrozenTrial:
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
        params={name: one.encode(observation.values[name]) for name, one in fields.items()},
        distributions={name: one.distribution for name, one in fields.items()},
        intermediate_values={observation.epoch: observation.value or 0.0} if reached else {},
    )
