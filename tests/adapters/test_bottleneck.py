"""Serial adapters and AdaptFormer against their formulas."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import AdapterError, attach, attached
from adapters.backbones import find_sites
from adapters.base import Adapter, Parameter, Tensors
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.stack import Member
from tests.adapters.models import (
    DEPTH,
    WIDTH,
    Make,
    adapted,
    close,
    every_model,
    images,
    random_member,
    started,
    swin,
    uniform,
    vit,
)

VARIANTS: tuple[Adapter, ...] = (
    Bottleneck(hidden=3),
    Bottleneck(hidden=5, position="houlsby", layers=(0, 2)),
    Bottleneck(hidden=2, position="houlsby", sites=("mhsa",)),
    AdaptFormer(hidden=3),
    AdaptFormer(hidden=4, scale=2.0, sites=("mhsa", "ffn"), layers=(1,)),
)


def net(tensors: Tensors, prefix: str, x: Tensor, activation: nn.Module) -> Tensor:
    """up(activation(down(x))), as two nn.Linear would do it."""
    down, up = (tensors[f"{prefix}.{name}"].mT for name in ("down", "up"))
    hidden = activation(F.linear(x, down, tensors[f"{prefix}.down_bias"]))
    return F.linear(hidden, up, tensors[f"{prefix}.up_bias"])


def expected_features(make: Make, adapter: Adapter, tensors: Tensors, x: Tensor) -> Tensor:
    """The plain model, block by block, with the adapters written into the blocks' formula."""
    model = make()
    sites = find_sites(model)

    def branch(index: int, group: str, inputs: Tensor, output: Tensor) -> Tensor:
        """The update that a half's branch gets."""
        part = {"mhsa": "o", "ffn": "fc2"}[group]
        if f"blocks.{index}.{part}.up" in tensors:
            output = output + net(tensors, f"blocks.{index}.{part}", output, nn.GELU())
        if f"blocks.{index}.{group}.up" in tensors:
            assert isinstance(adapter, AdaptFormer)
            more = net(tensors, f"blocks.{index}.{group}", inputs, nn.ReLU())
            output = output + adapter.scale * more
        return output

    class Adapted(nn.Module):
        def __init__(self, index: int, block: nn.Module) -> None:
            super().__init__()
            self.index, self.block = index, block

        def forward(self, x: Tensor) -> Tensor:
            block = self.block
            if make is swin:
                first = block._attn(block.norm1(x))
            else:
                first = block.ls1(block.attn(block.norm1(x)))
            x = x + branch(self.index, "mhsa", x, first)
            return x + branch(self.index, "ffn", x, block.mlp(block.norm2(x)))

    for block in sites.every_block:
        model.set_submodule(block.path, Adapted(block.index, model.get_submodule(block.path)))
    return model(x)  # type: ignore[no-any-return]


@every_model
@pytest.mark.parametrize("adapter", VARIANTS)
def test_it_computes_the_formula(make: Make, adapter: Adapter) -> None:
    member, x = random_member(make, adapter), images(3)
    expected = expected_features(make, adapter, member.tensors, x)
    assert close(adapted(make, member)(x), expected)
    assert not close(make()(x), expected, 1e-3)


def test_the_adapter_follows_the_second_half_by_default() -> None:
    names = set(started(Bottleneck(), vit()))
    kinds = ("down", "down_bias", "up", "up_bias")
    assert names == {f"blocks.{i}.fc2.{kind}" for i in range(DEPTH) for kind in kinds}
    houlsby = set(started(Bottleneck(position="houlsby"), vit()))
    assert houlsby - names == {f"blocks.{i}.o.{kind}" for i in range(DEPTH) for kind in kinds}


@pytest.mark.parametrize(
    ("adapter", "bound"),
    [(Bottleneck(hidden=8), sqrt(6 / WIDTH)), (AdaptFormer(hidden=8), 1 / sqrt(WIDTH))],
)
def test_starts(adapter: Adapter, bound: float) -> None:
    for name, tensor in started(adapter, vit()).items():
        assert uniform(tensor, bound) if name.endswith(".down") else not tensor.any()


@every_model
def test_stochastic_depth_does_not_drop_adaptformer(make: Make) -> None:
    """With every branch of the last block dropped, what is left is the bottleneck's."""
    last = find_sites(make()).every_block[-1]
    adapter = AdaptFormer(hidden=3, dropout=0.0, layers=(last.index,))
    member = random_member(make, adapter)
    model = attach(make(), adapter, drop_path=0.999_999)
    for name, tensor in member.tensors.items():
        attached(model).stacked()[name].data[0] = tensor
    seen = {}

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["x"], seen["y"] = inputs[0], output

    model.get_submodule(last.path).register_forward_hook(remember)
    model.train()(images(3))
    prefix = f"blocks.{last.index}.ffn"
    expected = adapter.scale * net(member.tensors, prefix, seen["x"], nn.ReLU())
    assert close(seen["y"] - seen["x"], expected, 1e-4)


def test_stochastic_depth_drops_the_serial_adapter() -> None:
    """Which lies in the branch."""
    member = random_member(vit, Bottleneck(hidden=3, layers=(DEPTH - 1,)))
    model = attach(vit(), member.adapter, drop_path=0.999_999)
    for name, tensor in member.tensors.items():
        attached(model).stacked()[name].data[0] = tensor
    plain = attach(vit(), Bottleneck(hidden=3), drop_path=0.999_999).train()
    assert close(model.train()(images(3)), plain(images(3)), 1e-6)


def test_dropout_acts_on_the_hidden_activation() -> None:
    """down = up = identity-like: outputs are kept at 1/(1-rate) or dropped, element by element."""
    adapter = AdaptFormer(hidden=WIDTH, scale=1.0, dropout=0.4, layers=(0,))
    eye, zeros = torch.eye(WIDTH), torch.zeros(WIDTH)
    names = ("down", "down_bias", "up", "up_bias")
    values = (eye, torch.full((WIDTH,), 100.0), eye, zeros)
    tensors = {f"blocks.0.ffn.{n}": v for n, v in zip(names, values, strict=True)}
    seen: list[Tensor] = []
    member = Member(adapter, 3, {name: Parameter(value) for name, value in tensors.items()})
    model = adapted(vit, member).train()
    block = model.get_submodule("blocks.0")
    model.get_submodule("blocks.0.norm2").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    block.drop_path2.register_forward_hook(lambda _, x, y: seen.append(y - x[0]))  # type: ignore[union-attr]
    model(images(4))
    ratio = seen[1] / (seen[0] + 100)
    kept = ratio.abs() > 1e-3
    assert close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.6), 1e-4)
    assert 1 - kept.float().mean().item() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Bottleneck(sites=("mhsa",)), "position='pfeiffer' matches nothing: .* follows fc2"),
        (Bottleneck(sites=("q",), position="houlsby"), "follows o and fc2"),
    ],
)
def test_a_selection_of_nothing_is_an_error(adapter: Adapter, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), adapter)
