from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image

from orchestrator.data.mini import photographs, rendered
from orchestrator.data.mini.pixels import SIDE, SIZES, Splits, balanced
from orchestrator.data.splits import open_final
from orchestrator.spec import Task
from orchestrator.tasks.suites import MINI

RENDERED = [task for task in MINI.tasks if task.name != "digits"]
DIGEST = """
from orchestrator.data.mini import make
from orchestrator.tasks.suites import MINI
from tests.data.test_mini import digest
print(*(digest(make(task.name)) for task in MINI.tasks[::2]))
"""


def digest(splits: Splits) -> str:
    found = hashlib.sha256()
    for name, (images, labels) in splits.items():
        found.update(name.encode() + images.tobytes() + labels.tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def made(mini_data: Path) -> dict[str, Splits]:
    """The splits of each task; they were made once, to be prepared."""
    found = {}
    for task in MINI.tasks:
        data = open_final(MINI.store, task, mini_data)
        splits = zip(SIZES, (*data.train, data.test), strict=True)
        found[task.name] = {name: (split.images, split.labels) for name, split in splits}
    return found


@pytest.mark.parametrize("task", MINI.tasks, ids=lambda task: task.name)
def test_splits_are_as_the_suite_says(task: Task, made: dict[str, Splits]) -> None:
    splits = made[task.name]
    assert list(splits) == ["train", "val", "test"]
    for name, (images, labels) in splits.items():
        count = getattr(task, name)
        assert images.shape == (count, SIDE, SIDE, 3)
        assert images.dtype == np.uint8
        assert labels.shape == (count,)
        assert labels.dtype == np.int64
        assert set(labels.tolist()) == set(range(task.classes))
        assert images.std() > 20, "the images show something"


def test_a_fresh_process_makes_the_same_bytes(made: dict[str, Splits]) -> None:
    here = [digest(made[task.name]) for task in MINI.tasks[::2]]
    ended = subprocess.run(
        [sys.executable, "-c", DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert ended.stdout.split() == here
    assert len(set(here)) == len(here)


@pytest.mark.parametrize("task", RENDERED, ids=lambda task: task.name)
def test_classes_of_made_tasks_are_balanced(task: Task, made: dict[str, Splits]) -> None:
    for _, labels in made[task.name].values():
        counts = np.bincount(labels, minlength=task.classes)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("task", [t.name for t in MINI.tasks if t.name != "patches"])
def test_no_image_is_in_two_splits(task: str, made: dict[str, Splits]) -> None:
    splits = made[task]
    seen = [{image.tobytes() for image in images} for images, _ in splits.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_digits_are_the_scans_each_once(made: dict[str, Splits]) -> None:
    scans = load_digits()
    grey = np.rint(scans.images * (255 / 16)).astype(np.uint8)
    expected = sorted(
        (image.tobytes(), int(n)) for image, n in zip(grey, scans.target, strict=True)
    )
    found = []
    for images, labels in made["digits"].values():
        small = images[:, ::4, ::4, 0]
        assert (np.kron(small, np.ones((1, 4, 4), np.uint8))[..., None] == images).all()
        found += [(image.tobytes(), int(n)) for image, n in zip(small, labels, strict=True)]
        assert np.bincount(labels, minlength=10).min() >= 0.05 * len(labels)
    assert sorted(found) == expected


def corners() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split → labels and corners of its patches, drawn as `make_patches` draws them."""
    found = {}
    for index, (name, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([photographs.PATCHES_SEED, index])
        labels = balanced(rng, count, photographs.PATCHES_CLASSES)
        found[name] = labels, photographs.corners_of(name, labels, rng)
    return found


def test_patches_of_different_splits_share_no_pixel(made: dict[str, Splits]) -> None:
    sources = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    splits = made["patches"]
    covered = {}
    for name, (labels, places) in corners().items():
        times = np.zeros((2, *sources[0].shape[:2]), np.int64)
        for image, label, (top, left) in zip(splits[name][0], labels, places, strict=True):
            source = label // photographs.COLUMNS
            window = slice(top, top + SIDE), slice(left, left + SIDE)
            assert (sources[source][window] == image).all()
            column = label % photographs.COLUMNS * photographs.WIDTH
            assert column <= left <= column + photographs.WIDTH - SIDE
            times[source][window] += 1
        assert (splits[name][1] == labels).all()
        covered[name] = times
    assert covered["val"].max() == 1, "patches of val do not overlap"
    shown = np.stack([times > 0 for times in covered.values()]).sum(0)
    assert shown.max() == 1, "no pixel is in two splits"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, np.ndarray, float, float]]:
    """Every shape that a maker draws from here on: kind, centre, radius, angle."""
    calls: list[tuple[int, np.ndarray, float, float]] = []
    draw = rendered.shape_mask

    def note(kind: int, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
        calls.append((kind, centre, radius, angle))
        return draw(kind, centre, radius, angle)

    monkeypatch.setattr(rendered, "shape_mask", note)
    return calls


LABELS = np.arange(96)


def test_location_is_the_cell_of_the_large_objects_centre(drawn: list) -> None:
    labels = LABELS % 16
    rendered.draw_location(np.random.default_rng(0), labels)
    assert len(drawn) == 4 * len(labels)
    for label, shapes in zip(labels, np.split(np.arange(len(drawn)), len(labels)), strict=True):
        large = [drawn[n] for n in shapes if drawn[n][2] >= 4]
        assert len(large) == 1
        column, row = (large[0][1] // (SIDE / 4)).astype(int)
        assert row * 4 + column == label


def test_orientation_is_where_the_triangle_points(drawn: list) -> None:
    labels = LABELS % 8
    rendered.draw_orientation(np.random.default_rng(0), labels)
    assert [kind for kind, *_ in drawn] == [2] * len(labels)
    for label, (_, centre, radius, angle) in zip(labels, drawn, strict=True):
        assert round(angle / (np.pi / 4)) % 8 == label
        assert (np.abs(centre - SIDE / 2) + radius <= SIDE / 2).all(), "it is whole"


def test_count_is_the_number_of_objects(drawn: list) -> None:
    for label in range(6):
        drawn.clear()
        rendered.draw_count(np.random.default_rng(label), np.array([label] * 3))
        assert len(drawn) == 3 * (label + 1)


@pytest.mark.parametrize("angle", [0.0, 2.4])
def test_a_triangle_is_narrow_where_it_points(angle: float) -> None:
    mask = rendered.shape_mask(2, np.array([16.0, 16.0]), 8.0, angle)
    x, y = rendered.grid()
    along = (x - 16) * np.cos(angle) + (y - 16) * np.sin(angle)
    assert mask[along > 2].sum() < 0.5 * mask[along < -2].sum()
    assert mask[along > 4].sum() > 1, "and it reaches there"
