"""The frozen backbone: its prefix is computed once per split, attention suits the device."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from orchestrator.engine import frozen, grouping, memory
from orchestrator.engine.pool import Pool
from tests.engine.worlds import (
    CPU,
    TEST,
    VAL,
    assert_same,
    backbone,
    encoded,
    final_data,
    run,
    search_data,
    trial,
)  # fmt: skip

DATA = search_data()
PARTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lora", {"layers": [1], "dropout": 0.2}, {"drop_path": 0.3}),
    ("partial", {"blocks": 1}, {}),
    ("linear", {}, {"drop_path": 0.3}),
    ("mlp_head", {"hidden": 1}, {}),
    ("dtl", {}, {}),
    ("dtl", {"kernel": 3, "layers": [0]}, {"drop_path": 0.3}),
    ("last", {"rank": 3}, {}),
    ("last", {"rank": 3}, {"drop_path": 0.3}),
]


def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "first_changed_block", lambda *_: None)


@pytest.mark.parametrize(("adapter", "params", "recipe"), PARTS, ids=lambda part: str(part)[:12])
def test_the_prefix_changes_no_result(
    adapter: str, params: dict[str, Any], recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [trial(adapter, params, seed, lr=1e-2 / seed, **recipe) for seed in (1, 2)]
    with_it = [run([(one, DATA)]) for one in trials]
    together = run([(one, DATA) for one in trials])
    _without(monkeypatch)
    for one, alone in zip(trials, with_it, strict=True):
        plain = run([(one, DATA)])
        assert_same(alone, plain, one.key)
        assert_same(together, plain, one.key)


class Counted:
    """Images that went through the first block of a backbone, pass by pass."""

    def __init__(self) -> None:
        self.bone = backbone()
        self.passes: list[int] = []

        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].device == CPU:  # not the copy whose operations are counted
                self.passes.append(len(inputs[0]))

        self.bone.model.get_submodule("blocks.0").register_forward_pre_hook(count)


@pytest.mark.parametrize("adapter", ["lora", "linear", "dtl", "last"])
def test_the_prefix_is_computed_once_for_all_trials_and_groups(adapter: str) -> None:
    counted = Counted()
    params = {"layers": [1]} if adapter == "lora" else {}
    trials = [trial(adapter, params, 1), trial(adapter, params, 2, batch=16)]
    run([(one, DATA) for one in trials], bone=counted.bone)
    assert sorted(counted.passes) == [VAL, len(DATA.train)]


def test_evaluations_share_the_prefix_even_where_training_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crops are other images for every trial; the images of val are the same for all."""
    trials = [trial("lora", {"layers": [1]}, s, augment="crop_flip", epochs=2) for s in (1, 2)]
    counted = Counted()
    shared = run([(one, DATA) for one in trials], bone=counted.bone)
    assert sorted(counted.passes) == [16] * 10 + [VAL]
    _without(monkeypatch)
    for one in trials:
        assert_same(shared, run([(one, DATA)]), one.key)


@pytest.mark.parametrize("adapter", ["lora", "linear", "last"])
def test_a_streamed_split_is_not_kept_but_shared(adapter: str) -> None:
    data = final_data()
    data = type(data)(data.task, data.train, encoded(data.test), data.identity)  # type: ignore[arg-type]
    params = {"layers": [1]} if adapter == "lora" else {}
    trials = [trial(adapter, params, seed, stage="final") for seed in (1, 2)]
    counted = Counted()
    run([(one, data) for one in trials], bone=counted.bone)
    assert sorted(counted.passes) == [TEST, sum(map(len, data.train))]


@pytest.mark.parametrize(("adapter", "states"), [("lora", 1), ("dtl", 2), ("last", 3)])
def test_what_does_not_fit_is_computed_again(
    adapter: str, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte less than the training split needs: 17 tokens of 32 fp32 numbers, image and state."""
    one = trial(adapter, {"layers": [1]} if adapter == "lora" else {}, 1)
    kept = run([(one, DATA)])
    room = states * len(DATA.train) * 17 * 32 * 4 / frozen._SHARE
    monkeypatch.setattr(memory, "free", lambda device: room - 1)
    counted = Counted()
    seen = run([(one, DATA)], bone=counted.bone)
    assert counted.passes.count(8) == 15  # every step
    assert_same(seen, kept, one.key)
    monkeypatch.setattr(memory, "free", lambda device: room)
    counted = Counted()
    run([(one, DATA)], bone=counted.bone)
    assert counted.passes.count(8) == 0


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
        frozen.choose_attention(model, device)
        assert fused(model) == ({False} if switched else before), (name, size, device)
        assert not switched or before == {True}


def test_a_pool_switches_its_own_copy_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own, data, one = backbone(), search_data(), trial("lora", {"rank": 2}, 3)
    pool = Pool(own, CPU, width=1)
    pool.add(one, data)
    assert fused(own.model) == {True}
    assert fused(pool.groups[0].frozen.model) == {False}
    plain = run([(one, data)]).results[one.key]
    monkeypatch.setattr(frozen, "SHORT", 0)
    whole = run([(one, data)]).results[one.key]
    for mine, theirs in zip(plain.curve, whole.curve, strict=True):
        assert abs(mine.loss - theirs.loss) < 1e-5
    assert plain.correct == whole.correct
