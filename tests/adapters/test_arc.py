"""ARC: z + (z (W ⊙ c)) Wᵀ + b on the outputs of norm1 and norm2."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from timm.models import SwinTransformer
from torch import Tensor, nn

from adapters import AdapterError, attach, attached, merge
from adapters.arc import ARC
from adapters.trial_axis import RandomMasks
from tests.adapters.features import (
    Make,
    block_paths,
    count,
    every_model,
    hook,
    pictures,
    shaken,
    sites_of,
    spans,
    started,
    swin,
    vit_b16,
)  # fmt: skip
from tests.adapters.models import WIDTH, close, images, randomise, vit

SUBSET = ARC(rank=3, sites=("ffn",), layers=(0, 2))
SWIN_STAGES = (0, 1, 1, 2)


def dense(make: Make, tensors: dict[str, Tensor]) -> nn.Module:
    """The plain model, whose norms put out z (I + W diag(c) Wᵀ) + b."""
    model = make()
    for block, path in enumerate(block_paths(model)):
        stage = SWIN_STAGES[block] if make is swin else 0
        for half, norm in (("mhsa", "norm1"), ("ffn", "norm2")):
            if f"blocks.{block}.{half}.c" in tensors:
                w = tensors[f"stages.{stage}.{half}.W"]
                c, b = (tensors[f"blocks.{block}.{half}.{n}"] for n in "cb")
                matrix = torch.eye(len(b)) + w @ torch.diag(c) @ w.T

                def change(z: Tensor, matrix: Tensor = matrix, b: Tensor = b) -> Tensor:
                    return z @ matrix + b

                hook(model, f"{path}.{norm}", change)
    return model


@every_model
@pytest.mark.parametrize("adapter", [ARC(), ARC(rank=3, sites=("mhsa",)), SUBSET])
def test_recomposes(make: Make, adapter: ARC) -> None:
    model, x = shaken(make, adapter), pictures(make, 2)
    assert close(model(x), dense(make, attached(model).tensors_of(0))(x))


def test_dropout_acts_on_the_bottleneck() -> None:
    model = attach(vit(), ARC(rank=4, dropout=0.5, sites=("mhsa",), layers=(1,)), seed=2)
    for parameter in attached(model).parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    w, c, b = attached(model).tensors_of(0).values()
    stack, z = attached(model.train()), torch.randn(6, WIDTH)
    model(images(2))
    norm = vit().get_submodule("blocks.1.norm1")
    edit = stack.edit("blocks.1.norm1")
    assert edit is not None
    # The forward pass above drew once; the edit goes on from there with the same generator.
    noise = RandomMasks([2], [0], torch.device("cpu"))
    noise.dropout([0.5], [(2 * 17, 4)])
    mask = noise.dropout([0.5], [(6, 4)])
    assert mask is not None
    y = norm(z)
    assert close(edit(z, norm), y + (y @ (w * c) * mask[0]) @ w.T + b)


def test_projections_are_shared() -> None:
    tensors = started(ARC(rank=5), vit())
    assert {n for n in tensors if n.endswith("W")} == {"stages.0.mhsa.W", "stages.0.ffn.W"}
    widths = {
        name: tuple(t.shape) for name, t in started(ARC(rank=5), swin()).items() if "stages" in name
    }
    assert widths == {
        f"stages.{s}.{half}.W": (16 * 2**s, 5) for s in range(3) for half in ("mhsa", "ffn")
    }


def test_selections() -> None:
    wanted = {f"blocks.{block}.ffn.{name}" for block in (0, 2) for name in "cb"}
    assert started(SUBSET, vit()).keys() == wanted | {"stages.0.ffn.W"}
    assert SUBSET.target_modules(sites_of(SUBSET, vit())) == ("blocks.0.norm2", "blocks.2.norm2")
    assert set(started(ARC(layers=(3,)), swin())) == {
        f"{name}.{half}.{kind}"
        for half in ("mhsa", "ffn")
        for name, kind in (("stages.2", "W"), ("blocks.3", "c"), ("blocks.3", "b"))
    }


@pytest.mark.parametrize("sites", [("q",), ("mhsa", "fc1"), ()])
def test_parts_of_a_half_are_refused(sites: tuple[str, ...]) -> None:
    with pytest.raises(AdapterError, match=r"ARC\.sites is .* allowed: \('mhsa', 'ffn'\)"):
        ARC(sites=sites)


def test_counts() -> None:
    model, d, layers = vit_b16(), 768, 12
    assert count(ARC(), model) == 2 * d * 50 + 2 * layers * (50 + d) == 96_432
    assert "96,432" in str(ARC.__doc__)
    assert count(ARC(rank=8, sites=("mhsa",), layers=(0, 1)), model) == 8 * d + 2 * (8 + d)


def test_starts() -> None:
    tensors = started(ARC(rank=20), vit(embed_dim=96, num_heads=3))
    for name, tensor in tensors.items():
        assert spans(tensor, sqrt(6 / 116)) if name.endswith("W") else not tensor.any()


def test_merge_is_exact_where_swin_pads_its_windows() -> None:
    """A side of 10 patches does not divide by 4: the zeros that fill a window must stay zeros."""
    options = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 0}
    torch.manual_seed(0)
    model = SwinTransformer(img_size=40, patch_size=4, window_size=4, **options).eval()
    attach(model, ARC(rank=4), num_classes=3)
    randomise(model)
    padded = torch.randn(2, 3, 40, 40)
    expected = model(padded)
    assert close(merge(model)(padded), expected)
