"""The suites that come with the package, as rows of data.

vtab     Zhai et al., A Large-scale Study of Representation Learning with the Visual Task
         Adaptation Benchmark, 2019 (arXiv:1910.04867): 19 tasks, 1,000 labelled images each.
fgvc     Jia et al., Visual Prompt Tuning, ECCV 2022 (arXiv:2203.12119): five fine-grained tasks.
fewshot  Zhang et al., Neural Prompt Search, 2022 (arXiv:2206.04673): five datasets × five numbers
         of shots × three draws of the training images.
mini     six generated or embedded tasks of 32×32 images after VTAB's three groups; no download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.spec import Recipe, Suite, Task


def _benchmark(name: str, tasks: tuple[Task, ...], recipe: Recipe, **fields: Any) -> Suite:
    """A published benchmark: its images lie below `$NAME_ROOT` in the layout of that name."""
    return Suite(
        name=name,
        tasks=tasks,
        backbone="vit_base_patch16_224.orig_in21k",
        recipe=recipe,
        default_tasks=tuple(task.name for task in tasks),
        default_adapters=("linear", "lora", "efft2", "hta"),
        seeds=3,
        sampler="tpe",
        stopping="asha",
        trials=24,
        replicate=3,
        layout=name,
        variable=f"{name.upper()}_ROOT",
        **fields,
    )


def _vtab(name: str, group: str, classes: int, test: int, *aliases: str) -> Task:
    return Task(name, group, classes, train=800, val=200, test=test, aliases=aliases)


VTAB = _benchmark(
    "vtab",
    (
        _vtab("cifar", "natural", 100, 10_000, "cifar100", "cifar_100", "cifar-100"),
        _vtab("caltech101", "natural", 102, 6_084, "caltech", "caltech_101", "caltech-101"),
        _vtab("dtd", "natural", 47, 1_880, "describable_textures"),
        _vtab(
            "oxford_flowers102", "natural", 102, 6_149,
            "oxford_flowers", "flowers102", "flowers", "oxford-flowers102",
        ),
        _vtab(
            "oxford_iiit_pet", "natural", 37, 3_669,
            "oxford_pet", "oxford_pets", "pets", "oxford-iiit-pet",
        ),
        _vtab("svhn", "natural", 10, 26_032, "svhn_cropped"),
        _vtab("sun397", "natural", 397, 21_750, "sun"),
        _vtab("patch_camelyon", "specialized", 2, 32_768, "camelyon", "patch-camelyon", "pcam"),
        _vtab("eurosat", "specialized", 10, 5_400, "euro_sat"),
        _vtab("resisc45", "specialized", 45, 6_300, "resisc"),
        _vtab(
            "diabetic_retinopathy", "specialized", 5, 42_670, "retinopathy", "diabetic-retinopathy"
        ),
        _vtab("clevr_count", "structured", 8, 15_000, "clevr_counts", "clevr-count"),
        _vtab("clevr_dist", "structured", 6, 15_000, "clevr_distance", "clevr-dist"),
        _vtab("dmlab", "structured", 6, 22_735, "deepmind_lab"),
        _vtab("kitti", "structured", 4, 711, "kitti_distance", "kitti_dist"),
        _vtab(
            "dsprites_loc", "structured", 16, 73_728,
            "dsprites_location", "dsprites_loc_x", "dsprites_x_position",
        ),
        _vtab("dsprites_ori", "structured", 16, 73_728, "dsprites_orientation"),
        _vtab("smallnorb_azi", "structured", 18, 12_150, "smallnorb_azimuth"),
        _vtab("smallnorb_ele", "structured", 9, 12_150, "smallnorb_elevation"),
    ),
    Recipe(precision="auto", evaluate_every=10),  # EFFT's and FacT's on VTAB-1k
    side=224,
    view="whole",
)  # fmt: skip

REPEATED_IN_THE_ORIGINAL = {"vtab": ("dsprites_loc", "dsprites_ori")}
"""Tasks with equal images in two splits: dSprites has 40 orientations from 0 to 2π, and the first
and the last look alike."""


def _fgvc(name: str, classes: int, counts: tuple[int, int, int], *aliases: str) -> Task:
    return Task(name, "fine-grained", classes, *counts, aliases=aliases)


FGVC = _benchmark(
    "fgvc",
    (
        _fgvc("cub_200_2011", 200, (5_394, 600, 5_794), "cub", "cub200", "CUB_200_2011"),
        _fgvc("nabirds", 555, (21_536, 2_393, 24_633), "nabird", "NABirds"),
        _fgvc(
            "oxford_flowers", 102, (1_020, 1_020, 6_149),
            "flowers", "OxfordFlower", "OxfordFlowers", "oxford_flowers102",
        ),
        _fgvc(
            "stanford_dogs", 120, (10_800, 1_200, 8_580), "dogs", "StanfordDogs", "stanford-dogs"
        ),
        _fgvc("stanford_cars", 196, (7_329, 815, 8_041), "cars", "StanfordCars", "stanford-cars"),
    ),
    # HTA: cosine with 10 of 100 epochs of warm-up, random-resized crop and flip; batch 32 is the
    # middle of its grid.
    Recipe(batch=32, augment="crop_flip", precision="auto", evaluate_every=10),
    side=320,  # above the backbone's 224, so that a crop is not only magnified
    view="centre",
)  # fmt: skip


class Draw(NamedTuple):
    """What the name of a few-shot task says; `seed` is the draw of images, not a trial's seed."""

    dataset: str
    shots: int
    seed: int


def draw_of(name: str) -> Draw:
    """`food101-4shot-seed1` → ("food101", 4, 1); `ValueError` for a name of another form."""
    match = re.fullmatch(r"(.+)-(\d+)shot-seed(\d+)", name)
    if match is None:
        raise ValueError(f"'{name}' is not DATASET-<n>shot-seed<s>.")
    return Draw(match[1], int(match[2]), int(match[3]))


_FEWSHOT_DATASETS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("food101", 101, ("food", "food-101")),
    ("fgvc-aircraft", 100, ("aircraft", "fgvc_aircraft")),
    ("oxford-flowers102", 102, ("flowers", "flowers102", "oxford_flowers102")),
    ("oxford-pets", 37, ("pets", "oxford_pets")),
    ("standford-cars", 196, ("cars", "stanford-cars", "stanford_cars")),  # NOAH's spelling
)


def _fewshot(dataset: str, classes: int, others: tuple[str, ...], shots: int, seed: int) -> Task:
    # No counts: a class may have fewer images than shots (oxford-pets has 74 lines for 1 shot).
    ending = f"-{shots}shot-seed{seed}"
    group = f"{shots} shot" if shots == 1 else f"{shots} shots"
    return Task(dataset + ending, group, classes, aliases=tuple(name + ending for name in others))


FEWSHOT = _benchmark(
    "fewshot",
    tuple(
        _fewshot(*dataset, shots, seed)
        for dataset in _FEWSHOT_DATASETS
        for shots in (1, 2, 4, 8, 16)
        for seed in (0, 1, 2)
    ),
    # The smallest training split has 74 images and the last incomplete batch is dropped.
    Recipe(batch=32, precision="auto", evaluate_every=10),
    side=224,
    view="whole",
)


_STEP = {"lr": 0.01, "weight_decay": 1e-4}
_ALL_BLOCKS = {"prompts_depth": None, "rank_depth": None, "hidden_depth": None}

MINI = Suite(
    name="mini",
    tasks=(
        # Of scikit-learn's 1,797 scans the 797 that train and val leave are the test split.
        Task("digits", "natural", classes=10, train=800, val=200, test=797),
        Task("patches", "natural", classes=8, train=800, val=200, test=1000),
        Task("textures", "specialized", classes=8, train=800, val=200, test=1000),
        Task("count", "structured", classes=6, train=800, val=200, test=1000),
        Task("location", "structured", classes=16, train=800, val=200, test=1000),
        Task("orientation", "structured", classes=8, train=800, val=200, test=1000),
    ),
    backbone="vit_mini",
    # Short and at a high rate: 7 epochs of 25 steps are enough here, and the whole default sweep
    # takes minutes on two cores. No drop-path, so that `linear` trains on cached features.
    recipe=Recipe(
        epochs=7,
        batch=32,
        lr=0.01,
        warmup_epochs=1,
        warmup_lr=0.002,
        drop_path=0.0,
        normalisation="half",
        precision="auto",
    ),
    default_tasks=("digits", "textures", "orientation"),
    default_adapters=("linear", "efft2", "lora"),
    seeds=3,
    sampler="grid",
    stopping="asha",
    replicate=2,
    layout="mini",
    side=32,
    spaces={
        "linear": {"lr": [0.01, 0.05]},
        "efft2": {"scale": [0.01, 0.1, 1.0, 10.0, 100.0], "rank": 8, "init": "vv"},
        "lora": {"rank": [2, 8]},
        # Two points of every other method: of its own hyperparameter if it has one, else of lr.
        "adapter": {"hidden": [8, 64], **_STEP},
        "adaptformer": {"hidden": 8, "scale": [0.1, 1.0]},
        "arc": {"rank": [8, 25], **_STEP},
        "bitfit": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "dtl": {"lr": [0.01, 0.001]},
        "efft1": {"scale": [1.0, 10.0], "rank": 8, "init": "v"},
        "fact_tk": {"scale": [1.0, 10.0], "rank": 16},
        "fact_tt": {"scale": [1.0, 10.0], "rank": 8},
        "full": {"lr": [0.005, 0.001], "weight_decay": 1e-4},
        "hta": {"rank": [1, 4], "dropout": 0.0, **_STEP, "batch": 32},
        "hta_adapter": {"rank": [0, 1], "dropout": 0.0, **_STEP, "batch": 32},
        "last": {"rank": [4, 16], "lr": 0.01},
        "mlp_head": {"lr": [0.01, 0.001], "weight_decay": 1e-4},
        "noah": {"prompts": [1, 5], "rank": 5, "hidden": 5, **_ALL_BLOCKS},
        "partial": {"lr": [0.005, 0.001], "weight_decay": 1e-4},
        "rlrr": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "ssf": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "vpt_deep": {"prompts": [1, 5], "lr": 0.01},
        "vpt_shallow": {"prompts": [1, 5], "lr": 0.01},
    },
)

SUITES: Mapping[str, Suite] = {row.name: row for row in (MINI, VTAB, FGVC, FEWSHOT)}
