"""HTA: A B + H_l diag(d) H_r written out, added to weights or multiplied with outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters import Adapter, AdapterError, attach, attached
from adapters.base import Tensors
from adapters.hta import HTA, HTAAdapter
from tests.adapters.dense import block_paths, check_outputs, check_updates, chosen, stages
from tests.adapters.models import (
    WIDTH,
    Make,
    close,
    every_model,
    randomise,
    started,
    uniform,
    vit,
)

OUTPUTS = {"o": "attn.proj", "fc2": "mlp.fc2"}


def householder(v: Tensor, form: str) -> Tensor:
    factor = 1.0 if form == "paper" else 2 / float(v @ v)
    return torch.eye(len(v)) - factor * torch.outer(v, v)


def product(tensors: Tensors, name: str, form: str) -> Tensor:
    """A B + H_l diag(d) H_r, with d on the leading diagonal of (in, out)."""
    a, b, d, left, right = (tensors[f"{name}.{kind}"] for kind in ("A", "B", "d", "v_l", "v_r"))
    diagonal = torch.zeros(len(left), len(right))
    diagonal[range(len(d)), range(len(d))] = d
    return a @ b + householder(left, form) @ diagonal @ householder(right, form)


@every_model
@pytest.mark.parametrize("form", ["paper", "unit"])
@pytest.mark.parametrize(("rank", "sites"), [(0, ("q", "v")), (2, ("mhsa",)), (1, ("ffn",))])
def test_the_update_is_the_formula(
    make: Make, form: str, rank: int, sites: tuple[str, ...]
) -> None:
    adapter = HTA(rank=rank, form=form, sites=sites, layers=(0, 2))

    def dense(tensors: Tensors) -> dict[tuple[int, str], Tensor]:
        blocks, parts = chosen(adapter, tuple(i for stage in stages(make) for i in stage[3]))
        return {(i, p): product(tensors, f"blocks.{i}.{p}", form) for i in blocks for p in parts}

    check_updates(make, adapter, dense)


def test_hta_starts_at_zero() -> None:
    for name, tensor in started(HTA(rank=4, sites=("k", "fc1")), vit()).items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("B", "d"):
            assert not tensor.any()
        elif kind == "A":
            assert uniform(tensor, WIDTH**-0.5)
        else:
            assert tensor.norm().item() == pytest.approx(2**0.5, abs=1e-6)


@every_model
@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        (HTAAdapter(), ("o", "fc2")),
        (HTAAdapter(rank=0, form="unit"), ("o", "fc2")),
        (HTAAdapter(rank=3, form="unit", sites=("ffn",)), ("fc2",)),
        (HTAAdapter(sites=("q", "o", "fc1"), layers=(1,)), ("o",)),
    ],
)
def test_outputs_are_multiplied(make: Make, adapter: HTAAdapter, parts: tuple[str, ...]) -> None:
    def multiply(model: nn.Module, tensors: Tensors) -> None:
        used = set()
        for index, path in enumerate(block_paths(model)):
            for part in parts if adapter.layers is None or index in adapter.layers else ():
                change = product(tensors, f"blocks.{index}.{part}", adapter.form)
                used |= {n for n in tensors if n.startswith(f"blocks.{index}.{part}.")}
                layer = model.get_submodule(f"{path}.{OUTPUTS[part]}")
                assert isinstance(layer, nn.Linear)
                layer.weight.data = change.T @ layer.weight.data  # W (out, in) of y = x Wᵀ + b
                layer.bias.data = layer.bias.data @ change
        assert used == set(tensors)

    check_outputs(make, adapter, multiply)


@pytest.mark.parametrize("form", ["paper", "unit"])
def test_hta_adapter_starts_at_the_identity(form: str) -> None:
    tensors = started(HTAAdapter(rank=2, form=form), vit())
    for block in range(3):
        for part in OUTPUTS:
            name = f"blocks.{block}.{part}"
            assert torch.equal(tensors[f"{name}.v_l"], tensors[f"{name}.v_r"])
            assert tensors[f"{name}.v_l"].norm().item() == pytest.approx(2**0.5, abs=1e-6)
            assert not tensors[f"{name}.B"].any()
            assert (tensors[f"{name}.d"] == 1).all()
            assert uniform(tensors[f"{name}.A"], WIDTH**-0.5)
            assert close(product(tensors, name, form), torch.eye(WIDTH))


def test_dropout_acts_on_the_change() -> None:
    """y + dropout(y M − y): nothing at the start, where the product M is the identity."""
    model = attach(vit(), HTAAdapter(dropout=0.5, sites=("ffn",), layers=(1,)), seed=2)
    randomise(model)
    stack, y = attached(model), torch.randn(2 * 17, WIDTH)

    def change(training: bool) -> Tensor:
        stack.train(training).prepare(2, torch.float32)
        edit = stack.edited["blocks.1.mlp.fc2"].edit
        assert edit is not None
        return edit(y, nn.Identity()) - y

    dropped, whole = change(True), change(False)
    kept = dropped.abs() > 1e-5
    assert 0.4 < kept.float().mean() < 0.6
    assert torch.allclose(dropped[kept], 2 * whole[kept], atol=1e-5)


@pytest.mark.parametrize("adapter", [HTAAdapter(sites=("q", "v")), HTAAdapter(sites=("fc1",))])
def test_sites_without_an_output_are_refused(adapter: Adapter) -> None:
    with pytest.raises(AdapterError, match=r"matches no output; hta_adapter changes those of MHSA"):
        attach(vit(), adapter)
