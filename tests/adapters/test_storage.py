"""Adapters on disk: what is written, and what each kind of damage says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters import EFFT2, AdapterError, LoRA, attach, attached, load, save
from adapters.storage import CONFIG, WEIGHTS, save_tensors
from tests.adapters.models import deit, images, randomise, vit


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = attach(vit(), LoRA(rank=2, alpha=3.0), num_classes=4)
    randomise(model)
    save(model, tmp_path / "deep" / "folder")
    return tmp_path / "deep" / "folder"


def test_two_plain_files_without_a_trial_axis(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {CONFIG, WEIGHTS}
    config = json.loads((saved / CONFIG).read_text())
    assert config["adapter"] == "lora"
    assert config["hyper_parameters"]["sites"] == ["q", "v"]
    tensors = load_file(saved / WEIGHTS)
    assert tensors["blocks.0.q.A"].shape == (32, 2)
    assert tensors["head.weight"].shape == (4, 32)
    assert sum(t.numel() for t in tensors.values()) == 3 * 2 * 2 * 32 * 2 + 33 * 4


def test_a_second_save_replaces_the_first(saved: Path) -> None:
    model = attach(vit(), EFFT2(rank=2), num_classes=3)
    save(model, saved)
    assert attached(load(vit(), saved)).members[0].adapter == EFFT2(rank=2)
    assert {path.name for path in saved.iterdir()} == {CONFIG, WEIGHTS}


def test_a_trial_of_a_stack_is_saved_at_its_own_shapes(tmp_path: Path) -> None:
    members = [LoRA(rank=1), LoRA(rank=5)]
    stack = attached(attach(vit(), members, num_classes=[2, 6], seed=[1, 2]))
    with pytest.raises(AdapterError, match="save takes one trial, this stack has 2"):
        save(attach(vit(), members), tmp_path)
    save_tensors(members[0], stack.tensors_of(0), tmp_path)
    alone = attach(vit(), LoRA(rank=1), num_classes=2, seed=1)
    assert torch.equal(load(vit(), tmp_path)(images(2)), alone(images(2)))


def test_loading_replaces_the_head_of_another_task(saved: Path) -> None:
    assert load(vit(9), saved)(images(2)).shape == (2, 4)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["blocks.1.v.B"]
    save_file(tensors, path)


def _no_bias(path: Path) -> None:
    tensors = load_file(path)
    del tensors["head.bias"]
    save_file(tensors, path)


def _as_halves(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "head.bias": tensors["head.bias"].half()}, path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (CONFIG, Path.unlink, "not a readable adapter configuration"),
        (CONFIG, lambda p: p.write_text("{"), "not a readable adapter configuration"),
        (CONFIG, lambda p: p.write_bytes(b"\xff\xfe"), "not a readable adapter configuration"),
        (CONFIG, lambda p: p.write_text("[]"), "not a readable adapter configuration"),
        (CONFIG, lambda p: _edit(p, format=9), "has format 9; this version reads format 1"),
        (
            CONFIG,
            lambda p: _edit(p, adapter="lorra"),
            "unknown adapter 'lorra'; available: adapter",
        ),
        (CONFIG, lambda p: _edit(p, hyper_parameters={"rank": 0}), "LoRA.rank is 0; allowed: at"),
        (CONFIG, lambda p: _edit(p, hyper_parameters={"r": 2}), "no field 'r'; its fields: rank"),
        (CONFIG, lambda p: p.write_text("[" * 99_999), "not a readable adapter configuration"),
        (CONFIG, lambda p: _pipe(p), "not a readable .*it is no regular file"),
        (CONFIG, lambda p: _edit(p, hyper_parameters={"rank": 10**9}), "whole numbers up to"),
        (WEIGHTS, lambda p: _pipe(p), "cannot be read as safetensors: it is no regular file"),
        (WEIGHTS, _as_halves, r"head.bias: expected \(4,\), found \(4,\) of torch.float16"),
        (WEIGHTS, Path.unlink, "cannot be read as safetensors"),
        (WEIGHTS, _truncate, "cannot be read as safetensors"),
        (WEIGHTS, lambda p: p.write_bytes(b"\x80\x04pickle"), "cannot be read as safetensors"),
        (WEIGHTS, _drop_a_tensor, r"blocks.1.v.B: expected \(2, 32\), found None"),
        (WEIGHTS, _no_bias, r"head.weight: expected None, found \(4, 32\)"),
    ],
)
def test_damage_is_named(
    saved: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(saved / name)
    with pytest.raises(AdapterError, match=message) as error:
        load(vit(), saved)
    assert str(saved / name) in str(error.value)


def test_a_size_beyond_its_tensors_asks_for_no_memory(saved: Path) -> None:
    _edit(saved / CONFIG, hyper_parameters={"rank": 16_384})
    with pytest.raises(AdapterError, match=r"does not fit this .*rank is 16384; .*at most 1024"):
        load(vit(), saved)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_architecture_is_named(saved: Path) -> None:
    with pytest.raises(AdapterError, match=r"blocks.0.q.A: expected \(48, 2\), found \(32, 2\)"):
        load(deit(), saved)
    _edit(saved / CONFIG, hyper_parameters={"rank": 2, "layers": [2]})
    with pytest.raises(AdapterError, match=r"layers \[2\] do not exist") as error:
        load(vit(depth=2), saved)
    assert str(saved) in str(error.value)
    with pytest.raises(AdapterError, match="attached to this VisionTransformer already"):
        load(attach(vit(), LoRA()), saved)
