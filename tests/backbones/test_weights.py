from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.backbones import MINI_FILE, load_backbone
from orchestrator.errors import CheckpointError
from tests.backbones.files import microsoft_state, randomise, save_torch, without

SWIN = "swin_tiny_patch4_window7_224"


def state() -> dict[str, Tensor]:
    return {name: t.clone() for name, t in load_file(MINI_FILE).items()}


def refusal(file: Path, architecture: str = "vit_mini") -> str:
    with pytest.raises(CheckpointError) as error:
        load_backbone(f"{architecture}@{file}")
    assert str(file) in str(error.value)
    return str(error.value)


def of_data_parallel(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": t for name, t in weights.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_is_read(suffix: str, zipped: bool, tmp_path: Path) -> None:
    file = save_torch(state(), tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    mini, found = load_backbone("vit_mini"), load_backbone(f"vit_mini@{file}")
    assert found.fingerprint != mini.fingerprint
    for name, tensor in mini.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"model": state(), "epoch": 3},
        {"state_dict": of_data_parallel(state()), "optimizer": {"state": {0: {"step": 1}}}},
        of_data_parallel(state()),
        {"teacher": state()},
    ],
    ids=["model", "state_dict", "module.", "teacher"],
)
def test_wrappings_are_taken_off(wrapped: dict[str, Any], tmp_path: Path) -> None:
    found = load_backbone(f"vit_mini@{save_torch(wrapped, tmp_path / 'w.pth')}")
    assert torch.equal(found.model.state_dict()["norm.bias"], state()["norm.bias"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": state(), "model_ema": state()}, "holds 2 tables of tensors (model, model_ema)"),
        ({"epoch": 3}, "holds 0 tables of tensors (epoch)"),
        ([1, 2], "holds 0 tables of tensors (a list)"),
        (torch.zeros(3), "holds 0 tables of tensors (a Tensor)"),
        ({}, "holds 0 tables of tensors (a dict)"),
    ],
    ids=["two", "none", "list", "tensor", "empty"],
)
def test_a_file_without_one_table_of_tensors_is_refused(
    content: object, said: str, tmp_path: Path
) -> None:
    assert said in refusal(save_torch(content, tmp_path / "w.pth"))


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_of_more_than_tensors_runs_nothing(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = {"model": state(), "config": Malicious(marker)}
    file = save_torch(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(file)
    assert "holds more than weights (posix.mkdir), and nothing else is unpickled" in message
    assert "safetensors.torch.save_file" in message
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_bare_pickle_runs_nothing_under_any_name(suffix: str, tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / f"w{suffix}"
    file.write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    refusal(file)
    assert not marker.exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(MINI_FILE.read_bytes()[:5000])
    assert "cannot be read as safetensors" in refusal(file)
    for zipped in (True, False):
        whole = save_torch(state(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        for kept in (0, 100, whole.stat().st_size // 2, whole.stat().st_size - 100):
            cut = tmp_path / "cut.pth"
            cut.write_bytes(whole.read_bytes()[:kept])
            assert "it is damaged, or no file of torch.save" in refusal(cut)


def test_misfitting_weights_are_named(tmp_path: Path) -> None:
    weights = without(state(), "norm.bias")
    weights |= {"pos_embed": torch.zeros(1, 5, 64), "stranger": torch.zeros(1)}
    save_file(weights, file := tmp_path / "w.safetensors")
    message = refusal(file)
    assert "does not fit vit_mini: 3 tensors differ" in message
    assert "norm.bias: expected (64,), found nothing" in message
    assert "pos_embed: expected (1, 17, 64), found (1, 5, 64)" in message
    assert "stranger: expected nothing, found (1,)" in message
    assert "nothing is resized" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pos_embed", (1, 50, 64)), ("patch_embed.proj.weight", (64, 3, 4, 4))],
)
def test_weights_for_another_image_or_patch_size_are_not_resized(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    file = save_torch({"model": {**state(), name: torch.ones(shape)}}, tmp_path / "w.pth")
    assert f"1 tensors differ ({name}: expected" in (message := refusal(file))
    assert f"found {shape})" in message


def test_older_layouts_of_a_vit_are_read(tmp_path: Path) -> None:
    """A linear patch embedding and a `pre_logits` layer, as in timm's first checkpoints."""
    weights = state()
    kernel = weights["patch_embed.proj.weight"]
    weights |= {"patch_embed.proj.weight": kernel.flatten(1), "pre_logits.fc.bias": torch.ones(3)}
    found = load_backbone(f"vit_mini@{save_torch(weights, tmp_path / 'w.pth')}")
    assert torch.equal(found.model.state_dict()["patch_embed.proj.weight"], kernel)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weights = state()
    weights["norm.bias"][3] = torch.inf
    save_file(weights, file := tmp_path / "w.safetensors")
    assert "1 tensors of vit_mini without finite values (norm.bias)" in refusal(file)


def test_swin_is_read_in_its_authors_layout_and_in_timms(tmp_path: Path) -> None:
    model = timm.create_model(SWIN, pretrained=False, num_classes=5).eval()
    randomise(model)
    theirs = microsoft_state(model)
    assert "layers.0.downsample.reduction.weight" in theirs
    assert "layers.0.blocks.1.attn_mask" in theirs
    save_torch({"model": theirs}, tmp_path / "theirs.pth")
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    for name in ("theirs.pth", "timm.safetensors"):
        found = load_backbone(f"{SWIN}.ms_in22k@{tmp_path / name}")
        assert found.image_size == 224
        assert expected.shape == (2, 768)
        torch.testing.assert_close(found.model(images), expected, rtol=0, atol=1e-5)


def test_swin_for_another_window_or_of_another_size_is_refused(tmp_path: Path) -> None:
    weights = timm.create_model(SWIN, pretrained=False).state_dict()
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    file = tmp_path / "w.pth"
    save_torch({**weights, table: torch.zeros(23 * 23, 3)}, file)
    assert f"({table}: expected (169, 3), found (529, 3))" in refusal(file, SWIN)
    save_torch({**weights, table.replace("blocks.0", "blocks.7"): weights[table]}, file)
    assert f"does not fit {SWIN}" in refusal(file, SWIN)
