"""Full and partial fine-tuning equal training the plain model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from adapters import Adapter, AdapterError, attach, attached, merge
from adapters.full import Full, Partial
from tests.adapters.models import (
    Make,
    close,
    deit,
    every_model,
    images,
    started,
    swin,
    train,
    vit,
)

HEADS = ("head.weight", "head.bias", "head.fc.weight", "head.fc.bias")


def begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefixes)


@pytest.mark.parametrize(
    ("make", "adapter", "trains"),
    [
        (vit, Full(), lambda _: True),
        (deit, Full(), lambda _: True),
        (swin, Full(), lambda _: True),
        (vit, Full(layers=(0, 2)), begins("blocks.0.", "blocks.2.")),
        (swin, Full(layers=(1,), sites=("mhsa",)), begins("layers.0.blocks.1.attn.",
                                                          "layers.0.blocks.1.norm1.")),
        (vit, Full(sites=("o", "ffn"), layers=(1,)), begins("blocks.1.attn.proj.", "blocks.1.mlp.",
                                                            "blocks.1.norm2.")),
        (vit, Full(sites=("q", "k", "v", "fc2"), layers=(0,)), begins("blocks.0.attn.qkv.",
                                                                      "blocks.0.mlp.fc2.")),
        (vit, Partial(), begins("blocks.2.", "norm.")),
        (deit, Partial(blocks=2), begins("blocks.1.", "blocks.2.", "norm.")),
        (swin, Partial(blocks=2), begins("layers.1.blocks.0.", "layers.2.blocks.0.", "norm.")),
        (vit, Partial(layers=(0,), sites=("ffn",)), begins("blocks.0.mlp.", "blocks.0.norm2.",
                                                           "norm.")),
    ],
)  # fmt: skip
def test_it_is_training_the_plain_model(
    make: Make, adapter: Adapter, trains: Callable[[str], bool]
) -> None:
    """The same losses and the same weights as AdamW on the model's own parameters."""
    plain, x, labels = make(5), images(6), torch.arange(6) % 5
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name in HEADS or trains(name))
    model = attach(make(5), adapter)
    losses = train(model, x, [labels], 3)
    optimiser = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-2)
    plain.train()
    expected = []
    for _ in range(3):
        loss = F.cross_entropy(plain(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        expected.append([loss.item()])
    assert torch.allclose(torch.tensor(losses), torch.tensor(expected), atol=1e-5)
    merge(model)
    for name, parameter in plain.named_parameters():
        # Adam amplifies the rounding of gradients that are 0 (a key's bias) into steps.
        if not name.endswith("qkv.bias"):
            assert torch.allclose(model.get_parameter(name), parameter, atol=1e-4), name
    assert close(model(x), plain.eval()(x), 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"init_values": 0.1, "qk_norm": True},
        {"qkv_bias": False, "proj_bias": False},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 2, "no_embed_class": True, "pre_norm": True},
    ],
    ids=str,
)
def test_variants_train_whole(options: Mapping[str, Any]) -> None:
    own = {name for name, _ in vit(**options).named_parameters()}
    assert set(started(Full(), vit(7, **options))) == own
    halves = set(started(Full(layers=(0, 1, 2)), vit(**options)))
    assert halves == {name for name in own if name.startswith("blocks.")}
    final = {name for name in started(Partial(), vit(**options)) if "blocks" not in name}
    assert final == {n for n in own if n.startswith(("norm.", "fc_norm."))} != set()
    model = attach(vit(**options), Full(), num_classes=3)
    train(model, images(4), [torch.arange(4) % 3], 2)
    expected = model(images(2))
    assert merge(model).state_dict().keys() == vit(3, **options).state_dict().keys()
    assert close(model(images(2)), expected)


@every_model
def test_a_bf16_backbone_has_fp32_masters(make: Make) -> None:
    plain = make().bfloat16()
    model = attach(copy.deepcopy(plain), Full(), num_classes=3)
    x = images(4).bfloat16()
    before = model.forward_features(x)  # type: ignore[operator]
    assert torch.equal(before, plain.forward_features(x))  # type: ignore[operator]
    # Steps of 1e-5 are lost on bf16 weights of 0.02 and more, but not on their masters.
    train(model, x, [torch.arange(4) % 3], 3, lr=1e-5)
    assert {p.dtype for p in attached(model).parameters()} == {torch.float32}
    master = attached(model).tensors_of(0)["norm.weight"]
    assert (master != plain.get_parameter("norm.weight").float()).all()
    expected = model(x)
    assert {p.dtype for p in merge(model).parameters()} == {torch.bfloat16}
    assert torch.allclose(model(x).float(), expected, atol=0.02)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (
            Full(sites=("q", "v")),
            r"full trains whole weights, and q, k, v are one \(blocks\.0\.att",
        ),
        (Partial(sites=("k", "ffn")), r"sites=\('k', 'ffn'\) has only k: name all of them, or non"),
        (Partial(blocks=4), "Partial.blocks is 4; this backbone has 3 blocks"),
        (Partial(layers=()), r"layers=\(\) matches nothing"),
    ],
)
def test_what_is_refused(adapter: Adapter, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), adapter)
