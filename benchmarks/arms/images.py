"""What the arms read, made locally: the same images as files with lists and as Arrow, and weights.

    python -m arms.images FOLDER '{"backbone": …}'        # called by throughput.py

`vit_mini` trains on the task `textures` of suite `mini`, exported as PNG, so that a decoder finds
the very same pixels. Any other backbone gets JPEG files of about 256 pixels, whose classes differ
in the direction and colour of their stripes, and random weights from one seed (the speed of a
network does not depend on its weights).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import accelerator
from PIL import Image
from safetensors.torch import save_file

from adapters.backbones import find_sites
from arms.work import STORE, Work
from orchestrator.backbones.names import (
    MINI,
    architecture,
    check_supported,
    empty_model,
    image_size,
)
from orchestrator.data.listing import SPLITS, FileItem, Listing
from orchestrator.data.mini import make
from orchestrator.data.prepared.prepare import prepare
from orchestrator.data.prepared.sources import ListedSource
from orchestrator.engine import roofline
from orchestrator.errors import OrchestrateError
from orchestrator.spec import Recipe, Suite
from orchestrator.tasks.suites import MINI as MINI_SUITE

TASK = "textures"
PHOTO, CLASSES = 256, 10
COUNTS = {"train": 800, "val": 200, "test": 500}

Picture = tuple[Any, int]
"""Pixels (height, width, 3) uint8 and the class."""


def make_work(folder: Path, asked: dict[str, Any]) -> Work:
    """Writes everything below `folder`; `asked` has backbone, device, epochs and batch."""
    values = {"epochs": asked["epochs"], "batch": asked["batch"], "drop_path": 0.1}
    mini = asked["backbone"] == MINI
    base = MINI_SUITE.recipe if mini else Recipe(warmup_epochs=1)
    precision = "bf16" if asked["device"] == "cuda" else "fp32"
    work = Work(
        folder=folder,
        backbone=MINI if mini else _weights(asked["backbone"], folder),
        device=asked["device"],
        recipe=base.with_values({**values, "precision": precision}),
        rates=(0.01, 0.003) if mini else (0.001, 0.003),
        rank=8 if mini else 16,
        classes=MINI_SUITE.task(TASK).classes if mini else CLASSES,
        **({**COUNTS, "test": 1000} if mini else COUNTS),
        side=image_size(empty_model(asked["backbone"])),
    )
    listing = _export(_mini() if mini else _photos(), folder / "files", "png" if mini else "jpg")
    suite = Suite(STORE, (work.task,), work.backbone, work.recipe, (), (), side=work.side)
    prepare(suite, work.task, ListedSource(suite, work.task, listing), folder / "store")
    work.write()
    return work


def _mini() -> Iterator[tuple[str, Picture]]:
    for split, (images, labels) in make(TASK).items():
        for image, label in zip(images, labels.tolist(), strict=True):
            yield split, (image, label)


def _photos() -> Iterator[tuple[str, Picture]]:
    """Stripes across a photograph's size: a class has its direction and its colour."""
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for index in range(count):
            yield split, (_photo(random, index % CLASSES), index % CLASSES)


def _photo(random: np.random.Generator, label: int) -> Any:
    height, width = PHOTO + random.integers(-16, 17, 2)
    rows, columns = np.mgrid[:height, :width] / PHOTO
    angle = np.pi * label / CLASSES
    across = rows * np.cos(angle) + columns * np.sin(angle)
    stripes = np.sin(2 * np.pi * (8 * across + random.random()))[..., None]
    hue = 2 * np.pi * (label / CLASSES + np.arange(3) / 3)
    colour = 128 + 30 * np.cos(hue) + random.normal(0, 15, 3)
    pixels = colour + 40 * stripes + random.normal(0, 20, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def _export(pictures: Iterator[tuple[str, Picture]], folder: Path, kind: str) -> Listing:
    items: dict[str, list[FileItem]] = {split: [] for split in SPLITS}
    for split, (pixels, label) in pictures:
        path = folder / "images" / split / f"{len(items[split]):05}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **({"quality": 90} if kind == "jpg" else {}))
        items[split].append(FileItem(path, label, f"{split}.txt"))
    for split, own in items.items():
        lines = [f"{Path(item.path).relative_to(folder)} {item.label}" for item in own]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return Listing(items)


def _weights(name: str, folder: Path) -> str:
    """The name of a backbone whose random weights are in a file, equal for every process.

    `InvalidInput` for one that no adapter knows.
    """
    check_supported(name.partition(".")[0])
    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return f"{name}@{path}"


def main() -> None:
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    if asked["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here; use --device cpu.")
    if asked["backbone"] != MINI and not timm.is_model(asked["backbone"]):
        sys.exit(f"--backbone {asked['backbone']}: allowed are {MINI} and timm's model names.")
    try:
        work = make_work(folder, asked)
    except OrchestrateError as error:
        sys.exit(str(error))
    model = empty_model(architecture(work.backbone)).to("meta")
    image = torch.empty(1, 3, work.side, work.side, device="meta")
    counted = roofline.count_flops(model, image, find_sites(model))
    found = {
        "accelerator": accelerator(work.device),
        "best_flop_per_second": roofline.rate(torch.device(work.device)),
        "forward_flop_per_image": counted.forward(None),
        "training_flop_per_image": counted.training(None, 0),
    }
    (folder / "roofline.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
