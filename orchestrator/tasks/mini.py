"""The embedded suite: six tasks of 32×32 images after VTAB's three groups, no download."""

from __future__ import annotations

from orchestrator.spec import Recipe, Suite, Task

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
        # Two points of every other method: its own knob if it has one, else the step size.
        "adapter": {"hidden": [8, 64], **_STEP},
        "adaptformer": {"hidden": 8, "scale": [0.1, 1.0]},
        "arc": {"rank": [8, 25], **_STEP},
        "bitfit": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "efft1": {"scale": [1.0, 10.0], "rank": 8, "init": "v"},
        "fact_tk": {"scale": [1.0, 10.0], "rank": 16},
        "fact_tt": {"scale": [1.0, 10.0], "rank": 8},
        "full": {"lr": [0.005, 0.001], "weight_decay": 1e-4},
        "hta": {"rank": [1, 4], "dropout": 0.0, **_STEP, "batch": 32},
        "hta_adapter": {"rank": [0, 1], "dropout": 0.0, **_STEP, "batch": 32},
        "mlp_head": {"lr": [0.01, 0.001], "weight_decay": 1e-4},
        "noah": {"prompts": [1, 5], "rank": 5, "hidden": 5, **_ALL_BLOCKS},
        "partial": {"lr": [0.005, 0.001], "weight_decay": 1e-4},
        "rlrr": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "ssf": {"lr": [0.01, 0.05], "weight_decay": 1e-4},
        "vpt_deep": {"prompts": [1, 5], "lr": 0.01},
        "vpt_shallow": {"prompts": [1, 5], "lr": 0.01},
    },
)
