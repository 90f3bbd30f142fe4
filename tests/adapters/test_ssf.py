"""SSF: γ ⊙ y + β after every operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters import attached
from adapters.per_feature import SSF
from tests.adapters.features import (
    Make,
    count,
    every_model,
    grouped,
    hook,
    pictures,
    place,
    same_distribution,
    shaken,
    sites_of,
    started,
    swin,
    vit_b16,
)  # fmt: skip
from tests.adapters.models import DEPTH, close, vit

SUBSET = SSF(sites=("k", "fc1"), layers=(1, 2))
VIT_PLACES = {
    "patch_embed.proj", "norm",
    *(f"blocks.{block}.{name}" for block in range(DEPTH)
      for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")),
}  # fmt: skip


def dense(make: Make, tensors: dict[str, Tensor]) -> nn.Module:
    """The plain model with hooks that scale and shift outputs."""
    model = make()
    for name, kinds in grouped(tensors).items():
        path, rows = place(model, name)

        def change(
            y: Tensor,
            rows: slice = rows,
            scale: Tensor = kinds["scale"],
            shift: Tensor = kinds["shift"],
        ) -> Tensor:
            y = y.clone()
            y[..., rows] = y[..., rows] * scale + shift
            return y

        hook(model, path, change)
    return model


@every_model
@pytest.mark.parametrize("adapter", [SSF(), SSF(init="zero"), SUBSET])
def test_scales_and_shifts(make: Make, adapter: SSF) -> None:
    model, x = shaken(make, adapter), pictures(make, 2)
    assert close(model(x), dense(make, attached(model).tensors_of(0))(x))


def test_places() -> None:
    assert set(SSF().target_modules(sites_of(SSF(), vit()))) == VIT_PLACES
    found = set(SSF().target_modules(sites_of(SSF(), swin())))
    norms = {n for n, m in swin().named_modules() if isinstance(m, nn.LayerNorm)}
    assert {"patch_embed.norm", "layers.1.downsample.norm", "norm"} < norms < found
    assert "patch_embed.proj" in found
    assert not any("reduction" in path for path in found)
    halves = ("norm1", "attn.qkv", "norm2", "mlp.fc1")
    wanted = {f"blocks.{block}.{name}" for block in (1, 2) for name in halves}
    assert set(SUBSET.target_modules(sites_of(SUBSET, vit()))) == wanted


def test_counts() -> None:
    model, d, layers = vit_b16(), 768, 12
    assert count(SSF(), model) == 2 * (11 * layers * d + 2 * d) == 205_824
    assert "205,824" in str(SSF.__doc__)
    assert count(SSF(sites=("ffn",), layers=(9, 10, 11)), model) == 2 * 3 * 6 * d


def test_starts() -> None:
    theirs, zero = started(SSF(), vit()), started(SSF(init="zero"), vit())
    assert theirs.keys() == zero.keys()
    for kind, mean in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([t for n, t in theirs.items() if n.endswith(kind)])
        assert same_distribution(values, mean, 0.02)
        assert all((t == mean).all() for n, t in zero.items() if n.endswith(kind))
