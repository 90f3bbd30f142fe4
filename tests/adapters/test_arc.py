"""ARC: z + (z (W ⊙ c)) Wᵀ + b on the outputs of norm1 and norm2."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from timm.models import SwinTransformer
from torch import Tensor, nn

from adapters import AdapterError, attach, attached, merge
from adapters.arc import ARC
from adapters.base import Tensors
from adapters.trial_axis import RandomMasks
from tests.adapters.dense import block_paths, change_output, check_outputs
from tests.adapters.models import (
    WIDTH,
    Make,
    close,
    every_model,
    randomise,
    started,
    swin,
    uniform,
    vit,
)

SUBSET = ARC(rank=3, sites=("ffn",), layers=(0, 2))
SWIN_STAGES = (0, 0, 1, 2)


def recompose(model: nn.Module, tensors: Tensors) -> None:
    """Norms put out z (I + W diag(c) Wᵀ) + b."""
    for block, path in enumerate(block_paths(model)):
        stage = SWIN_STAGES[block] if isinstance(model, SwinTransformer) else 0
        for half, norm in (("mhsa", "norm1"), ("ffn", "norm2")):
            if f"blocks.{block}.{half}.c" in tensors:
                w = tensors[f"stages.{stage}.{half}.W"]
                c, b = (tensors[f"blocks.{block}.{half}.{n}"] for n in "cb")
                matrix = torch.eye(len(b)) + w @ torch.diag(c) @ w.T

                def change(z: Tensor, matrix: Tensor = matrix, b: Tensor = b) -> Tensor:
                    return z @ matrix + b

                change_output(model, f"{path}.{norm}", change)


@every_model
@pytest.mark.parametrize("adapter", [ARC(), ARC(rank=3, sites=("mhsa",)), SUBSET])
def test_recomposes(make: Make, adapter: ARC) -> None:
    check_outputs(make, adapter, recompose)


def test_dropout_acts_on_the_bottleneck() -> None:
    model = attach(vit(), ARC(rank=4, dropout=0.5, sites=("mhsa",), layers=(1,)), seed=2)
    randomise(model, 1.0)
    w, c, b = attached(model).tensors_of(0).values()
    stack, z, norm = attached(model.train()), torch.randn(6, WIDTH), nn.Identity()
    stack.prepare(2, torch.float32)
    edit = stack.edited["blocks.1.norm1"].edit
    assert edit is not None
    mask = RandomMasks([2], [0], torch.device("cpu")).dropout([0.5], [(6, 4)])
    assert mask is not None
    assert close(edit(z, norm), z + (z @ (w * c) * mask[0]) @ w.T + b)


def test_projections_are_shared_within_a_stage() -> None:
    halves = ("mhsa", "ffn")
    shapes = {n: t.shape for n, t in started(ARC(rank=5), vit()).items() if n.endswith("W")}
    assert shapes == {f"stages.0.{half}.W": (WIDTH, 5) for half in halves}
    shapes = {n: t.shape for n, t in started(ARC(rank=5), swin()).items() if n.endswith("W")}
    assert shapes == {f"stages.{s}.{h}.W": (16 * 2**s, 5) for s in range(3) for h in halves}


def test_selections() -> None:
    wanted = {f"blocks.{block}.ffn.{name}" for block in (0, 2) for name in "cb"}
    assert started(SUBSET, vit()).keys() == wanted | {"stages.0.ffn.W"}
    assert set(started(ARC(layers=(3,)), swin())) == {
        f"{name}.{half}.{kind}"
        for half in ("mhsa", "ffn")
        for name, kind in (("stages.2", "W"), ("blocks.3", "c"), ("blocks.3", "b"))
    }


@pytest.mark.parametrize("sites", [("q",), ("mhsa", "fc1"), ()])
def test_parts_of_a_half_are_refused(sites: tuple[str, ...]) -> None:
    with pytest.raises(AdapterError, match=r"ARC\.sites is .* allowed: \('mhsa', 'ffn'\)"):
        ARC(sites=sites)


def test_starts() -> None:
    for name, tensor in started(ARC(rank=20), vit(embed_dim=96, num_heads=3)).items():
        assert uniform(tensor, sqrt(6 / 116)) if name.endswith("W") else not tensor.any()


def test_merge_is_exact_where_swin_pads_its_windows() -> None:
    """A side of 10 patches does not divide by 4: the zeros that fill a window must stay zeros."""
    model = swin(img_size=40, depths=(2, 2), num_heads=(1, 2))
    attach(model, ARC(rank=4), num_classes=3)
    randomise(model)
    padded = torch.randn(2, 3, 40, 40)
    expected = model(padded)
    assert close(merge(model)(padded), expected)
