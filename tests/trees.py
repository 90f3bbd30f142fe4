"""Small trees of images in exactly the layouts of the benchmarks, quickly made.

The images are real files of odd sizes: JPEG in RGB, grey and CMYK, PNG in RGB, RGBA, with a palette
and with 16 bits of grey. Stripes show the label: their direction, width and colours.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.spec import Suite, Task
from orchestrator.tasks import SUITES
from orchestrator.tasks.suites import draw_of

Pixels = npt.NDArray[np.uint8]
SHOWN = 6
"""At most so many of a task's classes have images, except in FGVC."""


class Picture(NamedTuple):
    """An encoded image and the suffix of its file."""

    data: bytes
    suffix: str


def picture(label: int, number: int, seed: int = 0) -> Picture:
    """An image of a class; `number` decides on its size, format and noise."""
    rng = np.random.default_rng((seed, label, number))
    height, width = (int(side) for side in rng.integers(20, 61, size=2))
    kind = list(KINDS)[number % len(KINDS)]
    return KINDS[kind](_stripes(label, height, width, rng))


def _stripes(label: int, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """(height, width, 3): the class is the stripes' angle, number and the two colours."""
    angle = np.pi * ((label * 0.618034) % 1)
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(0, 1, width)[None, :]
    wave = np.sin(2 * np.pi * (2 + label % 3) * (x * np.cos(angle) + y * np.sin(angle)))
    palette = np.random.default_rng(label + 1)
    dark, light = palette.integers(0, 110, size=3), palette.integers(145, 256, size=3)
    image = np.where(wave[..., None] > rng.uniform(-0.3, 0.3), light, dark)
    noisy = image + rng.integers(-12, 13, size=image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _jpeg(pixels: Pixels, mode: str) -> Picture:
    return Picture(_encoded(Image.fromarray(pixels).convert(mode), "JPEG", quality=90), ".jpg")


def _png(pixels: Pixels, mode: str) -> Picture:
    return Picture(_encoded(Image.fromarray(pixels).convert(mode), "PNG", compress_level=1), ".png")


def _deep_png(pixels: Pixels) -> Picture:
    grey = pixels.mean(axis=2)
    deep = Image.fromarray((grey * 257).astype(np.uint16))
    return Picture(_encoded(deep, "PNG", compress_level=1), ".png")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Pixels], Picture]] = {
    "JPEG": lambda pixels: _jpeg(pixels, "RGB"),
    "PNG": lambda pixels: _png(pixels, "RGB"),
    "grey JPEG": lambda pixels: _jpeg(pixels, "L"),
    "another JPEG": lambda pixels: _jpeg(pixels, "RGB"),
    "CMYK JPEG": lambda pixels: _jpeg(pixels, "CMYK"),
    "palette PNG": lambda pixels: _png(pixels, "P"),
    "RGBA PNG": lambda pixels: _png(pixels, "RGBA"),
    "16-bit PNG": _deep_png,
}


def shown_labels(classes: int) -> list[int]:
    """The labels that have images: the first, the last, and some evenly between them."""
    count = min(classes, SHOWN)
    return [round(index * (classes - 1) / (count - 1)) for index in range(count)]


def make_vtab(
    root: Path,
    tasks: Sequence[str] | None = None,
    train: int = 36,
    val: int = 12,
    test: int = 12,
    seed: int = 0,
) -> Path:
    """VTAB-1k as the EFFT family shares it: `<task>/images/train800/000000.jpg`, four lists."""
    for index, task in enumerate(_chosen(SUITES["vtab"], tasks)):
        folder = root / task.name
        labels = shown_labels(task.classes)
        both: list[tuple[bytes, str, int]] = []
        for name, count in (("train800", train), ("val200", val), ("test", test)):
            made = list(_pictures(labels, count, (seed, index, name)))
            _write_list(folder / f"{name}.txt", _put(folder, f"images/{name}", made))
            both += made if name != "test" else []
        _write_list(folder / "train800val200.txt", _put(folder, "images/train800val200", both))
    return root


FGVC_FOLDERS = {  # the folder, where its images lie, and in which folder there; the first id
    "cub_200_2011": ("CUB_200_2011", "images", "{label:03d}.Bird", 1),
    "nabirds": ("nabirds", "images", "{label:04d}", 295),
    "oxford_flowers": ("OxfordFlower", ".", "jpg", 1),
    "stanford_dogs": ("StanfordDogs", "Images", "n{label:08d}-Dog", 1),
    "stanford_cars": ("StanfordCars", ".", "cars_train", 1),
}


def make_fgvc(
    root: Path,
    tasks: Sequence[str] = ("oxford_flowers",),
    train: int | None = None,
    val: int = 12,
    test: int = 20,
    seed: int = 0,
) -> Path:
    """FGVC with VPT's lists; `train` is the number of classes by default, so that each occurs."""
    for task in _chosen(SUITES["fgvc"], tasks):
        name, base, group, first = FGVC_FOLDERS[task.name]
        number = 0
        for split, count in (("train", train or task.classes), ("val", val), ("test", test)):
            listed: dict[str, int] = {}
            for _ in range(count):
                label = number % task.classes
                image = picture(label, number, seed)
                path = f"{group.format(label=label)}/image_{number:05d}{image.suffix}"
                _write(root / name / base / path, image.data)
                listed[path] = label + first
                number += 1
            (root / name / f"{split}.json").write_text(json.dumps(listed))
        if number < task.classes:
            raise ValueError(f"{number} images cannot show the {task.classes} classes of {name}.")
    return root


def make_fewshot(
    root: Path,
    tasks: Sequence[str] = ("oxford-pets-1shot-seed0",),
    train: int = 40,
    val: int = 12,
    test: int = 18,
    seed: int = 0,
) -> Path:
    """NOAH's few-shot lists; tasks of one dataset share its val and test."""
    for task in _chosen(SUITES["fewshot"], tasks):
        draw = draw_of(task.name)
        lists = {
            f"train_meta.list.num_shot_{draw.shots}.seed_{draw.seed}": train,
            "val_meta.list": val,
            "test_meta.list": test,
        }
        folder = root / draw.dataset
        for index, (name, count) in enumerate(lists.items()):
            if not (folder / "annotations" / name).exists():
                part = name.removeprefix("train_meta.list.").replace("_meta.list", "")
                made = _pictures(shown_labels(task.classes), count, (seed, index, task.name))
                rows = _put(folder / "images", part, made)
                _write_list(folder / "annotations" / name, rows)
    return root


def make_own(root: Path, train: int = 36, val: int = 12, test: int = 12, seed: int = 0) -> Path:
    """A suite of one's own, a task of each form with 3, 4 and 5 classes; its YAML file.

    The tasks are `tulips` (folders), `weeds` (lists) and `ferns` (Parquet, a third held out).
    """
    counts = (("train", train), ("val", val), ("test", test))
    names = ("parrot", "triumph", "viridiflora")
    for split, count in counts:
        for number, (data, suffix, label) in enumerate(
            _pictures(range(3), count, (seed, 0, split))
        ):
            _write(root / "tulips" / split / names[label] / f"{number:04d}{suffix}", data)
        rows = _put(root / "weeds", split, _pictures(range(4), count, (seed, 1, split)))
        _write_list(root / "weeds" / f"{split}.txt", rows)
        if split != "val":
            made = list(_pictures(range(5), count, (seed, 2, split)))
            write_parquet(root / "ferns" / f"{split}.parquet", made)
    (root / "garden.yaml").write_text(GARDEN)
    return root / "garden.yaml"


GARDEN = """\
name: garden
tasks:
  tulips:
    classes: [parrot, triumph, viridiflora]
    folders: {train: tulips/train, val: tulips/val, test: tulips/test}
  weeds:
    classes: 4
    group: '[/x]'
    aliases: [weed]
    lists: {root: weeds, train: weeds/train.txt, val: weeds/val.txt, test: weeds/test.txt}
  ferns:
    classes: 5
    parquet: {train: ferns/train.parquet, val: 0.3333, test: ferns/test.parquet}
recipe: {epochs: 2, warmup_epochs: 1, batch: 8, lr: 1e-2}
default_adapters: [linear]
sampler: grid
"""


def write_parquet(
    path: Path, made: Sequence[tuple[bytes, str, int]], struct: bool = True, group: int = 10
) -> None:
    """Rows of `image` (the hub's struct, or bytes) and `label`, `group` to a row group."""
    images = [{"bytes": data, "path": None} if struct else data for data, _, _ in made]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary()
    labels = pa.array([label for _, _, label in made], pa.int64())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), path, group)


def _chosen(suite: Suite, names: Sequence[str] | None) -> Sequence[Task]:
    return suite.tasks if names is None else [suite.task(name) for name in names]


def _pictures(
    labels: Sequence[int], count: int, source: tuple[int, int, str]
) -> Iterator[tuple[bytes, str, int]]:
    """(bytes, suffix, label), the labels in turn. Each source gives other images."""
    seed, index, name = source
    start = 100_000 * index + 10_000 * (sum(name.encode()) % 10)
    for number in range(count):
        label = labels[number % len(labels)]
        # One kind further after each round of labels, so that no class has a kind of its own.
        image = picture(label, start + number + number // len(labels), seed)
        yield image.data, image.suffix, label


def _put(
    folder: Path,
    part: str,
    made: Sequence[tuple[bytes, str, int]] | Iterator[tuple[bytes, str, int]],
) -> list[tuple[str, int]]:
    """Write images as `part/000000.jpg` …; the rows of their list."""
    rows = []
    for number, (data, suffix, label) in enumerate(made):
        rows.append((f"{part}/{number:06d}{suffix}", label))
        _write(folder / rows[-1][0], data)
    return rows


def _write_list(path: Path, rows: Sequence[tuple[str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {label}\n" for name, label in rows))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
