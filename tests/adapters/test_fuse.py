"""The fused layer against its three expressions, in values and in all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters.fuse import LowRank, updated

K, N, IN, OUT, R = 3, 7, 5, 6, 2


def tensors(*, frozen: bool = True, bias: bool = True) -> tuple[Tensor, nn.Linear, LowRank]:
    torch.manual_seed(0)
    layer = nn.Linear(IN, OUT, bias=bias, dtype=torch.float64).requires_grad_(not frozen)
    inner, outer = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((K, IN, R), (K, R, OUT))
    )
    return (
        torch.randn(K, N, IN, dtype=torch.float64, requires_grad=True),
        layer,
        LowRank(inner, outer),
    )


@pytest.mark.parametrize("bias", [True, False])
def test_values_are_those_of_layer_and_update(bias: bool) -> None:
    x, layer, update = tensors(bias=bias)
    torch.testing.assert_close(updated(x, layer, update), layer(x) + update(x))
    kept = layer.weight.clone()
    updated(x, layer, update)
    assert torch.equal(layer.weight, kept)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_those_of_finite_differences(frozen: bool) -> None:
    x, layer, update = tensors(frozen=frozen)
    trained = [x, update.inner, update.outer]
    trained += [] if frozen else [layer.weight, layer.bias]

    def function(*_: Tensor) -> Tensor:
        return updated(x, layer, update)

    assert torch.autograd.gradcheck(function, tuple(trained))


def test_under_autocast_every_product_is_autocasts() -> None:
    x, layer, update = tensors()
    x, layer = x.detach().float(), layer.float()
    update = LowRank(*(t.detach().float().requires_grad_() for t in (update.inner, update.outer)))
    with torch.autocast("cpu", torch.bfloat16):
        found = updated(x, layer, update)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert update.inner.grad is not None
    assert update.inner.grad.dtype == torch.float32
    exact = updated(x, layer, update)
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.1)


def test_an_input_without_gradient_gets_none() -> None:
    """The first layer of a backbone: nothing before it is trained."""
    x, layer, update = tensors()
    x = x.detach()
    updated(x, layer, update).sum().backward()
    assert x.grad is None
    assert update.inner.grad is not None
    expected = torch.autograd.grad(update(x).sum(), update.inner)[0]
    torch.testing.assert_close(update.inner.grad, expected)


def test_what_is_kept_of_the_forward_pass_is_the_input_and_thin() -> None:
    """Not the layer's output, nor the update of it."""
    x, layer, update = tensors()
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        updated(x, layer, update)
    assert (K, N, OUT) not in kept
    assert kept.count((K, N, IN)) == 1
