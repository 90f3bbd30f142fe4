"""What tests of single families share: a tiny Swin, and checks of what every adapter owes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from adapters import Adapter
from adapters.attach import attach_members
from adapters.backbones import find_sites
from adapters.stack import Member, start_member
from tests.adapters.models import perturbed

Make = Callable[..., nn.Module]


def swin(classes: int = 0) -> SwinTransformer:
    """The same tiny Swin every time: three stages, windows of 4×4, the third block shifted."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SwinTransformer(
            img_size=64,
            window_size=4,
            embed_dim=16,
            depths=(1, 2, 1),
            num_heads=(1, 2, 4),
            num_classes=classes,
            drop_path_rate=0.0,
        )
        return perturbed(model)


def pictures(make: Make, count: int, seed: int = 0) -> Tensor:
    """Images of the size that a tiny model takes."""
    size = 64 if make is swin else 32
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_member(make: Make, adapter: Adapter, seed: int = 5, std: float = 0.3) -> Member:
    """One trial without a head whose tensors are all random."""
    generator = torch.Generator().manual_seed(seed)
    member = start_member(adapter, find_sites(make()), seed, None)
    return member.with_tensors(
        {n: std * torch.randn(t.shape, generator=generator) for n, t in member.tensors.items()}
    )


def adapted(make: Make, members: Sequence[Member]) -> nn.Module:
    """A tiny model with these trials, in evaluation."""
    return attach_members(make(), members, replace_drop_path=False).eval()
