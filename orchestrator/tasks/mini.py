"""The embedded suite: six tasks of 32×32 images after VTAB's three groups, no download."""

from __future__ import annotations

from orchestrator.spec import Recipe, Suite, Task

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
        "hta": {"rank": [1, 4], "dropout": 0.0, "lr": 0.01, "weight_decay": 1e-4, "batch": 32},
    },
)
