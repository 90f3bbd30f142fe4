"""VTAB-1k: 19 tasks with 1,000 labelled images each, and the full test sets.

Zhai et al., A Large-scale Study of Representation Learning with the Visual Task Adaptation
Benchmark, 2019 (arXiv:1910.04867).
"""

from __future__ import annotations

from orchestrator.spec import Recipe, Suite, Task


def _row(name: str, group: str, classes: int, test: int, *aliases: str) -> Task:
    return Task(name, group, classes, train=800, val=200, test=test, aliases=aliases)


_NATURAL = (
    _row("cifar", "natural", 100, 10_000, "cifar100", "cifar_100", "cifar-100"),
    _row("caltech101", "natural", 102, 6_084, "caltech", "caltech_101", "caltech-101"),
    _row("dtd", "natural", 47, 1_880, "describable_textures"),
    _row(
        "oxford_flowers102", "natural", 102, 6_149,
        "oxford_flowers", "flowers102", "flowers", "oxford-flowers102",
    ),
    _row(
        "oxford_iiit_pet", "natural", 37, 3_669,
        "oxford_pet", "oxford_pets", "pets", "oxford-iiit-pet",
    ),
    _row("svhn", "natural", 10, 26_032, "svhn_cropped"),
    _row("sun397", "natural", 397, 21_750, "sun"),
)  # fmt: skip

_SPECIALIZED = (
    _row("patch_camelyon", "specialized", 2, 32_768, "camelyon", "patch-camelyon", "pcam"),
    _row("eurosat", "specialized", 10, 5_400, "euro_sat"),
    _row("resisc45", "specialized", 45, 6_300, "resisc"),
    _row(
        "diabetic_retinopathy", "specialized", 5, 42_670, "retinopathy", "diabetic-retinopathy"
    ),
)  # fmt: skip

_STRUCTURED = (
    _row("clevr_count", "structured", 8, 15_000, "clevr_counts", "clevr-count"),
    _row("clevr_dist", "structured", 6, 15_000, "clevr_distance", "clevr-dist"),
    _row("dmlab", "structured", 6, 22_735, "deepmind_lab"),
    _row("kitti", "structured", 4, 711, "kitti_distance", "kitti_dist"),
    _row(
        "dsprites_loc", "structured", 16, 73_728,
        "dsprites_location", "dsprites_loc_x", "dsprites_x_position",
    ),
    _row("dsprites_ori", "structured", 16, 73_728, "dsprites_orientation"),
    _row("smallnorb_azi", "structured", 18, 12_150, "smallnorb_azimuth"),
    _row("smallnorb_ele", "structured", 9, 12_150, "smallnorb_elevation"),
)  # fmt: skip

_TASKS = (*_NATURAL, *_SPECIALIZED, *_STRUCTURED)

VTAB = Suite(
    name="vtab",
    tasks=_TASKS,
    backbone="vit_base_patch16_224.orig_in21k",
    recipe=Recipe(precision="auto"),  # EFFT's and FacT's on VTAB-1k
    default_tasks=tuple(task.name for task in _TASKS),
    default_adapters=("linear", "lora", "efft2", "hta"),
    seeds=3,
    sampler="tpe",
    stopping="asha",
    trials=24,
    replicate=3,
    layout="vtab",
    variable="VTAB_ROOT",
    side=224,
    view="whole",
)
