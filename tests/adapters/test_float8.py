"""Float8 products of frozen layers: what is computed, with which gradients, and for which rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters import AdapterError, attach, build, merge
from adapters.float8 import Float8Linear, product, quantised
from adapters.fuse import LowRank, updated
from tests.adapters.models import vit

K, N, IN, OUT, R = 3, 7, 48, 32, 2


def layers(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, nn.Linear, Float8Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(IN, OUT, dtype=dtype).requires_grad_(False)
    x = torch.randn(K, N, IN, dtype=dtype).requires_grad_()
    return x, plain, Float8Linear(plain)


def dequantised(rows: Tensor) -> Tensor:
    values, scale = quantised(rows)
    return values.double() * scale.double()


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_that_of_the_quantised_factors_rounded_once(bias: bool) -> None:
    x, plain, layer = layers()
    shift = plain.bias if bias else None
    exact = dequantised(x.detach()) @ dequantised(plain.weight).mT
    exact = exact + (plain.bias.double() if bias else 0)
    found = product(x.detach(), layer.weight8, layer.scale, shift)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_quantisation_errs_by_a_sixteenth_of_each_number_and_uses_the_whole_range() -> None:
    rows = torch.randn(50, 300) * torch.logspace(-6, 4, 50).unsqueeze(1)
    values, scale = quantised(rows)
    assert torch.equal(values.float().abs().amax(1), torch.full((50,), 448.0))
    largest = rows.abs().amax(1, keepdim=True)
    error = (values.float() * scale - rows).abs()
    assert (error <= rows.abs() / 16 + largest * 2**-17).all()


@pytest.mark.parametrize("odd", [0.0, 1e30, torch.inf, torch.nan])
def test_a_row_feels_no_other(odd: float) -> None:
    x, _, layer = layers()
    expected = layer(x)[:, 1:]
    with torch.no_grad():
        x[:, 0] = odd
    found = layer(x)
    assert torch.equal(found[:, 1:], expected)
    assert found[:, 0].isfinite().all() == (abs(odd) < torch.inf)


def test_gradients_are_those_of_the_unquantised_weight() -> None:
    x, plain, layer = layers(torch.float32)
    plain.bias.requires_grad_()
    dy = torch.randn(K, N, OUT)
    found = torch.autograd.grad(layer(x), (x, layer.bias), dy)
    expected = torch.autograd.grad(plain(x), (x, plain.bias), dy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_update_is_added_to_the_float8_product() -> None:
    x, plain, layer = layers(torch.float32)
    factors = [torch.randn(*shape, requires_grad=True) for shape in ((K, IN, R), (K, R, OUT))]
    update, dy = LowRank(*factors), torch.randn(K, N, OUT)
    found, expected = updated(x, layer, update), layer(x) + update(x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain(x) + update(x))
    for one, other in zip(
        torch.autograd.grad(found, (x, *factors), dy),
        torch.autograd.grad(expected, (x, *factors), dy),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def float8_vit() -> nn.Module:
    model = vit()
    plain = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, layer in plain.items():
        model.set_submodule(name, Float8Linear(layer))
    return model


def test_weights_with_a_quantised_copy_are_not_merged_into() -> None:
    model = attach(float8_vit(), build("lora", {}), num_classes=3)
    with pytest.raises(AdapterError, match="float8"):
        merge(model)


@pytest.mark.parametrize("adapter", ["full", "bitfit"])
def test_a_weight_that_an_adapter_trains_is_not_multiplied_in_float8(adapter: str) -> None:
    model = float8_vit()
    attach(model, build(adapter, {}), num_classes=3)
    frozen = [m for m in model.modules() if isinstance(m, Float8Linear) and m.frozen]
    assert bool(frozen) == (adapter == "bitfit")
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(grad is not None for grad in trained.values())
