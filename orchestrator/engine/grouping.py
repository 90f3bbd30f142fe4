"""Which trials may share a stack, and why two may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from adapters.partial_forward import first_changed_block
from adapters.stack import path_rates
from orchestrator.engine.frozen import FrozenBackbone
from orchestrator.engine.training import Training


@dataclass(frozen=True)
class GroupKey:
    """What the trials of one stack have in common.

    `adapter` holds the name and each hyper-parameter that must be equal in a stack. `prefix` is the
    cut at which training steps start (None: at images); `changed` the first block that the adapter
    changes, up to which evaluations are the same for all trials; `reads` are the blocks before it
    whose inputs the adapter reads. `only_trial` is the trial's key if its adapter has
    `max_trials = 1`, else empty.
    """

    adapter: tuple[tuple[str, Any], ...]
    batch: int
    last_batch: str
    optimiser: str
    normalisation: str
    precision: str
    augment: str  # else whole images would be resampled because of cropped ones in their batch
    view: str
    prefix: int | None
    head: bool
    only_trial: str
    changed: int | None = field(compare=False)
    reads: tuple[int, ...] = field(compare=False)

    def label(self) -> str:
        """A short description for reports."""
        (_, name), *rest = self.adapter
        chosen = ", ".join(f"{field}={value}" for field, value in rest if value is not None)
        return f"{name} ({chosen}), batch {self.batch}" if chosen else f"{name}, batch {self.batch}"


def group_key(training: Training, frozen: FrozenBackbone) -> GroupKey:
    """The key of a trial; trials with equal keys may share a stack."""
    recipe = training.trial.recipe
    adapter, sites = training.adapter, frozen.sites
    changed = first_changed_block(training.member, sites)
    reads = adapter.reads(adapter.select(sites))
    return GroupKey(
        adapter.family(),
        recipe.batch,
        recipe.last_batch,
        recipe.optimiser,
        recipe.normalisation,
        training.trial.precision,
        recipe.augment,
        training.train.view,
        _training_cut(training, frozen, changed, reads),
        training.member.classes is not None,
        training.key if adapter.max_trials == 1 else "",
        changed,
        reads,
    )


def incompatible_because(one: GroupKey, other: GroupKey) -> str:
    """Why trials of two groups may not share a stack: each difference with both values."""
    if one.only_trial or other.only_trial:
        single = one if one.only_trial else other
        return f"{single.adapter[0][1]} takes one trial at a time"
    found = _differences(one.adapter, other.adapter)
    names = [item.name for item in fields(GroupKey) if item.compare and item.name != "adapter"]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    found += [f"{name} ({a}, {b})" for name, a, b in pairs if a != b]
    return "; ".join(found)


def _training_cut(
    training: Training, frozen: FrozenBackbone, changed: int | None, reads: Sequence[int]
) -> int | None:
    """Where steps may start: nothing before it is adapted or random, and it is worth keeping."""
    if changed is None or training.trial.recipe.augment != "none":
        return None
    rates = path_rates(training.member.drop_path, frozen.sites.depth)[::2]
    first_random = next((block for block, rate in enumerate(rates) if rate > 0), frozen.features)
    cut = min(changed, first_random)
    return cut if frozen.keeps(training.train, cut, reads) else None


def _differences(one: Sequence[tuple[str, Any]], other: Sequence[tuple[str, Any]]) -> list[str]:
    if one[0] != other[0]:
        return [f"adapter ({one[0][1]}, {other[0][1]})"]
    pairs = zip(one, other, strict=True)
    return [f"{name} ({a}, {b})" for (name, a), (_, b) in pairs if a != b]
