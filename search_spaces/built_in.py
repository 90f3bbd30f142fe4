"""The search spaces of the built-in adapters, every range with its source, and the ablation."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.selections import to_choice

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The coarse scales: EFFT's grid (arXiv 2311.06749), and all that FacT's winners use."""

FINE_SCALES = (0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0, 50.0, 80.0, 100.0)
"""`SCALES` with the points between them that EFFT's published winners use (published.yaml): the
coarse grid and the fine pass after it, in one."""

HTA_LR = (0.2, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0001)
HTA_WEIGHT_DECAY = (0.05, 0.01, 0.005, 0.001, 0.0)
"""HTA's training grid for AdamW (arXiv 2410.22952)."""

VPT_LR = (0.005, 0.001, 0.0005, 0.0001)
VPT_WEIGHT_DECAY = (0.01, 0.001, 0.0001, 0.0)
"""What VPT (arXiv 2203.12119, appendix; `finetune` in its tune_vtab.py) gives AdamW for full,
partial, bias and adapter tuning. There the rate is for a batch of 256 and scaled with it; here it
is used as it stands."""

RECIPE = ("lr", "weight_decay", "batch")
"""The fields of the recipe, not of an adapter, that these spaces search."""

_VPT_BASELINE: dict[str, BaseDistribution] = {
    "lr": CategoricalDistribution(VPT_LR),
    "weight_decay": CategoricalDistribution(VPT_WEIGHT_DECAY),
}
"""The grid of the VPT paper for its baselines, 16 points."""

_VPT: dict[str, BaseDistribution] = {
    # Prompt lengths that the VPT paper tries (arXiv 2203.12119, section 4).
    "prompts": CategoricalDistribution((1, 5, 10, 50, 100, 200)),
    # HTA's grid: VPT's own rates (0.05 … 50) are for SGD.
    "lr": CategoricalDistribution(HTA_LR),
}
"""6 · 7 = 42 points."""

_HTA_TRAINING: dict[str, BaseDistribution] = {
    "lr": CategoricalDistribution(HTA_LR),
    "weight_decay": CategoricalDistribution(HTA_WEIGHT_DECAY),
}
"""7 · 5 = 35 points."""

_HTA: dict[str, BaseDistribution] = {
    # Rank of the low-rank part beside the Householder product: the values of HTA's ablation, which
    # are for `hta`; the paper gives no others for `hta_adapter`.
    "rank": CategoricalDistribution((0, 1, 2, 4)),
    # The rest is HTA's training grid.
    "dropout": CategoricalDistribution((0.5, 0.3, 0.2, 0.1, 0.0)),
    **_HTA_TRAINING,
    "batch": CategoricalDistribution((64, 32, 16)),
}
"""The grid of the HTA paper, 4 · 5 · 7 · 5 · 3 = 2,100 points."""

SPACES: dict[str, dict[str, BaseDistribution]] = {
    "full": _VPT_BASELINE,
    # No field of its own, so only the step size.
    "linear": {
        # HTA's grid: a baseline deserves a tuned step size too. VPT's is for SGD (0.05 … 50).
        "lr": CategoricalDistribution(HTA_LR),
    },
    "partial": _VPT_BASELINE,
    # HTA's grid, as for `linear`: VPT's own rates for this head are for SGD. Depth and dropout stay
    # at VPT's.
    "mlp_head": _HTA_TRAINING,
    "bitfit": _VPT_BASELINE,
    "vpt_shallow": _VPT,
    "vpt_deep": _VPT,
    # 3 · 4 · 4 = 48 points.
    "adapter": {
        # The sizes that Houlsby et al. search (arXiv 1902.00751, section 3); 8 is that of the
        # VTAB-1k comparisons. `position` stays at the usual one.
        "hidden": CategoricalDistribution((8, 64, 256)),
        **_VPT_BASELINE,
    },
    # 4 · 3 = 12 points (arXiv 2205.13535).
    "adaptformer": {
        # AdaptFormer-1, -4 and -64 are the paper's; 8 is that of the VTAB-1k comparisons.
        "hidden": CategoricalDistribution((1, 4, 8, 64)),
        # The paper settles on 0.1; ten times less and more are our choice.
        "scale": CategoricalDistribution((0.01, 0.1, 1.0)),
    },
    # Hu et al. 2021, arXiv 2106.09685.
    "lora": {
        # Hu et al., table 6, compares ranks 1, 2, 4, 8 and 64; EFFT's grid for the same backbone
        # and tasks is 8, 16, 32. alpha stays at its default (the rank), so the update's scale is 1.
        "rank": CategoricalDistribution((2, 4, 8, 16, 32)),
    },
    # 4 · 2 = 8 points; SSF (arXiv 2210.08823) has no hyper-parameter of its own.
    "ssf": {
        # The paper gives no range. Its VTAB-1k scripts choose a rate per task, such as 0.01 and
        # 0.05; its CIFAR-100 script has 0.001. 0.005 between them is ours.
        "lr": CategoricalDistribution((0.05, 0.01, 0.005, 0.001)),
        # The two values of those scripts.
        "weight_decay": CategoricalDistribution((0.05, 5e-5)),
    },
    # 5 · 3 = 15 points.
    "fact_tt": {
        # The scales of FacT's published winners (published.yaml) are these five.
        "scale": CategoricalDistribution(SCALES),
        # The ranks of FacT-TT's published winners.
        "rank": CategoricalDistribution((4, 8, 16)),
    },
    # 5 · 2 = 10 points.
    "fact_tk": {
        # The scales of FacT's published winners (published.yaml) are these five.
        "scale": CategoricalDistribution(SCALES),
        # The ranks of FacT-TK's published winners.
        "rank": CategoricalDistribution((16, 32)),
    },
    # The grid of the EFFT paper and its fine points, 12 · 3 · 2 = 72.
    "efft1": {
        # EFFT's coarse grid with the winners' points; TPE starts anywhere, a grid has all of them.
        "scale": CategoricalDistribution(FINE_SCALES),
        # EFFT's grid; rank2 follows.
        "rank": CategoricalDistribution((8, 16, 32)),
        # EFFT's grid: the factor that starts at zero.
        "init": CategoricalDistribution(("v", "u")),
    },
    # The grid of the EFFT paper and its fine points, 12 · 3 · 4 = 144.
    "efft2": {
        # EFFT's coarse grid with the winners' points; TPE starts anywhere, a grid has all of them.
        "scale": CategoricalDistribution(FINE_SCALES),
        # EFFT's grid, both groups alike.
        "rank": CategoricalDistribution((8, 16, 32)),
        # EFFT's grid: the factor that starts at zero, MHSA group then FFN group.
        "init": CategoricalDistribution(("vv", "vu", "uv", "uu")),
    },
    "hta": _HTA,
    "hta_adapter": _HTA,
    # 3 · 7 · 5 = 105 points (arXiv 2310.06234).
    "arc": {
        # 50 is the paper's bottleneck on ViT-B; half and twice of it are our choice.
        "rank": CategoricalDistribution((25, 50, 100)),
        # HTA's training grid, of the same group; ARC gives no range (its script has 0.01 and 0).
        **_HTA_TRAINING,
    },
    # RLRR (arXiv 2403.19067) has no hyper-parameter of its own and gives no range: HTA's training
    # grid, of the same group.
    "rlrr": _HTA_TRAINING,
    # DTL's VTAB-1k scripts (arXiv 2312.07856) have one of these rates each, rank 2 and beta 100.
    "dtl": {
        "lr": CategoricalDistribution((0.0001, 0.0003, 0.0005, 0.0008, 0.001, 0.003, 0.008, 0.01))
    },
    # 3 · 7 = 21 points; LAST (arXiv 2402.04009) has no public code.
    "last": {
        # Our choice.
        "rank": CategoricalDistribution((8, 16, 32)),
        # HTA's training grid.
        "lr": CategoricalDistribution(HTA_LR),
    },
    # What its supernet holds (arXiv 2206.04673), 3³ · 4³ = 1,728 points.
    "noah": {
        # NOAH's sizes of each part; its published VTAB-1k subnets use all three.
        "prompts": CategoricalDistribution((1, 5, 10)),
        "rank": CategoricalDistribution((1, 5, 10)),
        "hidden": CategoricalDistribution((1, 5, 10)),
        # NOAH's depths 3, 6, 9 and 12 of 12 blocks: None is all of them, here as there the
        # published subnets' choice.
        "prompts_depth": CategoricalDistribution((None, 9, 6, 3)),
        "rank_depth": CategoricalDistribution((None, 9, 6, 3)),
        "hidden_depth": CategoricalDistribution((None, 9, 6, 3)),
    },
}

_ABLATION_DEPTH = 12
_ABLATION_GROUPS = (
    (0, 2),
    (2, 4),
    (5, 8),
    (9, 11),
)  # of ViT-B's blocks; the overlap is the paper's


def ablation(depth: int) -> dict[str, BaseDistribution]:
    """The ablation of the EFFT paper: which blocks, and which half of them, need adapting.

    Layers 0-2, 2-4, 5-8, 9-11 × {MHSA, FFN}, then MHSA only and FFN only (arXiv 2311.06749). We add
    both halves together, so that the adapter as it is by default has its row: 5 · 3 configurations.

    For another `depth` of the backbone than 12, a group has the blocks that overlap its share of it
    (24 blocks: 0-5, 4-9, 10-17, 18-23); groups that coincide in a shallow backbone are there once.
    """
    spans = (
        range(first * depth // _ABLATION_DEPTH, -(-(last + 1) * depth // _ABLATION_DEPTH))
        for first, last in _ABLATION_GROUPS
    )
    texts = dict.fromkeys(to_choice("layers", list(span)) for span in spans)
    return {
        "layers": CategoricalDistribution((None, *texts)),
        "sites": CategoricalDistribution(("mhsa", "ffn", "mhsa+ffn")),
    }


def fair(space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """`space` with its fields of the recipe replaced by those that every adapter then searches:
    HTA's learning rates × weight decays.
    """
    own = {name: values for name, values in space.items() if name not in RECIPE}
    return {**own, **_HTA_TRAINING}
