"""What tests of single families share: a tiny Swin, and checks of what every adapter owes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from adapters import Adapter, attach, attached, save
from adapters.attach import attach_members
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.stack import Member
from adapters.storage import WEIGHTS
from tests.adapters.models import perturbed, train

Make = Callable[..., nn.Module]
CLASSES, SEEDS, PATHS, BATCH = (3, 5, 4), (7, 8, 9), (0.0, 0.3, 0.1), 4


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
    shapes = adapter.start(adapter.select(find_sites(make())), torch.Generator())
    tensors: Tensors = {
        n: std * torch.randn(t.shape, generator=generator) for n, t in shapes.items()
    }
    return Member(adapter, seed, tensors)


def adapted(make: Make, members: Sequence[Member]) -> nn.Module:
    """A tiny model with these trials, in evaluation."""
    return attach_members(make(), members, replace_drop_path=False).eval()


def assert_alone_equals_company(make: Make, adapters: Sequence[Adapter], steps: int = 4) -> None:
    """Losses, tensors and logits of each trial after a few steps do not depend on the others."""
    x = pictures(make, BATCH * len(adapters))
    labels = [torch.arange(BATCH) % classes for classes in CLASSES]
    company = attach(make(), adapters, num_classes=CLASSES, seed=SEEDS, drop_path=PATHS)
    together = torch.tensor(train(company, x, labels, steps, 3e-3))
    logits = company(x).unflatten(0, (len(adapters), BATCH))
    for index, adapter in enumerate(adapters):
        options = {"num_classes": CLASSES, "seed": SEEDS, "drop_path": PATHS}
        own = {name: values[index] for name, values in options.items()}  # type: ignore[index]
        alone = attach(make(), adapter, **own)  # type: ignore[arg-type]
        mine = x[index * BATCH : (index + 1) * BATCH]
        losses = torch.tensor(train(alone, mine, [labels[index]], steps, 3e-3))
        assert torch.allclose(losses[:, 0], together[:, index], rtol=0, atol=1e-5)
        expected = attached(alone).tensors_of(0)
        for name, tensor in attached(company).tensors_of(index).items():
            assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-5), name
        found = logits[index, :, : CLASSES[index]]
        assert torch.allclose(found, alone(mine), rtol=0, atol=1e-5)


def assert_saved_is_loaded(make: Make, adapter: Adapter, folder: Path) -> None:
    """What lies on disk gives the same logits on a fresh model."""
    model = attach(make(), adapter, num_classes=3, seed=1)
    x = pictures(make, 4)
    train(model, x, [torch.arange(4) % 3], 2)
    save(model, folder)
    member = Member(adapter, 0, load_file(folder / WEIGHTS))
    assert torch.equal(adapted(make, [member])(x), model(x))


def assert_every_tensor_learns(make: Make, adapter: Adapter) -> None:
    """Within two steps every trained tensor gets a gradient."""
    model, x, moved = attach(make(), adapter, num_classes=3, seed=1), pictures(make, 6), set()
    for _ in range(2):
        train(model, x, [torch.arange(6) % 3], 1)
        stacked = attached(model).stacked()
        moved |= {n for n, p in stacked.items() if p.grad is not None and p.grad.any()}
    assert moved == set(attached(model).stacked())
