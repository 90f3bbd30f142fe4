"""HTA as an adapter: outputs of MHSA and FFN times A B + H_l diag(d) H_r, written out densely."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adapters import Adapter, AdapterError, attach, attached, merge
from adapters.backbones import find_sites
from adapters.hta import HTAAdapter
from tests.adapters.models import close, images, randomise, swin, vit

Make = Callable[..., nn.Module]
OUTPUTS = {"o": "attn.proj", "fc2": "mlp.fc2"}


def householder(v: Tensor, form: str) -> Tensor:
    factor = 1.0 if form == "paper" else 2 / float(v @ v)
    return torch.eye(len(v)) - factor * torch.outer(v, v)


@pytest.mark.parametrize("make", [vit, swin])
@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        (HTAAdapter(), ("o", "fc2")),
        (HTAAdapter(rank=0, form="unit"), ("o", "fc2")),
        (HTAAdapter(rank=3, form="unit", sites=("ffn",)), ("fc2",)),
        (HTAAdapter(rank=2, sites=("mhsa",), layers=(0, 2)), ("o",)),
        (HTAAdapter(sites=("q", "o", "fc1"), layers=(1,)), ("o",)),
    ],
)
def test_outputs_are_multiplied(make: Make, adapter: HTAAdapter, parts: tuple[str, ...]) -> None:
    model, plain = attach(make(), adapter), make()
    randomise(model)
    tensors, expected = attached(model).tensors_of(0), model(images(3))
    for block in find_sites(plain).blocks:
        for part in parts if adapter.layers is None or block.index in adapter.layers else ():
            a, b, d, left, right = (
                tensors.pop(f"blocks.{block.index}.{part}.{name}")
                for name in ("A", "B", "d", "v_l", "v_r")
            )
            change = a @ b + householder(left, adapter.form) @ torch.diag(d) @ householder(
                right, adapter.form
            )
            assert change.abs().max() > 0.1
            layer = plain.get_submodule(f"{block.path}.{OUTPUTS[part]}")
            assert isinstance(layer, nn.Linear)
            layer.weight.data = change.T @ layer.weight.data  # W (out, in) of y = x Wᵀ + b
            layer.bias.data = layer.bias.data @ change
    assert not tensors  # every one was used
    assert close(plain(images(3)), expected)
    merged = merge(copy.deepcopy(model))
    assert close(merged(images(3)), expected)
    assert all(close(p, plain.get_parameter(n)) for n, p in merged.named_parameters())


@pytest.mark.parametrize("form", ["paper", "unit"])
def test_it_starts_at_the_identity(form: str) -> None:
    adapter = HTAAdapter(rank=2, form=form)
    tensors = adapter.start(adapter.select(find_sites(vit())), torch.Generator().manual_seed(0))
    for block in range(3):
        for part in OUTPUTS:
            own = {n: tensors[f"blocks.{block}.{part}.{n}"] for n in ("A", "B", "d", "v_l", "v_r")}
            assert torch.equal(own["v_l"], own["v_r"])
            assert own["v_l"].norm().item() == pytest.approx(2**0.5, abs=1e-6)
            assert not own["B"].any()
            assert (own["d"] == 1).all()
            assert 0 < own["A"].abs().max() <= 32**-0.5
            left, right = (householder(own[name], form) for name in ("v_l", "v_r"))
            assert close(left @ right, torch.eye(32))
    model = attach(vit(), adapter)
    assert close(model(images(2)), vit()(images(2)))


def test_dropout_acts_on_the_change() -> None:
    """y + dropout(y M − y): nothing at the start, where the product M is the identity."""
    model = attach(vit(), HTAAdapter(dropout=0.5, sites=("ffn",), layers=(1,)), seed=2)
    randomise(model)
    stack, y = attached(model.train()), torch.randn(2 * 17, 32)
    model(images(2))
    edit = stack.edit("blocks.1.mlp.fc2")
    assert edit is not None
    drawn = edit(y, nn.Identity())
    stack.eval().prepare(2, torch.float32)
    edit = stack.edit("blocks.1.mlp.fc2")
    assert edit is not None
    change, dropped = edit(y, nn.Identity()) - y, drawn - y
    kept = dropped.abs() > 1e-5
    assert 0.4 < kept.float().mean() < 0.6
    assert torch.allclose(dropped[kept], 2 * change[kept], atol=1e-5)


@pytest.mark.parametrize("adapter", [HTAAdapter(sites=("q", "v")), HTAAdapter(sites=("fc1",))])
def test_sites_without_an_output_are_refused(adapter: Adapter) -> None:
    with pytest.raises(AdapterError, match=r"matches no output; hta_adapter changes those of MHSA"):
        attach(vit(), adapter)
