"""Weights files: what is read, what is refused, and that nothing is unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from orchestrator.backbones import HALF, load_backbone
from orchestrator.backbones.names import MINI_FILE
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.backbones.weights import _flat, fill
from orchestrator.errors import CheckpointError
from tests.backbones.files import (
    Arrays,
    google_arrays,
    microsoft_state,
    random_model,
    randomise,
    save_torch,
    without,
)

SWIN = "swin_tiny_patch4_window7_224"
FIRST = "Transformer/encoderblock_0/"


def state() -> dict[str, Tensor]:
    return {name: t.clone() for name, t in load_file(MINI_FILE).items()}


def refusal(file: Path, architecture: str = "vit_mini") -> str:
    with pytest.raises(CheckpointError) as error:
        load_backbone(f"{architecture}@{file}")
    assert str(file) in str(error.value)
    return str(error.value)


def of_data_parallel(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": t for name, t in weights.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".PTH"])
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
def test_wrappers_are_removed(wrapped: dict[str, Any], tmp_path: Path) -> None:
    found = load_backbone(f"vit_mini@{save_torch(wrapped, tmp_path / 'w.pth')}")
    assert torch.equal(found.model.state_dict()["norm.bias"], state()["norm.bias"])


def below(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": t for name, t in state().items()}


@pytest.mark.parametrize(
    ("content", "fitting", "short"),
    [
        (
            {"student": below("module.backbone."), "teacher": below("backbone.")},
            ["student.module.backbone.", "teacher.backbone."],
            "teacher.backbone",
        ),
        (
            {"state_dict": below("module.base_encoder.") | below("module.momentum_encoder.")},
            ["state_dict.module.base_encoder.", "state_dict.module.momentum_encoder."],
            "base_encoder",
        ),
        (below("timm_model."), ["timm_model."], "timm_model."),
        (below("a.b.c.") | {"a.b.other": torch.zeros(2)}, ["a.b.c."], "c"),
        ({"model": state(), "model_ema": state()}, ["model.", "model_ema."], "model_ema"),
    ],
    ids=["dino", "moco", "timm_model", "nested", "ema"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_prefix_that_would_fit_is_named_and_can_be_given(
    suffix: str, content: dict[str, Any], fitting: list[str], short: str, tmp_path: Path
) -> None:
    file = tmp_path / f"w#1{suffix}"
    if suffix == ".pth":
        save_torch(content, file)
    else:
        save_file({name: t.clone() for name, t in dict(_flat(content)).items()}, file)
    message = refusal(file)
    for prefix in fitting:
        assert f"vit_mini@{file}#{prefix}" in message
        found = load_backbone(f"vit_mini@{file}#{prefix}").model.state_dict()
        assert torch.equal(found["norm.bias"], state()["norm.bias"])
    load_backbone(f"vit_mini@{file}#{short}")
    with pytest.raises(CheckpointError, match=r"begins with 'nothing\.'\..*fit below"):
        load_backbone(f"vit_mini@{file}#nothing")


@pytest.mark.parametrize(
    ("content", "fragment"),
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
    content: object, fragment: str, tmp_path: Path
) -> None:
    assert fragment in refusal(save_torch(content, tmp_path / "w.pth"))


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
    weights["patch_embed.proj.weight"] = torch.zeros(64, 3, 4, 4)
    save_file(weights, file := tmp_path / "w.safetensors")
    message = refusal(file)
    assert "does not fit vit_mini: 4 tensors differ" in message
    assert "norm.bias: expected (64,), found nothing" in message
    assert "patch_embed.proj.weight: expected (64, 3, 8, 8), found (64, 3, 4, 4)" in message
    assert "pos_embed: expected (1, 17, 64), found (1, 5, 64)" in message
    assert "nothing is resized" in message


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


@pytest.fixture(scope="module")
def swin() -> SwinTransformer:
    model = random_model(SWIN, classes=5)
    assert isinstance(model, SwinTransformer)
    return model


def test_swin_is_read_in_its_authors_layout_and_in_timms(
    swin: SwinTransformer, tmp_path: Path
) -> None:
    theirs = microsoft_state(swin)
    assert "layers.0.downsample.reduction.weight" in theirs
    assert "layers.0.blocks.1.attn_mask" in theirs
    save_torch({"model": theirs}, tmp_path / "theirs.pth")
    save_file(swin.state_dict(), tmp_path / "timm.safetensors")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = swin.forward_head(swin.forward_features(images), pre_logits=True)
    for name in ("theirs.pth", "timm.safetensors"):
        found = load_backbone(f"{SWIN}.ms_in22k@{tmp_path / name}")
        assert found.image_size == 224
        assert expected.shape == (1, 768)
        torch.testing.assert_close(found.model(images), expected, rtol=0, atol=1e-5)


def test_swin_for_another_window_or_of_another_size_is_refused(
    swin: SwinTransformer, tmp_path: Path
) -> None:
    weights = swin.state_dict()
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    file = tmp_path / "w.pth"
    save_torch({**weights, table: torch.zeros(23 * 23, 3)}, file)
    assert f"({table}: expected (169, 3), found (529, 3))" in refusal(file, SWIN)
    save_torch({**weights, table.replace("blocks.0", "blocks.7"): weights[table]}, file)
    assert f"does not fit {SWIN}" in refusal(file, SWIN)


@pytest.fixture
def arrays() -> Arrays:
    model = vit_mini(num_classes=3)
    randomise(model)
    return google_arrays(model)


def test_a_vit_in_the_original_layout_gives_the_same_features_and_logits(tmp_path: Path) -> None:
    model = random_model("vit_tiny_patch16_224", classes=7)
    file = tmp_path / "Ti_16.npz"
    np.savez(file, **google_arrays(model))
    found = load_backbone(f"vit_tiny_patch16_224.augreg_in21k@{file}")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(images)
        features = found.model(images)
    assert (found.image_size, found.own_statistics) == (224, HALF)
    assert expected.std() > 0.1, "logits of a network that does something"
    torch.testing.assert_close(model.head(features), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_npz_prefixes_are_removed(prefix: str, arrays: Arrays, tmp_path: Path) -> None:
    if prefix == "params/":  # big_vision calls them so
        names = {"MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0"}
        names |= {"MlpBlock_3": "MlpBlock_0", "LayerNorm_2": "LayerNorm_1"}
        names |= {"Transformer/posembed_input/pos_embedding": "pos_embedding"}
        for old, new in names.items():
            arrays = {name.replace(old, new): array for name, array in arrays.items()}
    named: Any = {prefix + name: array for name, array in arrays.items()}
    np.savez_compressed(file := tmp_path / "w.npz", **named, step=np.int64(3))
    if not prefix:
        assert "values" in refusal(file)
        return
    found = load_backbone(f"vit_mini@{file}").model.state_dict()
    assert np.array_equal(found["cls_token"], arrays["cls"])


@pytest.mark.parametrize(
    "missing",
    ["cls", "embedding/bias", f"{FIRST}LayerNorm_0/scale", "Transformer/encoder_norm/bias"],
)
def test_a_missing_npz_array_is_named(missing: str, arrays: Arrays, tmp_path: Path) -> None:
    np.savez(file := tmp_path / "w.npz", **without(arrays, missing))
    assert missing in refusal(file)


@pytest.mark.parametrize(
    ("name", "shape", "fragment"),
    [
        (
            "Transformer/posembed_input/pos_embedding",
            (1, 50, 64),
            "pos_embed: expected (1, 17, 64), found (1, 50, 64)",
        ),
        ("embedding/kernel", (4, 4, 3, 64), "expected (64, 3, 8, 8), found (64, 3, 4, 4)"),
        ("embedding/kernel", (192, 64), "expected (64, 3, 8, 8), found"),
        (f"{FIRST}LayerNorm_0/bias", (1,), "values"),  # would be broadcast
        ("Transformer/encoderblock_4/LayerNorm_0/bias", (64,), "values"),  # would be left out
    ],
)
def test_npz_of_another_size_is_refused(
    name: str, shape: tuple[int, ...], fragment: str, arrays: Arrays, tmp_path: Path
) -> None:
    arrays[name] = np.ones(shape, np.float32)
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert fragment in refusal(file)


def test_tensors_that_an_npz_lacks_are_named(arrays: Arrays, tmp_path: Path) -> None:
    """A ViT that pools has its last norm elsewhere: timm's loader leaves that as it was."""
    np.savez(file := tmp_path / "w.npz", **arrays)
    with torch.device("meta"):
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=0,
            global_pool="avg",
        )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"2 tensors of pooled.*\(fc_norm.weight, fc_norm.b"):
        fill(model, file, "pooled")


def test_other_npz_files_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert f"{SWIN} is none" in refusal(file, SWIN)
    content = file.read_bytes()
    for kept in (0, 100, len(content) // 2, len(content) - 100):
        file.write_bytes(content[:kept])
        assert "cannot be read as .npz" in refusal(file)
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(8) + content[middle + 8 :])
    assert "does not fit vit_mini in Google's original layout: Bad CRC" in refusal(file)
    np.savez(file, weights=np.ones(3))
    assert "it has no array 'embedding/kernel'" in refusal(file)
    with open(file, "wb") as one:
        np.save(one, np.ones(3))
    assert "cannot be read as .npz" in refusal(file)


def test_pickled_npz_arrays_are_not_unpickled(arrays: Arrays, tmp_path: Path) -> None:
    marker, scale = tmp_path / "ran", arrays[f"{FIRST}LayerNorm_0/scale"]
    pickled: Any = np.full(scale.shape, Malicious(marker), dtype=object)
    arrays[f"{FIRST}LayerNorm_0/scale"] = pickled
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert "Object arrays cannot be loaded" in refusal(file)
    assert not marker.exists()
