"""FGVC: five fine-grained tasks with the splits of VPT.

Jia et al., Visual Prompt Tuning, ECCV 2022 (arXiv:2203.12119).
"""

from __future__ import annotations

from orchestrator.spec import Recipe, Suite, Task


def _row(name: str, classes: int, counts: tuple[int, int, int], *aliases: str) -> Task:
    return Task(name, "fine-grained", classes, *counts, aliases=aliases)


_TASKS = (
    _row("cub_200_2011", 200, (5_394, 600, 5_794), "cub", "cub200", "CUB_200_2011"),
    _row("nabirds", 555, (21_536, 2_393, 24_633), "nabird", "NABirds"),
    _row(
        "oxford_flowers", 102, (1_020, 1_020, 6_149),
        "flowers", "OxfordFlower", "OxfordFlowers", "oxford_flowers102",
    ),
    _row("stanford_dogs", 120, (10_800, 1_200, 8_580), "dogs", "StanfordDogs", "stanford-dogs"),
    _row("stanford_cars", 196, (7_329, 815, 8_041), "cars", "StanfordCars", "stanford-cars"),
)  # fmt: skip

FGVC = Suite(
    name="fgvc",
    tasks=_TASKS,
    backbone="vit_base_patch16_224.orig_in21k",
    # HTA: cosine with 10 of 100 epochs of warm-up, random-resized crop and flip; batch 32 is the
    # middle of its grid.
    recipe=Recipe(batch=32, augment="crop_flip", precision="auto"),
    default_tasks=tuple(task.name for task in _TASKS),
    default_adapters=("linear", "lora", "efft2", "hta"),
    seeds=3,
    sampler="tpe",
    stopping="asha",
    trials=24,
    replicate=3,
    layout="fgvc",
    variable="FGVC_ROOT",
    side=320,  # above the backbone's 224, so that a crop is not only magnified
    view="centre",
)
