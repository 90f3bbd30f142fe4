"""A pass in two parts is the pass."""

from __future__ import annotations

import pytest
import torch

import adapters
from adapters import Adapter, UnsupportedBackbone, attach, attached
from adapters.backbones import find_sites
from adapters.names import built_in
from adapters.partial_forward import begin, finish, first_changed_block
from adapters.side import DTL, LAST
from adapters.stack import start_member
from tests.adapters.models import Make, every_model, images, randomise, swin, vit


@every_model
@torch.no_grad()
def test_it_can_be_cut_before_every_block_and_after_the_last(make: Make) -> None:
    model, x = make(), images(2)
    expected = model(x)
    for block in range(find_sites(model).depth + 1):
        assert torch.equal(finish(model, begin(model, x, [block]), [block]), expected)


@pytest.mark.parametrize(
    ("make", "adapter", "first"),
    [
        (vit, adapters.LoRA(), 0),
        (vit, adapters.LoRA(layers=(2,)), 2),
        (vit, adapters.LinearProbe(), 4),
        (vit, adapters.MLPHead(), 4),
        (vit, adapters.Full(), None),
        (vit, adapters.Partial(blocks=1), 2),
        (vit, adapters.SSF(), None),  # the patch embedding
        (vit, adapters.VPTShallow(), 0),
        (vit, adapters.ARC(layers=(1,)), 1),
        (vit, DTL(), 1),
        (vit, DTL(first=0), 0),
        (vit, DTL(first=2, layers=(0,)), 2),
        (vit, DTL(first=0, layers=(1, 2)), 1),
        (vit, LAST(), 3),
        (swin, adapters.LoRA(layers=(1, 3)), 1),
        (swin, adapters.SSF(layers=(3,)), 3),
        (swin, adapters.LinearProbe(), 5),
    ],
)
def test_the_first_block_that_an_adapter_changes(
    make: Make, adapter: Adapter, first: int | None
) -> None:
    sites = find_sites(make())
    assert first_changed_block(start_member(adapter, sites, 0, None), sites) == first


@every_model
@torch.no_grad()
def test_nothing_before_the_first_changed_block_is_changed(make: Make) -> None:
    """Every adapter, with random tensors: up to there the adapted model is the frozen one."""
    compared, x = [], images(2)
    for name, kind in built_in().items():
        whole = name in ("linear", "mlp_head", "full", "partial", "dtl", "last")
        adapter, model = kind(**({} if whole else {"layers": (1,)})), make()
        sites = find_sites(model)
        try:
            first = first_changed_block(start_member(adapter, sites, 0, None), sites)
        except UnsupportedBackbone:
            continue
        if first is not None:
            cut = [*adapter.reads(adapter.select(sites)), min(first, sites.depth)]
            frozen = begin(model, x, cut)
            randomise(attach(model, adapter, num_classes=3))
            expected = model(x)
            attached(model).prepare(2, torch.float32)
            torch.testing.assert_close(finish(model, frozen, cut), expected, rtol=0, atol=1e-5)
            again = begin(model, x, cut)
            assert all(map(torch.equal, again, frozen)) or cut == [0], name
            compared.append(name)
    only_vit = {"noah", "dtl", "last"}
    assert set(built_in()) - set(compared) == ({"full"} if make is vit else {"full"} | only_vit)
