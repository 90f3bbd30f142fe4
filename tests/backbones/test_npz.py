from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from orchestrator.backbones import HALF, load_backbone
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.backbones.weights import fill
from orchestrator.errors import CheckpointError
from tests.backbones.files import Arrays, google_arrays, random_vit, randomise, without

FIRST = "Transformer/encoderblock_0/"


@pytest.fixture
def arrays() -> Arrays:
    model = vit_mini(num_classes=3)
    randomise(model)
    return google_arrays(model)


def refusal(file: Path, architecture: str = "vit_mini") -> str:
    with pytest.raises(CheckpointError) as error:
        load_backbone(f"{architecture}@{file}")
    assert str(file) in str(error.value)
    return str(error.value)


def test_a_vit_b_in_the_original_layout_gives_the_same_features_and_logits(tmp_path: Path) -> None:
    model = random_vit("vit_base_patch16_224", classes=7)
    file = tmp_path / "ViT-B_16.npz"
    np.savez(file, **google_arrays(model))
    found = load_backbone(f"vit_base_patch16_224.orig_in21k@{file}")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(images)
        features = found.model(images)
    assert (found.image_size, found.own_statistics) == (224, HALF)
    assert expected.std() > 0.1, "logits of a network that does something"
    torch.testing.assert_close(model.head(features), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_prefixes_are_taken_off(prefix: str, arrays: Arrays, tmp_path: Path) -> None:
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
def test_a_missing_array_is_named(missing: str, arrays: Arrays, tmp_path: Path) -> None:
    np.savez(file := tmp_path / "w.npz", **without(arrays, missing))
    assert missing in refusal(file)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
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
def test_another_size_is_refused(
    name: str, shape: tuple[int, ...], said: str, arrays: Arrays, tmp_path: Path
) -> None:
    arrays[name] = np.ones(shape, np.float32)
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert said in refusal(file)


def test_what_the_file_leaves_open_is_found(arrays: Arrays, tmp_path: Path) -> None:
    """A ViT that pools has its last norm elsewhere: timm's loader leaves that as it was."""
    np.savez(file := tmp_path / "w.npz", **arrays)
    with torch.device("meta"):
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=0,
            global_pool="avg",
        )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"2 tensors of pooled.*\(fc_norm.weight, fc_norm.b"):
        fill(model, file, "pooled")


def test_other_files_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert "swin_tiny_patch4_window7_224 is none" in refusal(file, "swin_tiny_patch4_window7_224")
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


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.marker,)


def test_pickled_arrays_are_not_unpickled(arrays: Arrays, tmp_path: Path) -> None:
    marker, scale = tmp_path / "ran", arrays[f"{FIRST}LayerNorm_0/scale"]
    pickled: Any = np.full(scale.shape, Malicious(marker), dtype=object)
    arrays[f"{FIRST}LayerNorm_0/scale"] = pickled
    np.savez(file := tmp_path / "w.npz", **arrays)
    assert "Object arrays cannot be loaded" in refusal(file)
    assert not marker.exists()
