from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from orchestrator.backbones import (
    HALF,
    IMAGENET,
    copy_of,
    fingerprint,
    load_backbone,
    own_statistics,
    shared_copy,
)
from orchestrator.backbones.names import MINI_FILE, architecture, empty_model
from orchestrator.errors import InvalidInput
from orchestrator.storage import files
from tests.imports import ROOT

TINY = "vit_tiny_patch16_224"


def test_the_shipped_backbone_is_frozen_and_fingerprinted() -> None:
    mini = load_backbone("vit_mini")
    assert mini.fingerprint == fingerprint("vit_mini") == files.fingerprint(MINI_FILE)
    assert (mini.image_size, mini.own_statistics) == (32, HALF)
    assert not mini.model.training
    assert not any(p.requires_grad for p in mini.model.parameters())
    assert mini.normalisation("imagenet") == IMAGENET
    assert mini.normalisation("none") == ((0, 0, 0), (1, 1, 1))
    assert mini.normalisation("backbone") == mini.normalisation("half") == HALF
    with pytest.raises(InvalidInput, match=r"unknown normalisation 'halff'. Did you mean 'half'"):
        mini.normalisation("halff")


def test_a_local_file_is_read_and_its_head_left_out(tmp_path: Path) -> None:
    weights = load_file(MINI_FILE)
    weights["norm.bias"] += 1
    head = {"head.weight": torch.ones(3, 64), "head_dist.bias": torch.ones(3)}
    file = tmp_path / "own.safetensors"
    save_file({**weights, **head}, file)
    own = load_backbone(f"vit_mini@{file}")
    assert own.fingerprint == files.fingerprint(file) != fingerprint("vit_mini")
    assert own.own_statistics == HALF
    assert torch.equal(own.model.state_dict()["norm.bias"], weights["norm.bias"])
    assert set(own.model.state_dict()) == set(weights)


def test_a_timm_architecture_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    model = timm.create_model(TINY, pretrained=False)
    save_file(model.state_dict(), file)
    found = load_backbone(f"{TINY}.augreg_in21k@{file}")
    assert (found.image_size, architecture(found.name)) == (224, f"{TINY}.augreg_in21k")
    assert found.own_statistics == HALF, "augreg weights were trained so"
    assert torch.equal(found.model.state_dict()["cls_token"], model.cls_token)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("vit_mini", HALF),
        ("vit_base_patch16_224.orig_in21k", HALF),
        ("vit_base_patch16_224.dino@w.pth", IMAGENET),
        ("vit_base_patch16_224.dino@w.npz", IMAGENET),
        ("swin_base_patch4_window7_224@w.pth", IMAGENET),  # its tags agree
        ("vit_base_patch16_224@w.npz", HALF),  # Google's
        ("vit_base_patch16_224@w.pth", None),  # its tags differ
        ("vit_base_patch16_gap_224@w.pth", None),  # it has none
    ],
)
def test_statistics_are_those_of_the_tag(name: str, statistics: object) -> None:
    assert own_statistics(name) == statistics


def test_unknown_statistics_are_asked_for() -> None:
    name = "vit_base_patch16_224@w.pth"
    backbone = replace(load_backbone("vit_mini"), name=name, own_statistics=None)
    with pytest.raises(InvalidInput, match=r"or none, or name the tag.*vit_base_patch16_224\.TAG@"):
        backbone.normalisation("backbone")
    assert backbone.normalisation("half") == HALF


def test_an_empty_model_takes_no_memory() -> None:
    model = empty_model("vit_huge_patch14_224.orig_in21k")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) > 600e6


def test_the_driver_fingerprints_the_shipped_backbone_without_torch() -> None:
    code = """
import sys
from orchestrator.backbones import fingerprint
fingerprint("vit_mini")
assert not {"torch", "timm", "huggingface_hub"} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_shared_copy_shares_every_tensor_and_no_module() -> None:
    model = load_backbone("vit_mini").model
    other = shared_copy(model)
    theirs = dict(other.named_parameters())
    assert all(p is theirs[name] for name, p in model.named_parameters())
    assert not {*map(id, model.modules())} & {*map(id, other.modules())}


def test_a_copy_shares_nothing() -> None:
    model = load_backbone("vit_mini").model
    other = copy_of(model, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in other.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
