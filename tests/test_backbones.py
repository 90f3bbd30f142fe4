from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator import files
from orchestrator.backbones import (
    HALF,
    IMAGENET,
    MINI_FILE,
    architecture,
    copy_of,
    fingerprint,
    load_backbone,
    twin,
)
from orchestrator.errors import CheckpointError, InvalidInput

TINY = "vit_tiny_patch16_224"
TAG = f"{TINY}.augreg_in21k"


def state() -> dict[str, Tensor]:
    return {name: t.clone() for name, t in load_file(MINI_FILE).items()}


def test_the_shipped_backbone_is_frozen_and_fingerprinted() -> None:
    mini = load_backbone("vit_mini")
    assert mini.fingerprint == fingerprint("vit_mini") == files.fingerprint(MINI_FILE)
    assert (mini.image_size, mini.own_statistics) == (32, HALF)
    assert not mini.model.training
    assert not any(p.requires_grad for p in mini.model.parameters())
    assert mini.normalisation("imagenet") == IMAGENET
    assert mini.normalisation("backbone") == mini.normalisation("half") == HALF
    with pytest.raises(InvalidInput, match=r"unknown normalisation 'halff'. Did you mean 'half'"):
        mini.normalisation("halff")


def test_a_local_file_is_read_and_its_head_left_out(tmp_path: Path) -> None:
    weights = state()
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
    found = load_backbone(f"{TAG}@{file}")
    assert (found.image_size, architecture(found.name)) == (224, TAG)
    assert found.own_statistics == HALF, "augreg weights were trained so"
    assert torch.equal(found.model.state_dict()["cls_token"], model.cls_token)


@pytest.mark.parametrize("name", ["missing.safetensors", "weights.pt", "folder.safetensors", ""])
def test_what_is_no_safetensors_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    (tmp_path / "folder.safetensors").mkdir()
    for function in (fingerprint, load_backbone):
        with pytest.raises(InvalidInput, match=r"ARCHITECTURE@FILE\.safetensors") as error:
            function(f"vit_mini@{tmp_path / name}")
        assert str(tmp_path / name) in str(error.value)


def test_damaged_and_misfitting_weights_are_named(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(MINI_FILE.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"w\.safetensors cannot be read as safetensors"):
        load_backbone(f"vit_mini@{file}")
    weights = state()
    weights["pos_embed"] = torch.zeros(1, 5, 64)
    weights["stranger"] = torch.zeros(1)
    del weights["norm.bias"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="does not fit vit_mini: 3 tensors differ") as error:
        load_backbone(f"vit_mini@{file}")
    assert "norm.bias: expected (64,), found nothing" in str(error.value)
    assert "pos_embed: expected (1, 17, 64), found (1, 5, 64)" in str(error.value)
    assert "stranger: expected nothing, found (1,)" in str(error.value)


def test_a_pickle_that_is_called_safetensors_runs_nothing(tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "w.safetensors"
    file.write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_backbone(f"vit_mini@{file}")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("vit_mimi", ["'vit_mimi'", "vit_mini"]),
        ("vit_bass_patch16_224", ["Did you mean", "vit_base_patch16_224", "ARCHITECTURE@FILE"]),
        ("hf-hub:someone/something", ["unknown backbone"]),
        ("../vit", ["unknown backbone"]),
        ("", ["unknown backbone ''"]),
        (f"{TINY}.augreg_in22k", ["'augreg_in22k'", "Did you mean 'augreg_in21k'?"]),
        ("nonsense@{file}", ["unknown backbone 'nonsense'"]),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_built(
    name: str, fragments: list[str]
) -> None:
    for function in (fingerprint, load_backbone):
        with pytest.raises(InvalidInput) as error:
            function(name.format(file=MINI_FILE))
        for fragment in fragments:
            assert fragment in str(error.value)
        assert len(str(error.value)) < 400


def test_a_convolutional_network_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'resnet18@.*no patch embedding.*ViT, DeiT and Swin"):
        load_backbone(f"resnet18@{MINI_FILE}")


def test_an_unreachable_hub_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(CheckpointError) as error:
        fingerprint(TAG)
    assert f"download model.safetensors of huggingface.co/timm/{TAG}" in str(error.value)
    assert f"--backbone {TAG}@/path/to/model.safetensors" in str(error.value)


def test_hub_weights_are_those_of_the_named_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, file = [], tmp_path / "model.safetensors"
    file.write_bytes(b"weights")

    def cached(*arguments: str) -> str:
        asked.append(arguments)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert fingerprint(TAG) == files.fingerprint(file)
    assert asked == [(f"timm/{TAG}", "model.safetensors")]


def test_an_architecture_without_weights_on_the_hub_asks_for_a_file() -> None:
    name = "vit_base_patch16_xp_224"
    assert not timm.list_pretrained(f"{name}.*")
    with pytest.raises(InvalidInput, match=rf"no weights on the hub.*{name}@FILE"):
        fingerprint(name)


def test_a_twin_shares_every_tensor_and_no_module() -> None:
    model = load_backbone("vit_mini").model
    other = twin(model)
    theirs = dict(other.named_parameters())
    assert all(p is theirs[name] for name, p in model.named_parameters())
    assert not {*map(id, model.modules())} & {*map(id, other.modules())}


def test_a_copy_shares_nothing() -> None:
    model = load_backbone("vit_mini").model
    other = copy_of(model, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in other.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
