"""Images from files, as published scripts and tutorials read them: decoded again in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from arms.work import Log, Work
from orchestrator.spec import Trial


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
