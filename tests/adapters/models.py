"""The adapters and tiny timm models that the tests put together, and how they compare tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import Adapter, attach, attached
from adapters.arc import ARC
from adapters.attach import attach_members
from adapters.backbones import find_sites
from adapters.base import Tensors
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
from adapters.side import DTL, LAST
from adapters.sites import Sites
from adapters.stack import Member, start_member
from adapters.testing import tiny_swin as swin
from adapters.testing import tiny_vit as vit
from adapters.vpt import VPTDeep, VPTShallow

Make = Callable[..., nn.Module]
WIDTH, DEPTH = 32, 3  # of `vit`
every_model = pytest.mark.parametrize("make", [vit, swin])
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
    FactTK(rank=3, scale=3.0, sites=("fc1", "o"), layers=(1,), tiles="published"),
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
    NOAH(prompts=(1, 0, 2), rank=0, hidden=(2, 0, 3), layers=(1, 2)),
    DTL(rank=3),
    DTL(kernel=3, beta=2.0, first=0, pool="backbone", layers=(0, 2)),
    LAST(rank=3),
    LAST(rank=2, gap=3, repeats=2),
    Full(),
    Full(sites=("mhsa", "fc2"), layers=(0, 2)),
    Partial(),
    Partial(blocks=2, sites=("ffn",)),
    MLPHead(hidden=2),
    MLPHead(hidden=1, dropout=0.0),
)


def deit(classes: int = 0) -> nn.Module:
    """A tiny DeiT, which is another ViT to the code."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": DEPTH}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return timm.create_model("deit_tiny_patch16_224", num_classes=classes, **sizes).eval()


def vit_b16() -> Sites:
    """The sites of ViT-B/16, without its weights."""
    with torch.device("meta"):
        return find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))


def images(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 32, 32)."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def started(adapter: Adapter, model: nn.Module) -> Tensors:
    """One trial's tensors at their start."""
    return start_member(adapter, find_sites(model), 0, None).tensors


def random_member(make: Make, adapter: Adapter, seed: int = 5, std: float = 0.3) -> Member:
    """One trial without a head whose tensors are all random."""
    generator = torch.Generator().manual_seed(seed)
    member = start_member(adapter, find_sites(make()), seed, None)
    return member.with_tensors(
        {n: std * torch.randn(t.shape, generator=generator) for n, t in member.tensors.items()}
    )


def adapted(make: Make, *members: Member) -> nn.Module:
    """A tiny model with these trials, in evaluation."""
    return attach_members(make(), members, replace_drop_path=False).eval()


def randomise(model: nn.Module, std: float = 0.3) -> None:
    """Gives every trained tensor random values, so that no factor that starts at 0 hides others."""
    generator = torch.Generator().manual_seed(5)
    for parameter in attached(model).parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=generator)


def moved(make: Make, adapter: Adapter) -> nn.Module:
    """An adapted model whose every trained tensor has moved from its start, in evaluation."""
    model = attach(make(), adapter, seed=1)
    generator = torch.Generator().manual_seed(5)
    for parameter in attached(model).parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def train(
    model: nn.Module, x: Tensor, labels: Sequence[Tensor], steps: int, lr: float = 1e-2
) -> list[list[float]]:
    """AdamW on the stack; the losses of each trial, (steps, K)."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
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


def uniform(tensor: Tensor, bound: float) -> bool:
    """Uniform on ±bound, as far as its values can tell."""
    largest = tensor.abs().max().item()
    return 0.9 * bound < largest <= bound and abs(tensor.mean().item()) < 0.2 * bound


def normal(tensor: Tensor, mean: float, std: float) -> bool:
    """Normal with this mean and deviation, as far as the two can tell."""
    error = 5 * std / tensor.numel() ** 0.5
    return bool(abs(tensor.mean() - mean) < error and abs(tensor.std() - std) < error)
