"""Short sequences on a CPU: plain products, not fused attention, and the same result."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from orchestrator.engine import attention
from orchestrator.engine.pool import Pool
from tests.engine.worlds import CPU, backbone, run, search_data, trial


def fused(model: nn.Module) -> set[bool]:
    return {m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}


def test_only_short_sequences_on_a_cpu_are_switched() -> None:
    for name, size, device, switched in (
        ("vit_tiny_patch16_224", 64, CPU, True),  # 17 tokens
        ("vit_tiny_patch16_224", 64, torch.device("cuda"), False),
        ("vit_tiny_patch16_224", 224, CPU, False),
        ("swin_tiny_patch4_window7_224", 224, CPU, False),
    ):
        with torch.device("meta"):
            model = timm.create_model(name, img_size=size, num_classes=0)
        before = fused(model)
        attention.suit(model, device)
        assert fused(model) == ({False} if switched else before), (name, size, device)
        assert not switched or before == {True}


def test_a_pool_switches_its_own_copy_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own, data, one = backbone(), search_data(), trial("lora", {"rank": 2}, 3)
    pool = Pool(own, CPU, width=1)
    pool.add(one, data)
    assert fused(own.model) == {True}
    assert fused(pool.groups[0].frozen.model) == {False}
    plain = run([(one, data)]).results[one.key]
    monkeypatch.setattr(attention, "SHORT", 0)
    whole = run([(one, data)]).results[one.key]
    for mine, theirs in zip(plain.curve, whole.curve, strict=True):
        assert abs(mine.loss - theirs.loss) < 1e-5
    assert plain.correct == whole.correct
