"""Tiny timm models and the adapters that the tests attach to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import Adapter, attached
from adapters.arc import ARC
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.efft import EFFT1, EFFT2
from adapters.fact import FactTK, FactTT
from adapters.full import Full, Partial
from adapters.heads import LinearProbe, MLPHead
from adapters.hta import HTA, HTAAdapter
from adapters.lora import LoRA
from adapters.noah import NOAH
from adapters.per_feature import SSF, BitFit
from adapters.rlrr import RLRR
from adapters.vpt import VPTDeep, VPTShallow

M = TypeVar("M", bound=nn.Module)
WIDTH, DEPTH = 32, 3
ADAPTERS: tuple[Adapter, ...] = (
    LinearProbe(),
    LoRA(rank=3, alpha=4.0),
    LoRA(rank=2, sites=("q", "o", "fc1", "fc2"), dropout=0.2, layers=(0, 2)),
    EFFT1(rank=4, scale=2.0),
    EFFT1(rank=3, rank2=5, init="u", sites=("q", "v", "ffn"), layers=(0, 1)),
    EFFT2(rank=4, scale=2.0),
    EFFT2(rank=3, cores="shared", init="uv", ffn_rank=5, dropout=0.0),
    EFFT2(rank=3, init="uu", sites=("k", "q", "fc2"), layers=(1, 2)),
    FactTT(rank=4, scale=2.0),
    FactTT(rank=3, sites=("q", "fc1"), layers=(0, 2), dropout=0.0),
    FactTK(rank=4),
    FactTK(rank=3, scale=3.0, sites=("mhsa",), layers=(1,)),
    HTA(),
    HTA(rank=2, form="unit", sites=("mhsa", "ffn"), dropout=0.1),
    HTA(rank=0, sites=("v", "fc1")),
    HTAAdapter(),
    HTAAdapter(rank=2, form="unit", sites=("ffn",), dropout=0.1, layers=(0, 2)),
    BitFit(),
    BitFit(sites=("q", "v", "fc2"), layers=(1,)),
    SSF(),
    SSF(init="zero", sites=("ffn",), layers=(0, 2)),
    RLRR(),
    RLRR(init="zero", sites=("q", "o", "fc1"), layers=(0, 2)),
    ARC(rank=5),
    ARC(rank=4, dropout=0.0, sites=("ffn",), layers=(1, 2)),
    VPTShallow(prompts=3),
    VPTShallow(prompts=2, dropout=0.1, layers=(1, 2)),
    VPTDeep(prompts=3),
    VPTDeep(prompts=2, dropout=0.1, layers=(0, 2)),
    Bottleneck(hidden=3),
    Bottleneck(hidden=2, position="houlsby", layers=(0, 2)),
    AdaptFormer(hidden=3),
    AdaptFormer(hidden=2, scale=2.0, dropout=0.3, sites=("mhsa", "ffn"), layers=(1,)),
    NOAH(prompts=2, rank=3, hidden=4, prompts_depth=2, rank_depth=1),
    NOAH(prompts=1, rank=0, hidden=2, layers=(1, 2)),
    Full(),
    Full(sites=("mhsa", "fc2"), layers=(0, 2)),
    Partial(),
    Partial(blocks=2, sites=("ffn",)),
    MLPHead(hidden=2),
    MLPHead(hidden=1, dropout=0.0),
)


def vit(classes: int = 0, **options: Any) -> VisionTransformer:
    """The same tiny ViT every time."""
    values = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VisionTransformer(img_size=32, patch_size=8, num_classes=classes, **values)
        return perturbed(model)


def deit(classes: int = 0, **options: Any) -> nn.Module:
    """The same tiny DeiT every time."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": DEPTH, **options}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = timm.create_model("deit_tiny_patch16_224", num_classes=classes, **sizes)
        return perturbed(model)


def swin(classes: int = 0, **options: Any) -> nn.Module:
    """The same tiny Swin every time: three stages, the first with a shifted window."""
    sizes = {"embed_dim": 16, "depths": (2, 1, 1), "num_heads": (1, 2, 4)}
    values = {**sizes, "drop_path_rate": 0.0, **options}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SwinTransformer(
            img_size=32, patch_size=4, window_size=4, num_classes=classes, **values
        )
        return perturbed(model)


def perturbed(model: M) -> M:
    """With biases and scales that are not 0 and 1, so that none of them can be forgotten."""
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model.eval()


def images(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 32, 32)."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def randomise(model: nn.Module, seed: int = 5) -> None:
    """Gives every trained tensor of a full adapter random values, so that its update is not 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in attached(model).parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def train(
    model: nn.Module,
    x: Tensor,
    labels: Sequence[Tensor],
    steps: int,
    lr: float = 1e-2,
    eps: float = 1e-8,
) -> list[list[float]]:
    """AdamW on the stack; the losses of each trial, (steps, K)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, eps=eps)
    model.train()
    history = []
    for _ in range(steps):
        logits = model(x).unflatten(0, (len(labels), -1))
        losses = torch.stack([F.cross_entropy(y, t) for y, t in zip(logits, labels, strict=True)])
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        history.append(losses.tolist())
    model.eval()
    return history


def close(found: Tensor, expected: Tensor, to: float = 1e-5) -> bool:
    """Equal to `to`, relative to the largest expected value."""
    return bool((found - expected).abs().max() <= to * expected.abs().max().clamp(min=1e-6))
