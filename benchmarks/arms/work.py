"""What every arm does: the same trials, data, learning rates and optimiser.

An arm is a function `run(work, trials, options, log)` in a process of its own; `trials` are numbers
in the grid, `options` its own settings.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adapters
from orchestrator.backbones import Statistics, load_backbone, normalisation_of
from orchestrator.data.splits import SearchData, open_search
from orchestrator.engine.input import epoch_order
from orchestrator.engine.optimiser import learning_rate
from orchestrator.spec import Recipe, Task, Trial

STORE = "bench"
SCALES = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Work:
    """The plan of a run, written once by `arms.images` and read by every process.

    `backbone` is a name for `load_backbone`; images lie below `folder`, as files and as Arrow.
    """

    folder: Path
    backbone: str
    device: str
    recipe: Recipe
    rates: tuple[float, ...]
    rank: int
    classes: int
    train: int
    val: int
    test: int
    side: int

    @classmethod
    def read(cls, folder: Path) -> Work:
        values = json.loads((folder / "work.json").read_text())
        recipe = Recipe(**values.pop("recipe"))
        return cls(**{**values, "folder": folder, "rates": tuple(values["rates"])}, recipe=recipe)

    def write(self) -> None:
        values = {**asdict(self), "folder": str(self.folder)}
        (self.folder / "work.json").write_text(json.dumps(values, indent=2))

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch; the last incomplete batch is dropped."""
        return self.train // self.recipe.batch

    @property
    def task(self) -> Task:
        return Task("images", "all", self.classes, self.train, self.val, self.test)

    @cached_property
    def data(self) -> SearchData:
        """Train and val as Arrow, mapped."""
        return open_search(STORE, self.task, self.folder / "store")

    @property
    def statistics(self) -> Statistics:
        return normalisation_of(self.backbone, self.recipe.normalisation)

    def trial(self, number: int) -> Trial:
        """Trial `number` of the endless grid: scales, then learning rates, then seeds."""
        rest, scale = divmod(number, len(SCALES))
        seed, rate = divmod(rest, len(self.rates))
        return Trial(
            suite=STORE, task=self.task.name, backbone=self.backbone, adapter="efft2",
            params={"rank": self.rank, "scale": SCALES[scale], "dropout": 0.1},
            recipe=replace(self.recipe, lr=self.rates[rate]), seed=seed, stage="search",
            data=self.data.identity, weights="",
        )  # fmt: skip

    def model(self, trial: Trial, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The frozen backbone on the device in `dtype`, with the trial's adapter in fp32."""
        model = load_backbone(self.backbone).model.to(self.device, dtype)
        return adapters.attach(
            model,
            adapters.build(trial.adapter, trial.params),
            num_classes=self.classes,
            seed=trial.seed,
            head_init=trial.recipe.head_init,
            drop_path=trial.recipe.drop_path,
        )

    def optimiser(self, model: nn.Module, trial: Trial, **how: Any) -> torch.optim.AdamW:
        trained = [p for p in model.parameters() if p.requires_grad]
        decay = trial.recipe.weight_decay
        return torch.optim.AdamW(trained, lr=trial.recipe.lr, weight_decay=decay, **how)

    def order(self, trial: Trial, epoch: int) -> Tensor:
        """The images of an epoch (train,) in the trial's order: the pool's own, on the CPU."""
        return epoch_order(self.train, trial.seed, epoch, torch.device("cpu"))


def set_rate(optimiser: torch.optim.Optimizer, trial: Trial, epoch: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(trial.recipe, epoch)


class Log:
    """What happened when, one JSON line per event; several processes may share the file."""

    def __init__(self, path: Path, device: str) -> None:
        self._path, self._device, self._stepped = path, device, False

    def began(self) -> None:
        """A process that something else started is there."""
        self._write("began")

    def stepped(self) -> None:
        """After every optimiser step; notes the first, when the device has done it."""
        if not self._stepped:
            self._stepped = True
            self._wait()
            self._write("step")

    def epochs(self, count: int = 1) -> None:
        """So many trials have just finished an epoch, with all that belongs to it."""
        self._wait()
        self._write("epochs", count=count)

    def trial(self, number: int, accuracy: float | None) -> None:
        """A trial has ended with this accuracy on val, None if it diverged."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._device == "cuda" else 0.0
        self._write("trial", trial=number, accuracy=accuracy, device_mib=round(peak))

    def check(self, seconds: float) -> None:
        """Seconds spent on what the benchmark alone wants; no arm is charged for them."""
        self._write("check", seconds=seconds)

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **values})
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode() + b"\n")
        finally:
            os.close(handle)
