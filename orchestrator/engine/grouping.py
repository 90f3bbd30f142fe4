"""Which trials share a stack, and why two do not: decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from adapters.partial_forward import first_changed_block
from adapters.stack import path_rates
from orchestrator.engine.frozen import Frozen
from orchestrator.engine.training import Training


@dataclass(frozen=True)
class GroupKey:
    """What trials of one stack have in common; field by field the reasons for not sharing one.

    `adapter` holds the name and every hyper-parameter that cannot differ in a stack. `prefix` is
    the cut behind which the trials' steps begin (None: they begin with images).
    """

    adapter: tuple[tuple[str, Any], ...]
    batch: int
    normalisation: str
    precision: str
    augment: str  # so that whole images need not be resampled beside cropped ones
    view: str
    prefix: int | None
    head: bool
    alone: str
    """The trial's key if its adapter takes no company, else empty."""
    changed: int | None = field(compare=False)
    """The first block that the adapter changes: up to there evaluations are the same for all."""

    def label(self) -> str:
        """A few words for people."""
        (_, name), *rest = self.adapter
        chosen = ", ".join(f"{field}={value}" for field, value in rest if value is not None)
        return f"{name} ({chosen}), batch {self.batch}" if chosen else f"{name}, batch {self.batch}"


def group_key(training: Training, frozen: Frozen) -> GroupKey:
    """The group of a trial; trials with equal keys may share a stack."""
    recipe = training.trial.recipe
    changed = first_changed_block(training.member, frozen.sites)
    return GroupKey(
        training.adapter.family(),
        recipe.batch,
        recipe.normalisation,
        recipe.precision,
        recipe.augment,
        training.train.view,
        _training_cut(training, frozen, changed),
        training.member.classes is not None,
        training.key if training.adapter.lone else "",
        changed,
    )


def apart(one: GroupKey, other: GroupKey) -> str:
    """Why trials of two groups do not share a stack: what differs, with both values."""
    if one.alone or other.alone:
        lone = one if one.alone else other
        return f"{lone.adapter[0][1]} takes one trial at a time"
    found = _differences(one.adapter, other.adapter)
    names = [item.name for item in fields(GroupKey) if item.compare][1:-1]  # without adapter, alone
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    found += [f"{name} ({a}, {b})" for name, a, b in pairs if a != b]
    return "; ".join(found)


def _training_cut(training: Training, frozen: Frozen, changed: int | None) -> int | None:
    """Where a step may begin: nothing before it is adapted or random, and it is worth keeping."""
    if changed is None or training.trial.recipe.augment != "none":
        return None
    rates = path_rates(training.member.drop_path, frozen.sites.depth)[::2]
    still = next((block for block, rate in enumerate(rates) if rate > 0), frozen.features)
    cut = min(changed, still)
    return cut if frozen.keeps(training.train, cut) else None


def _differences(one: Sequence[tuple[str, Any]], other: Sequence[tuple[str, Any]]) -> list[str]:
    if one[0] != other[0]:
        return [f"adapter ({one[0][1]}, {other[0][1]})"]
    pairs = zip(one, other, strict=True)
    return [f"{name} ({a}, {b})" for (name, a), (_, b) in pairs if a != b]
