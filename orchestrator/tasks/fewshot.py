"""The few-shot benchmark of NOAH: five datasets × five numbers of shots × three lists of images.

Zhang et al., Neural Prompt Search, 2022 (arXiv:2206.04673).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from orchestrator.spec import Recipe, Suite, Task

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
"""Each is another draw of the training images; not the seed of a trial."""

_DATASETS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("food101", 101, ("food", "food-101")),
    ("fgvc-aircraft", 100, ("aircraft", "fgvc_aircraft")),
    ("oxford-flowers102", 102, ("flowers", "flowers102", "oxford_flowers102")),
    ("oxford-pets", 37, ("pets", "oxford_pets")),
    ("standford-cars", 196, ("cars", "stanford-cars", "stanford_cars")),  # theirs is spelt so
)


class Draw(NamedTuple):
    """What the name of a few-shot task says."""

    dataset: str
    shots: int
    seed: int


def draw_of(name: str) -> Draw:
    """`food101-4shot-seed1` → ("food101", 4, 1); `ValueError` for a name of another form."""
    match = re.fullmatch(r"(.+)-(\d+)shot-seed(\d+)", name)
    if match is None:
        raise ValueError(f"'{name}' is not DATASET-<n>shot-seed<s>.")
    return Draw(match[1], int(match[2]), int(match[3]))


def _row(dataset: str, classes: int, others: tuple[str, ...], shots: int, seed: int) -> Task:
    # No counts: a class may have fewer images than shots (oxford-pets has 74 lines for 1 shot).
    ending = f"-{shots}shot-seed{seed}"
    group = f"{shots} shot" if shots == 1 else f"{shots} shots"
    return Task(dataset + ending, group, classes, aliases=tuple(name + ending for name in others))


_TASKS = tuple(
    _row(*dataset, shots, seed) for dataset in _DATASETS for shots in SHOTS for seed in SEEDS
)

FEWSHOT = Suite(
    name="fewshot",
    tasks=_TASKS,
    backbone="vit_base_patch16_224.orig_in21k",
    # The smallest training split has 74 images and the last incomplete batch is dropped.
    recipe=Recipe(batch=32, precision="auto"),
    default_tasks=tuple(task.name for task in _TASKS),
    default_adapters=("linear", "lora", "efft2", "hta"),
    seeds=3,
    sampler="tpe",
    stopping="asha",
    trials=24,
    replicate=3,
    layout="fewshot",
    variable="FEWSHOT_ROOT",
    side=224,
    view="whole",
)
