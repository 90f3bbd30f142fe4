"""From options to frozen studies: every wrong name or value is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import search_spaces
from adapters import Adapter, AdapterError, build, get
from adapters import names as adapter_names
from adapters.sites import Sites
from orchestrator import tasks
from orchestrator.backbones.names import timm_name
from orchestrator.errors import InvalidInput, unknown
from orchestrator.planning.config import SweepConfig
from orchestrator.search.prior import KINDS
from orchestrator.search.samplers import SAMPLERS
from orchestrator.search.stopping import RULES
from orchestrator.spec import (
    PROTOCOLS,
    RECIPE_FIELDS,
    RECIPES,
    SPLITS,
    DataIdentity,
    Recipe,
    Study,
    Suite,
    Sweep,
    study_name,
)

_EPOCHS = ("epochs", "warmup_epochs", "cooldown_epochs")


def plan_sweep(config: SweepConfig) -> tuple[Suite, Sweep]:
    """The suite and the frozen sweep; `InvalidInput` names the value and the alternatives."""
    suite = tasks.suite(config.suite)
    recipe = _recipe(config, suite)
    adapters = _adapters(config, suite)
    backbone = timm_name(config.backbone or suite.backbone)
    defaults = _defaults(config, suite)
    resolved = {name: _space(name, config, defaults, recipe, backbone) for name in adapters}
    given = _kept_fields(config, recipe)
    fixed = {name: {**own, **given} for name, (_, own) in resolved.items()}
    sweep = Sweep(
        suite=suite.name,
        backbone=backbone,
        tasks=_tasks(config, suite),
        adapters=adapters,
        sampler=_among("sampler", config.sampler or defaults.sampler, SAMPLERS),
        stopping=_among("stopping rule", config.stopping or defaults.stopping, RULES),
        trials=_trials(config, defaults, (space for space, _ in resolved.values())),
        seeds=config.seeds or suite.seeds,
        replicate=config.replicate or suite.replicate,
        recipe=recipe,
        spaces={name: search_spaces.to_yaml(space) for name, (space, _) in resolved.items()},
        fixed={name: fields for name, fields in fixed.items() if fields},
        protocols=(_among("protocol", config.protocol or "honest", PROTOCOLS),),
        prior=_prior(config),
        published_recipes=_published_recipes(config, suite, fixed),
        splits=_among("splits", config.splits or "fixed", SPLITS),
        defaults={
            name: _adapter(name, fixed[name]).to_dict() for name in adapters if config.with_default
        },
    )
    _check_grid(sweep)
    return suite, sweep


def plan_studies(sweep: Sweep, data: Mapping[str, DataIdentity], weights: str) -> list[Study]:
    """One study per protocol, adapter and task; trials of one adapter share a pool."""
    return [
        _study(sweep, task, name, protocol, data[task], weights)
        for protocol in sweep.protocols
        for name in sweep.adapters
        for task in sweep.tasks
    ]


def check_batches(studies: Sequence[Study], counts: Mapping[str, Mapping[str, int]]) -> None:
    """`InvalidInput` if a batch that may be tried is larger than a task's training split, and
    therefore dropped.

    `counts` has the number of images of each task by split.
    """
    task = min(counts, key=lambda name: counts[name]["train"])
    images = counts[task]["train"]
    for study in studies:
        last = study.space.get("last_batch")
        if "drop" not in (_extremes(last) if last else (study.recipe.last_batch,)):
            continue
        searched = study.space.get("batch")
        batch = int(max(_extremes(searched))) if searched else study.recipe.batch
        if batch > images:
            how = "--space" if searched else f"--set batch={images} or less"
            raise InvalidInput(
                f"batch {batch} of adapter '{study.adapter}' is larger than the training split of "
                f"task '{task}', which has {images} images; change it with {how}, or keep the "
                "incomplete batch with --set last_batch=keep."
            )


def _study(
    sweep: Sweep, task: str, name: str, protocol: str, data: DataIdentity, weights: str
) -> Study:
    try:
        params = _adapter(name, sweep.fixed.get(name, {})).to_dict()
        space = search_spaces.from_yaml(sweep.spaces.get(name, {}))[0]
    except (AdapterError, ValueError) as error:  # a folder's adapter that is not installed here
        raise InvalidInput(f"study '{task}/{name}': {error}") from error
    return Study(
        suite=sweep.suite,
        task=task,
        backbone=sweep.backbone,
        adapter=name,
        params=params,
        recipe=sweep.recipe_of(task, name, protocol),
        space=space,
        data=data,
        weights=weights,
        protocol=protocol,
        splits=sweep.splits,
    )


def _published_recipes(
    config: SweepConfig, suite: Suite, fixed: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """`Sweep.published_recipes` of the adapters in `fixed`; `InvalidInput` if one has no recipe.

    Where epochs are given, the script's warm-up and cool-down go with its epochs.
    """
    if _among("recipe", config.recipe or "shared", RECIPES) == "shared":
        return {}
    known = search_spaces.with_recipes()
    if without := [name for name in fixed if name not in known]:
        raise InvalidInput(
            f"--recipe published: no recipe of {', '.join(without)} is known (no public code, or a "
            "baseline of many papers); "
            f"choose among {', '.join(known)} with --adapter, or --recipe shared."
        )
    return {
        study_name(task.name, name): {
            key: value
            for key, value in search_spaces.published_recipe(name, task.name).items()
            if key not in _EPOCHS or "epochs" not in fields
        }
        for name, fields in fixed.items()
        for task in suite.tasks
    }


def _kept_fields(config: SweepConfig, recipe: Recipe) -> dict[str, Any]:
    """The recipe fields that were given and that a study must not replace by published ones.

    Warm-up and cool-down follow a given number of epochs.
    """
    given = set(_given_fields(config))
    if config.recipe != "published":
        return {"schedule": "cosine"} if "schedule" in given and recipe.schedule == "cosine" else {}
    given |= set(_EPOCHS) if "epochs" in given else set()
    return {key: value for key, value in asdict(recipe).items() if key in given}


def _defaults(config: SweepConfig, suite: Suite) -> Suite:
    """The suite's defaults. A preset is searched completely, by grid and without stopping; `fair`
    by the suite's sampler, or by tpe if that is the grid, whose size is not every adapter's.
    """
    if config.preset is None:
        return suite
    _among("preset", config.preset, search_spaces.PRESETS)
    if config.preset == "fair":
        sampler = "tpe" if suite.sampler == "grid" else suite.sampler
        return replace(suite, sampler=sampler, spaces={})
    return replace(suite, sampler="grid", stopping="none", trials=None, spaces={})


def _trials(
    config: SweepConfig, defaults: Suite, spaces: Iterable[search_spaces.Space]
) -> int | None:
    """Searched configurations per study; with `fair` as many as the smallest space has, at most."""
    wanted = config.trials or defaults.trials
    if config.preset != "fair":
        return wanted
    sizes = [wanted, *map(search_spaces.grid_size, spaces)]
    return min((size for size in sizes if size is not None), default=None)


def _recipe(config: SweepConfig, suite: Suite) -> Recipe:
    """The suite's recipe with the given values; warm-up keeps its share of the epochs."""
    values = _given_fields(config)
    epochs = values.get("epochs", suite.recipe.epochs)
    if "warmup_epochs" not in values and isinstance(epochs, int) and epochs != suite.recipe.epochs:
        share = suite.recipe.warmup_epochs / suite.recipe.epochs
        values["warmup_epochs"] = max(0, min(round(share * epochs), epochs - 1))
    recipe = suite.recipe.with_values(values)
    if recipe.precision != "auto":
        return recipe
    return recipe.with_values({"precision": _precision_of(config.device)})


def _precision_of(device: str) -> str:
    """bf16 on a GPU that supports it, else fp32.

    A named GPU may be on another machine, whose pool refuses bf16 if the GPU does not support it.
    """
    if device != "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else "fp32"


def _given_fields(config: SweepConfig) -> dict[str, Any]:
    """The recipe fields that were given; `InvalidInput` if one has two values."""
    values = dict(config.set)
    for name, value in (("epochs", config.epochs), ("precision", config.precision)):
        if value is None:
            continue
        if values.setdefault(name, value) != value:
            raise InvalidInput(
                f"'{name}' is given twice, as {value!r} and as {values[name]!r} in set; give one."
            )
    return values


def _tasks(config: SweepConfig, suite: Suite) -> tuple[str, ...]:
    """The chosen tasks in the suite's order."""
    chosen = config.tasks or suite.default_tasks
    if chosen == ("all",):
        return tuple(task.name for task in suite.tasks)
    named = {suite.task(name).name for name in chosen}
    return tuple(task.name for task in suite.tasks if task.name in named)


def _adapters(config: SweepConfig, suite: Suite) -> tuple[str, ...]:
    chosen = config.adapter or suite.default_adapters
    known = _known_adapters()
    for name in chosen:
        _among("adapter", name, known)
    return tuple(dict.fromkeys(chosen))


def _known_adapters() -> list[str]:
    try:
        return adapter_names()
    except AdapterError as error:  # another package's entry point is broken
        raise InvalidInput(str(error)) from error


def _space(
    name: str, config: SweepConfig, suite: Suite, recipe: Recipe, backbone: str
) -> tuple[search_spaces.Space, dict[str, Any]]:
    """(searched fields, fixed fields) of an adapter.

    Its own or the preset's space, narrowed by the suite; with what a published recipe searches in
    place of the fields that it has; narrowed by --space; without what --set gives. With the prior
    `published`, the fields on which all published numbers of the adapter depend have their values
    unless --space says otherwise.
    """
    for key in config.space:
        _among("adapter in --space", key, _known_adapters())
    fixed = search_spaces.published_for_all(name) if "published" in config.prior else {}
    try:
        space = _base_space(name, config, backbone)
        space, newly = search_spaces.narrow(space, suite.spaces.get(name, {}))
        fixed |= newly
        if config.recipe == "published":
            theirs = search_spaces.recipe_fields(name)
            space = {key: value for key, value in space.items() if key not in theirs}
            fixed = {key: value for key, value in fixed.items() if key not in theirs}
            space |= search_spaces.published_search(name)
        space, newly = search_spaces.narrow(space, config.space.get(name, {}))
        fixed = {key: value for key, value in {**fixed, **newly}.items() if key not in space}
    except ValueError as error:
        raise InvalidInput(f"search space of adapter '{name}': {error}") from None
    given = set(_given_fields(config))
    space = {key: value for key, value in space.items() if key not in given}
    fixed = {key: value for key, value in fixed.items() if key not in given}
    _check_fields(name, space, fixed, recipe)
    _check_targets(name, space, fixed, backbone)
    return space, fixed


def _base_space(name: str, config: SweepConfig, backbone: str) -> search_spaces.Space:
    if config.preset is None:
        return search_spaces.get(name) if name in search_spaces.names() else {}
    space = search_spaces.PRESETS[config.preset](name, _sites(backbone).depth)
    if missing := [key for key in space if key not in (*_fields_of(name), *RECIPE_FIELDS)]:
        raise InvalidInput(
            f"preset '{config.preset}' varies {', '.join(space)}, but adapter '{name}' has no "
            f"{', '.join(missing)}; choose others with --adapter."
        )
    return space


def _check_fields(
    name: str, space: search_spaces.Space, fixed: Mapping[str, Any], recipe: Recipe
) -> None:
    """Every field exists, and allows every value that can be tried."""
    allowed = [*_fields_of(name), *RECIPE_FIELDS]
    for key in (*space, *fixed):
        if key not in allowed:
            raise unknown(f"field in the search space of '{name}'", key, allowed)
    try:
        for values in _candidates(space, fixed):
            tried = recipe.with_values({k: v for k, v in values.items() if k in RECIPE_FIELDS})
            if tried.precision == "auto":
                raise InvalidInput("precision 'auto' cannot be searched; name bf16 or fp32.")
            _adapter(name, values)
    except (AdapterError, InvalidInput) as error:
        raise InvalidInput(f"search space of adapter '{name}': {error}") from None


def _fields_of(name: str) -> list[str]:
    return [item.name for item in fields(get(name))]


def _check_targets(
    name: str, space: search_spaces.Space, fixed: Mapping[str, Any], backbone: str
) -> None:
    """Every selection of layers and sites that can be tried exists in the backbone."""
    chosen = [key for key in search_spaces.SELECTIONS if key in space]
    if not chosen and not fixed.keys() & set(search_spaces.SELECTIONS):
        return  # the adapter's defaults: nothing to check, and no model to build
    for values in product(*(_extremes(space[key]) for key in chosen)):
        try:
            _adapter(name, {**fixed, **dict(zip(chosen, values, strict=True))}).select(
                _sites(backbone)
            )
        except AdapterError as error:
            raise InvalidInput(f"search space of adapter '{name}': {error}") from None


@cache
def _sites(backbone: str) -> Sites:
    """The modules of a backbone that adapters can target, from its architecture alone."""
    from adapters.backbones import find_sites
    from orchestrator.backbones.names import architecture, check, empty_model

    check(backbone)
    return find_sites(empty_model(architecture(backbone)))


def _adapter(name: str, values: Mapping[str, Any]) -> Adapter:
    """The adapter with those of the values that are its own fields, selections parsed."""
    own = {key: value for key, value in values.items() if key not in RECIPE_FIELDS}
    return build(name, {key: search_spaces.to_field(key, value) for key, value in own.items()})


def _candidates(
    space: search_spaces.Space, fixed: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """The fixed values with each searched one; epochs and warm-up, which must agree, jointly."""
    paired = [key for key in ("epochs", "warmup_epochs") if key in space]
    for values in product(*(_extremes(space[key]) for key in paired)):
        yield {**fixed, **dict(zip(paired, values, strict=True))}
    for key, distribution in space.items():
        if key not in paired:
            for value in _extremes(distribution):
                yield {**fixed, key: value}


def _extremes(distribution: BaseDistribution) -> Sequence[Any]:
    """All choices of a distribution, or both ends of its range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def _check_grid(sweep: Sweep) -> None:
    if sweep.sampler != "grid":
        return
    for name, form in sweep.spaces.items():
        if search_spaces.grid_size(search_spaces.from_yaml(form)[0]) is None:
            raise InvalidInput(
                f"--sampler grid needs a finite space, but that of adapter '{name}' is continuous: "
                f"{dict(form)}. Give steps or choices with --space, or use tpe, gp or random."
            )


def _prior(config: SweepConfig) -> tuple[str, ...]:
    """The kinds and places that were named, each once; `none` alone is none."""
    names = tuple(dict.fromkeys(config.prior))
    for name in names:
        if name not in KINDS and "/" not in name and not Path(name).exists():
            raise unknown("prior", name, (*KINDS, "the folder of an earlier sweep or registry"))
    if "none" in names and len(names) > 1:
        raise InvalidInput(f"--prior none and {names[1 - names.index('none')]}: give one of them.")
    return () if names == ("none",) else names


def _among(kind: str, name: str, allowed: Any) -> str:
    if name not in allowed:
        raise unknown(kind, name, allowed)
    return name
