"""`script`: the recipe of the published scripts, written after their protocol.

A process per trial; a DataLoader with four workers decodes every image again in every epoch;
autocast; the whole test split is evaluated at every tenth epoch and at the end. In the scripts'
favour: no transfer of the loss to the host at every step, no progress bar, no checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from arms.work import Log, Work, set_rate
from orchestrator.spec import Trial

WORKERS, EVERY = 4, 10


def run(work: Work, trials: list[int], options: dict[str, Any], log: Log) -> None:
    """Options: `amp`, whether autocast is on."""
    for number in trials:
        _train(work, number, bool(options["amp"]), log)


def _train(work: Work, number: int, amp: bool, log: Log) -> None:
    trial = work.trial(number)
    model = work.model(trial)
    optimiser = work.optimiser(model, trial)
    order = Shuffled(work, trial)
    train, test = loader(work, "train", WORKERS, order), loader(work, "test", WORKERS)
    for epoch in range(trial.recipe.epochs):
        order.epoch = epoch
        set_rate(optimiser, trial, epoch)
        train_epoch(work, model, train, optimiser, amp, log)
        if (epoch + 1) % EVERY == 0 or epoch + 1 == trial.recipe.epochs:
            accuracy(work, model, test, amp)
        log.epochs()
    began = time.perf_counter()  # the scripts never look at val; the comparison of arms does
    found = accuracy(work, model, loader(work, "val", 0), amp)
    log.check(time.perf_counter() - began)
    log.trial(number, found)


class Files(Dataset[tuple[Tensor, int]]):
    """The images that `<split>.txt` lists, each line `relative/path label`."""

    def __init__(self, work: Work, split: str) -> None:
        lines = (work.folder / "files" / f"{split}.txt").read_text().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines]
        self._items = [(work.folder / "files" / path, int(label)) for path, label in pairs]
        bicubic = transforms.InterpolationMode.BICUBIC
        resize = transforms.Resize((work.side, work.side), interpolation=bicubic)
        normalise = transforms.Normalize(*work.statistics)
        self._transform = transforms.Compose([resize, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._items[index]
        with Image.open(path) as picture:
            return self._transform(picture.convert("RGB")), label


class Shuffled(Sampler[int]):
    """A random sampler whose order is the trial's own, so that all arms see the same batches."""

    def __init__(self, work: Work, trial: Trial) -> None:
        self._work, self._trial, self.epoch = work, trial, 0

    def __iter__(self) -> Iterator[int]:
        return iter(self._work.order(self._trial, self.epoch).tolist())

    def __len__(self) -> int:
        return self._work.train


def loader(
    work: Work, split: str, workers: int, sampler: Shuffled | None = None
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of a split; workers are started again in every epoch, as is the default."""
    return DataLoader(
        Files(work, split),
        batch_size=work.recipe.batch,
        sampler=sampler,
        drop_last=sampler is not None,
        num_workers=workers,
        pin_memory=work.device == "cuda",
    )


def cast(work: Work, enabled: bool) -> AbstractContextManager[None]:
    """Automatic mixed precision in bf16, where it is enabled."""
    return torch.autocast(work.device, torch.bfloat16, enabled=enabled)


def train_epoch(
    work: Work,
    model: nn.Module,
    batches: DataLoader[tuple[Tensor, int]],
    optimiser: torch.optim.Optimizer,
    amp: bool,
    log: Log,
) -> None:
    model.train()
    for images, labels in batches:
        images, labels = images.to(work.device), labels.to(work.device)
        with cast(work, amp):
            loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        log.stepped()


@torch.no_grad()
def accuracy(
    work: Work, model: nn.Module, batches: DataLoader[tuple[Tensor, int]], amp: bool
) -> float:
    """In [0, 1]."""
    model.eval()
    right = count = 0
    for images, labels in batches:
        with cast(work, amp):
            predicted = model(images.to(work.device)).argmax(1).cpu()
        right += int((predicted == labels).sum())
        count += len(labels)
    return right / count
