"""What a second command may change about the sweep in an output folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.errors import InvalidInput
from orchestrator.spec import (
    COMPARED_FIELDS,
    PROTOCOLS,
    DataIdentity,
    Recipe,
    Suite,
    Sweep,
    study_name,
)


def extend(old: Sweep, new: Sweep, suite: Suite) -> Sweep:
    """The sweep of a folder after another command.

    More seeds, trials, tasks, adapters, replicated configurations, another protocol and default
    configurations extend it.
    Anything else would make its results incomparable: `InvalidInput` says what differs.
    """
    same = (
        "suite", "backbone", "sampler", "stopping", "recipe", "recipe_kind", "seed", "prior",
        "splits",
    )  # fmt: skip
    differing = [n for n in same if getattr(old, n) != getattr(new, n)]
    both = set(old.adapters) & set(new.adapters)
    studies = {study_name(task, name) for name in both for task in old.tasks}
    differing += [
        f"{part}[{name}]"
        for part, names in (("spaces", both), ("fixed", both), ("published_recipes", studies))
        for name in sorted(names)
        if getattr(old, part).get(name, {}) != getattr(new, part).get(name, {})
    ]
    differing += [
        f"defaults[{name}]"
        for name in sorted(both & old.defaults.keys() & new.defaults.keys())
        if old.defaults[name] != new.defaults[name]
    ]
    differing += [n for n in ("seeds", "replicate") if getattr(new, n) < getattr(old, n)]
    if not _trials_extend(old, new):
        differing.append("trials")
    if differing:
        shown = "; ".join(
            f"{n}: {_shown(old, n, new)} there, {_shown(new, n, old)} now" for n in differing
        )
        raise InvalidInput(
            f"the output folder holds another sweep ({shown}). Use the same arguments (or more "
            "seeds, trials, tasks, adapters) to extend it, or another --out."
        )
    every = (*old.tasks, *new.tasks)
    order = [task.name for task in suite.tasks]
    if gone := [name for name in old.tasks if name not in order]:
        raise InvalidInput(
            f"the output folder holds tasks that suite '{suite.name}' no longer has: "
            f"{', '.join(gone)}. Use another --out."
        )
    return replace(
        new,
        tasks=tuple(name for name in order if name in every),
        adapters=tuple(dict.fromkeys((*old.adapters, *new.adapters))),
        spaces={**old.spaces, **new.spaces},
        fixed={**old.fixed, **new.fixed},
        defaults={**old.defaults, **new.defaults},
        published_recipes={**old.published_recipes, **new.published_recipes},
        protocols=tuple(name for name in PROTOCOLS if name in (*old.protocols, *new.protocols)),
    )


def check_identities(
    backbone: str,
    old_data: Mapping[str, DataIdentity],
    new_data: Mapping[str, DataIdentity],
    old_weights: str,
    new_weights: str,
) -> None:
    """`InvalidInput` if the data of a task or the weights have changed since the folder's sweep."""
    changed = [name for name, new in new_data.items() if old_data.get(name, new) != new]
    if changed:
        raise InvalidInput(
            f"the data of {', '.join(changed)} changed since this folder's sweep started (other "
            "fingerprints); its results would not be comparable. Use another --out."
        )
    if old_weights != new_weights:
        raise InvalidInput(
            f"the weights of '{backbone}' changed since this folder's sweep started "
            f"({old_weights[:12]} there, {new_weights[:12]} now). Use another --out."
        )


def _trials_extend(old: Sweep, new: Sweep) -> bool:
    """Whether at least as many configurations are searched; None is a whole grid or a default."""
    if old.trials is None or new.trials is None:
        return old.trials == new.trials or (new.trials is None and new.sampler == "grid")
    return new.trials >= old.trials


def _shown(sweep: Sweep, name: str, other: Sweep) -> str:
    part, _, key = name.partition("[")
    value = getattr(sweep, part)
    if key:
        value = value.get(key[:-1], {})
    if isinstance(value, Recipe):
        fields = [n for n in COMPARED_FIELDS if getattr(value, n) != getattr(other.recipe, n)]
        return ", ".join(f"{n}={getattr(value, n)}" for n in fields)
    return str(value)
