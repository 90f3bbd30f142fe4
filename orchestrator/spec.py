"""The records of the project: Task, Suite, Recipe, Study, Sweep, Trial, TrialResult.

Frozen data without torch, Ray, Optuna or MLflow, so that results can be read anywhere in
milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from orchestrator.errors import InvalidInput, unknown

Stage = Literal["search", "replicate", "final"]
Status = Literal["finished", "stopped", "diverged"]
Params = Mapping[str, Any]
"""Adapter hyper-parameters by field name; JSON values only."""

STAGES: tuple[Stage, ...] = get_args(Stage)
STATUSES: tuple[Status, ...] = get_args(Status)
NORMALISATIONS = ("backbone", "half", "imagenet", "none")
PRECISIONS = ("amp", "auto", "bf16", "fp32", "fp8")
RECIPES = ("shared", "published")
"""Whether the adapters of a sweep share one recipe, or each has that of its authors' script."""
SPLITS = ("fixed", "folds")
"""Whether replicates use the task's train and val, or each seed new ones drawn from both."""
SCHEDULES = ("cosine", "cosine_step", "timm", "timm_epoch")
HEAD_INITS = ("default", "kaiming", "zero")
OPTIMISERS = ("adamw", "sgd")
LAST_BATCHES = ("drop", "keep")
AUGMENTS = ("crop_flip", "flip", "none")
VIEWS = ("centre", "whole")
PROTOCOLS = ("honest", "paper")
MOST_STEPS = 1_000_000
"""Of a recipe's counts: epochs, and images in a batch."""
_SMALL = "0 or more and below 1000"


@dataclass(frozen=True)
class Task:
    """A dataset with splits, classes and a metric (top-1 accuracy throughout).

    `train`, `val`, `test` are the benchmark's numbers of images, None if it does not fix them.
    `aliases` are other names of the task, on the command line and as folder names.
    """

    name: str
    group: str
    classes: int
    train: int | None = None
    val: int | None = None
    test: int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a trial is optimised; the defaults are EFFT's and FacT's on VTAB-1k.

    `epochs` counts passes over the training split, whose last, incomplete batch is dropped or kept
    (`last_batch`): the first `warmup_epochs` warm up, the last `cooldown_epochs` run at `min_lr`.
    `lr`, `warmup_lr`, `min_lr` are step sizes of the `optimiser`; `clip` is the Euclidean norm to
    which a trial's own longer gradient is scaled (0: never). `drop_path` is the rate of the last
    block, rising linearly from 0. `adamw` decouples weight decay; `sgd` has momentum 0.9 and adds
    the decay to the gradient.

    `precision`: `bf16` and `fp32` are that of frozen weights and activations, `amp` keeps both in
    fp32 and computes products in bf16; `fp8` is bf16 with the products of frozen layers in float8,
    for search trials alone (`Trial.precision`). Trained weights and the head are always fp32.
    Planning resolves `auto` to bf16 on GPUs that support it, else to fp32. `normalisation` of
    pixels in [0, 1]: ImageNet's, mean and deviation 0.5 (`half`), what the backbone was pre-trained
    with, or none. `augment`: `none`, `flip` (training images are mirrored left to right at random)
    or `crop_flip` (a random-resized crop, then a flip).

    `evaluate_every`: val is read at rungs, after the last epoch and, for the curve alone, after
    every n-th (0: no other). It changes no result, and so neither keys nor comparisons.
    """

    epochs: int = 100
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 10
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    schedule: str = "cosine"
    drop_path: float = 0.1
    head_init: str = "default"
    normalisation: str = "imagenet"
    precision: str = "fp32"
    augment: str = "none"
    clip: float = 0.0
    cooldown_epochs: int = 0
    optimiser: str = "adamw"
    last_batch: str = "drop"
    evaluate_every: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(
                self, item.name, _typed(item.name, str(item.type), getattr(self, item.name))
            )
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            _require(name, value, 1 <= value <= MOST_STEPS, f"at least 1, at most {MOST_STEPS:,}")
        every = self.evaluate_every
        _require("evaluate_every", every, 0 <= every <= MOST_STEPS, f"0 to {MOST_STEPS:,}")
        _require("lr", self.lr, 0 < self.lr < 1e3, "above 0 and below 1000")
        _require("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1e3, _SMALL)
        _require(
            "warmup_epochs",
            self.warmup_epochs,
            0 <= self.warmup_epochs < self.epochs,
            f"at least 0 and below epochs ({self.epochs})",
        )
        most = self.epochs - self.warmup_epochs - 1
        _require(
            "cooldown_epochs",
            self.cooldown_epochs,
            0 <= self.cooldown_epochs <= most,
            f"at least 0 and at most {most} (epochs - warmup_epochs - 1)",
        )
        _require("warmup_lr", self.warmup_lr, 0 <= self.warmup_lr < 1e3, _SMALL)
        _require("min_lr", self.min_lr, 0 <= self.min_lr < 1e3, _SMALL)
        _require("clip", self.clip, 0 <= self.clip < 1e6, "at least 0 (off) and below 1000000")
        _require("drop_path", self.drop_path, 0 <= self.drop_path < 1, "in [0, 1)")
        for name, allowed in (
            ("schedule", SCHEDULES),
            ("head_init", HEAD_INITS),
            ("normalisation", NORMALISATIONS),
            ("precision", PRECISIONS),
            ("augment", AUGMENTS),
            ("optimiser", OPTIMISERS),
            ("last_batch", LAST_BATCHES),
        ):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)

    def with_values(self, values: Mapping[str, Any]) -> Recipe:
        """A copy with the named fields replaced; `InvalidInput` for unknown ones and bad values."""
        for name in values:
            if name not in RECIPE_FIELDS:
                raise unknown("recipe field", name, RECIPE_FIELDS)
        return replace(self, **values)


RECIPE_FIELDS: tuple[str, ...] = tuple(item.name for item in fields(Recipe))
COMPARED_FIELDS = tuple(item.name for item in fields(Recipe) if item.compare)
"""Those that change a trial's result."""

_LATER_FIELDS = {
    item.name: item.default
    for item in fields(Recipe)
    if item.name in ("clip", "cooldown_epochs", "optimiser", "last_batch")
}
"""Name → default of the fields that came after the first ledgers."""


@dataclass(frozen=True)
class Suite:
    """A named tuple of tasks with the defaults of `orchestrate sweep NAME`.

    `spaces` narrows search spaces (adapter → field → values) for the default sweep, which has
    `default_tasks` and `default_adapters`. `layout` is the structure of the image folder (see
    `orchestrator.data.layouts`) that the environment variable `variable` names; `files` describes
    it for each task of a user's own suite. Prepared images are `side` × `side`; `view` is the part
    of an image used in evaluation: all of it (`whole`, stretched to a square) or the middle
    (`centre`, a square of 7/8 of the shorter side).
    """

    name: str
    tasks: tuple[Task, ...]
    backbone: str
    recipe: Recipe
    default_tasks: tuple[str, ...]
    default_adapters: tuple[str, ...]
    seeds: int = 3
    sampler: str = "tpe"
    stopping: str = "asha"
    trials: int | None = None
    replicate: int = 2
    spaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layout: str = ""
    variable: str = ""
    side: int = 224
    view: str = "whole"
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def store(self) -> str:
        """Its folder of prepared data: a user's own suites of one name have different ones."""
        return f"{self.name}-{digest(dict(self.files))[:8]}" if self.files else self.name

    def task(self, name: str) -> Task:
        """The task of that name or alias; `InvalidInput` with the alternatives otherwise."""
        for task in self.tasks:
            if name == task.name or name in task.aliases:
                return task
        raise unknown(f"task of suite '{self.name}'", name, [task.name for task in self.tasks])


@dataclass(frozen=True)
class DataIdentity:
    """SHA-256 fingerprints of a prepared task: of train and val (`search`), and of test."""

    search: str
    test: str

    @property
    def final(self) -> str:
        """Fingerprint of all splits, which a final trial reads."""
        return digest([self.search, self.test])

    def read_by(self, stage: Stage, seed: int, splits: str, leaks: bool) -> str:
        """Fingerprint of what a trial reads: every split if it is final or its protocol leaks."""
        if stage == "final" or leaks:
            return self.final
        folds = stage == "replicate" and splits == "folds"
        return fold_of(self.search, seed) if folds else self.search


@dataclass(frozen=True)
class Study:
    """One search: one (task, backbone, adapter).

    `params` has every adapter field at its default or fixed value, `recipe` every recipe field;
    `space` maps the searched fields (of either) to their Optuna distributions.
    """

    suite: str
    task: str
    backbone: str
    adapter: str
    params: Params
    recipe: Recipe
    space: Mapping[str, Any]
    data: DataIdentity
    weights: str
    protocol: str = "honest"
    splits: str = "fixed"

    @property
    def name(self) -> str:
        """Unique in a sweep, which has one suite and one backbone; see `study_name`."""
        return study_name(self.task, self.adapter, self.protocol)


@dataclass(frozen=True)
class Sweep:
    """The studies of one command: their stages, budget and seeds.

    `trials` is the number of searched configurations per study (None: all of a grid);
    `seeds` the number of seeds of each replicated configuration and of each winner;
    `replicate` how many top configurations are replicated.
    """

    suite: str
    backbone: str
    tasks: tuple[str, ...]
    adapters: tuple[str, ...]
    sampler: str
    stopping: str
    trials: int | None
    seeds: int
    replicate: int
    recipe: Recipe
    spaces: Mapping[str, Mapping[str, Any]]
    """Per adapter, the searched fields in their YAML form (see `search_spaces`)."""

    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per adapter, fields (its own or the recipe's) held at a value other than the default."""

    seed: int = 0
    """Base seed of the samplers; trial seeds are 0 for search and 1…`seeds` afterwards."""

    protocols: tuple[str, ...] = ("honest",)
    """`honest`; `paper`, as the published scripts, which select on the test split; or both."""

    prior: tuple[str, ...] = ()
    """What chooses the first trials of a study (`orchestrator.search.prior`): `published`, `sweep`,
    folders or addresses of earlier sweeps and registries.
    """

    published_recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By `study_name`, for every task of the suite, the recipe fields of the authors' script.

    Empty with a shared recipe.
    """

    splits: str = "fixed"
    """With `folds` the replicates of seed s use fold s of train + val instead of train and val."""

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By adapter, the params of its default configuration, where that gets final trials too."""

    def default_of(self, task: str, adapter: str, protocol: str = "honest") -> str:
        """Hash of the default configuration that gets final trials too; empty if none does."""
        if protocol != "honest" or adapter not in self.defaults:
            return ""
        return configuration(self.defaults[adapter], self.recipe_of(task, adapter, protocol))

    @property
    def recipe_kind(self) -> str:
        """`published` if every adapter has the recipe of its authors' script, else `shared`."""
        return "published" if self.published_recipes else "shared"

    def recipe_of(self, task: str, adapter: str, protocol: str) -> Recipe:
        """The recipe of a study's trials but for what is searched.

        `fixed` wins over the published recipe, and both over the schedule that the paper protocol
        shares with its scripts.
        """
        theirs = {"schedule": "timm_epoch"} if protocol == "paper" else {}
        fixed = {n: v for n, v in self.fixed.get(adapter, {}).items() if n in RECIPE_FIELDS}
        published = self.published_recipes.get(study_name(task, adapter), {})
        return self.recipe.with_values({**theirs, **published, **fixed})


@dataclass(frozen=True)
class Trial:
    """One fully resolved training. `key` is the hash of everything that can change its result."""

    suite: str
    task: str
    backbone: str
    adapter: str
    params: Params
    recipe: Recipe
    seed: int
    stage: Stage
    data: str
    """Fingerprint of the splits that the trial reads: train and val or a fold, or all if final."""
    weights: str
    protocol: str = "honest"

    @property
    def leaks(self) -> bool:
        """Whether the protocol makes choices on the test split."""
        return self.protocol != "honest"

    @property
    def reads_test(self) -> bool:
        """Whether the trial trains on train + val and is evaluated on test."""
        return self.stage == "final" or self.leaks

    def reads(self, data: DataIdentity) -> bool:
        """Whether the images that it reads are those with the fingerprints `data`, or a fold."""
        return any(
            self.data == data.read_by(self.stage, self.seed, splits, self.leaks)
            for splits in SPLITS
        )

    @property
    def precision(self) -> str:
        """That of its recipe; bf16 after a search in fp8, whose winners are thus confirmed."""
        confirmed = self.recipe.precision == "fp8" and self.stage != "search"
        return "bf16" if confirmed else self.recipe.precision

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits, the start of SHA-256 over the canonical JSON of every field."""
        return digest({**self.to_dict(), "recipe": _identity(self.recipe)})[:32]

    @property
    def config(self) -> str:
        """Hash of the configuration (params and recipe): equal for all seeds and stages."""
        return configuration(self.params, self.recipe)

    @property
    def study(self) -> str:
        """The name of the study it belongs to."""
        return study_name(self.task, self.adapter, self.protocol)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Trial.from_dict` gives the same trial back."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**own, "params": dict(self.params), "recipe": asdict(self.recipe)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """The inverse of `to_dict`."""
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})


@dataclass(frozen=True)
class Point:
    """One epoch of a trial's curve. `lr` is its last step's learning rate, `loss` the mean of its
    steps' training losses; evaluation is on the trial's evaluation split, None if not measured:
    val, or test after the last epoch of a final trial (under the protocol `paper` also at every
    tenth epoch).
    """

    epoch: int
    lr: float
    loss: float
    eval_loss: float | None = None
    eval_accuracy: float | None = None


@dataclass(frozen=True)
class TrialResult:
    """The frozen record of a trial: one ledger row.

    `value` is the accuracy in [0, 1] at the last epoch on the evaluation split (None if diverged),
    or, under the protocol `paper`, of the best evaluation (the first of equal ones);
    `correct` has one byte per evaluation image (1 if correct), in file order, for paired tests;
    `stopping` is the rule that ended a `stopped` trial: only sweeps with that rule use the row.
    """

    trial: Trial
    status: Status
    value: float | None
    eval_loss: float | None
    epochs_run: int
    curve: tuple[Point, ...]
    correct: bytes
    parameters: int
    """Trainable scalars without the head."""
    stopping: str = ""
    message: str = ""
    test_reads: int = 0
    seconds: float = 0.0
    """Device seconds attributed to the trial (its share of the pool's steps)."""
    started: float = 0.0
    finished: float = 0.0
    """Unix times in seconds."""
    host: str = ""
    device: str = ""
    code: str = ""
    """Package version and, where known, commit."""
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Of a final trial: the files of its adapter → their SHA-256 (hex); of a replicate or final
    trial also `logits` → that of `predictions/<key>.safetensors`.
    """

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.trial.key


def configuration(params: Params, recipe: Recipe) -> str:
    """Hash of a configuration: 16 hexadecimal digits."""
    return digest({"params": dict(params), "recipe": _identity(recipe)})[:16]


def fold_of(search: str, number: int) -> str:
    """Fingerprint of fold `number` of the train and val images with the fingerprint `search`."""
    return digest(["fold", search, number])


def study_name(task: str, adapter: str, protocol: str = "honest") -> str:
    """`task/adapter`, or `task/adapter/paper-leaks` if choices are made on the test split."""
    return f"{task}/{adapter}" if protocol == "honest" else f"{task}/{adapter}/{protocol}-leaks"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def derived_seed(*parts: Any) -> int:
    """A 63-bit seed that depends on the given parts only."""
    return int(digest(list(parts))[:16], 16) >> 1


def _identity(recipe: Recipe) -> dict[str, Any]:
    """The fields that tell a recipe from another.

    Those that came later count only where they are used: older ledgers hold the same trials.
    """
    values = {name: getattr(recipe, name) for name in COMPARED_FIELDS}
    return {n: v for n, v in values.items() if n not in _LATER_FIELDS or v != _LATER_FIELDS[n]}


def _typed(name: str, kind: str, value: Any) -> Any:
    """`value` as the field's type; ints are accepted for floats, bools for neither."""
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int of 400 digits is no float
            return float(value)
    raise InvalidInput(f"recipe field '{name}' must be of type {kind}, not {value!r:.80}.")


def _require(name: str, value: Any, ok: bool, allowed: str) -> None:
    if not ok:
        raise InvalidInput(f"recipe field '{name}' is {value!s:.80}; allowed: {allowed}.")
