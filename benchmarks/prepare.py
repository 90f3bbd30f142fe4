"""How quickly a task is prepared: against a plain Pillow loop and torchvision's DataLoader.

    python benchmarks/prepare.py            # prints, and writes benchmarks/results/prepare.json

The same JPEG files, three arms in turn, `REPEATS` times; the median counts:

`loop`     one core: open, convert, resize to 224, keep in memory; nothing is written
`loader`   torchvision's ImageFolder and DataLoader, a worker per core, the same transform
`prepare`  what `orchestrate data prepare` does with train and val: decode on all cores, write an
           Arrow file through to the disk, fingerprint it

Then: how long a prepared task takes to open, and how much memory that costs.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import facts, write
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from orchestrator.data.listing import FileItem, Listing
from orchestrator.data.prepared.prepare import prepare
from orchestrator.data.prepared.sources import ListedSource
from orchestrator.data.splits import open_search
from orchestrator.spec import Recipe, Suite, Task

CLASSES, SIDE, REPEATS = 10, 224, 3
TASK = Task("photos", "all", CLASSES)
SUITE = Suite("bench", (TASK,), "vit_mini", Recipe(), ("photos",), ("linear",), side=SIDE)


def make_files(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files of smooth random colours with some grain, about as large as photos."""
    paths = []
    for index in range(count):
        random = np.random.default_rng(index)
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        grain = random.normal(0, 6, smooth.shape).astype(np.int16)
        stream = io.BytesIO()
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        path = folder / str(index % CLASSES) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue())
        paths.append(path)
    return paths


def loop(paths: list[Path]) -> None:
    kept = []
    for path in paths:
        with Image.open(path) as picture:
            square = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        kept.append(np.asarray(square))


def loader(folder: Path) -> None:
    resize = v2.Resize((SIDE, SIDE), interpolation=v2.InterpolationMode.BICUBIC)
    dataset = datasets.ImageFolder(str(folder), v2.Compose([resize, v2.PILToTensor()]))
    cores = len(os.sched_getaffinity(0))
    batches = torch.utils.data.DataLoader(dataset, batch_size=64, num_workers=cores)
    kept = [images for images, _ in batches]
    assert sum(map(len, kept)) == len(dataset)


def prepared(paths: list[Path], root: Path) -> None:
    items = [FileItem(path, int(path.parent.name), "bench") for path in paths]
    cut = len(items) * 4 // 5
    splits = {"train": items[:cut], "val": items[cut:], "test": items[:1]}
    prepare(SUITE, TASK, ListedSource(SUITE, TASK, Listing(splits)), root)


def seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def resident() -> int:
    """This process's own memory in KiB, without the pages of mapped files, which others share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    found = [line.split() for line in lines]
    return sum(int(words[1]) for words in found if words[0] == "Private_Dirty:")


def opening(root: Path) -> dict[str, float]:
    times = [seconds(lambda: open_search("bench", TASK, root)) for _ in range(20)]
    before = resident()
    data = open_search("bench", TASK, root)
    int(data.train.images[:, ::16].sum())  # touch every page
    return {
        "milliseconds": round(1000 * statistics.median(times), 2),
        "pixels_mib": round((data.train.images.nbytes + data.val.images.nbytes) / 2**20, 1),
        "private_memory_mib": round((resident() - before) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, root = Path(place) / "raw", Path(place) / "store"
        paths = make_files(folder, arguments.images, (500, 375))
        arms: dict[str, Callable[[], None]] = {
            "loop": lambda: loop(paths),
            "loader": lambda: loader(folder),
            "prepare": lambda: prepared(paths, root),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(arguments.repeats):
            for name, arm in arms.items():
                shutil.rmtree(root, ignore_errors=True)
                times[name].append(seconds(arm))
        opened = opening(root)
    medians = {name: statistics.median(found) for name, found in times.items()}
    result = {
        **facts("torch", "torchvision", "pillow", "pyarrow", "numpy"),
        "images": arguments.images,
        "size": [375, 500],
        "images_per_second": {n: round(arguments.images / s, 1) for n, s in medians.items()},
        "ratio_to_loop": round(medians["loop"] / medians["prepare"], 2),
        "ratio_to_loader": round(medians["loader"] / medians["prepare"], 2),
        "seconds": {name: [round(s, 3) for s in found] for name, found in times.items()},
        "opening": opened,
    }
    print({name: value for name, value in result.items() if name != "seconds"})
    print(write("prepare", result))


if __name__ == "__main__":
    main()
