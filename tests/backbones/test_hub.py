from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import timm
from timm.models import get_pretrained_cfg

from orchestrator.backbones import fingerprint, load_backbone
from orchestrator.backbones.hub import _ORIGINALS
from orchestrator.errors import CheckpointError
from orchestrator.storage import files

TAG = "vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer decides: a download would ask again for half a minute."""

    def ask(*_: object, **__: object) -> None:
        raise ConnectionError("no connection")

    def download(*_: object, **__: object) -> str:
        pytest.fail("a download was tried")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def refusal(tag: str) -> str:
    with pytest.raises(CheckpointError) as error:
        fingerprint(tag)
    return str(error.value)


@pytest.mark.parametrize(
    ("tag", "original"),
    [
        (TAG, "https://storage.googleapis.com/vit_models/augreg/Ti_16-i21k-300ep-"),
        (
            "vit_base_patch16_224.orig_in21k",
            "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz",
        ),
        (
            "vit_huge_patch14_224.orig_in21k",
            "https://storage.googleapis.com/vit_models/imagenet21k/ViT-H_14.npz",
        ),
        ("swin_base_patch4_window7_224.ms_in22k", "https://github.com/SwinTransformer/storage/"),
    ],
)
@pytest.mark.usefixtures("unreachable")
def test_an_unreachable_hub_names_what_to_download(tag: str, original: str) -> None:
    message = refusal(tag)
    assert f"download model.safetensors of https://huggingface.co/timm/{tag}" in message
    assert f"--backbone {tag}@/path/to/model.safetensors" in message
    assert f"the original {original}" in message
    file = message.partition("the original ")[2].partition(" ")[0].rpartition("/")[2]
    assert f"--backbone {tag}@/path/to/{file}." in message


@pytest.mark.usefixtures("unreachable")
def test_without_an_original_only_the_hub_is_named() -> None:
    tag = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert not get_pretrained_cfg(tag).url
    assert refusal(tag).endswith(f"--backbone {tag}@/path/to/model.safetensors.")


def test_weights_that_the_hub_does_not_have_are_named_by_their_address() -> None:
    tag = "vit_huge_patch14_gap_224.in1k_ijepa"
    message = refusal(tag)
    assert "not on the Hugging Face hub; download the original https://dl.fbaipublic" in message


def test_every_original_is_of_a_tag_that_timm_has() -> None:
    assert set(_ORIGINALS) <= {*timm.list_pretrained("vit_*.orig_in21k")}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_cached_weights_are_taken_without_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the folders of Hugging Face's cache, as a download leaves them."""

    def download(*_: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    revision, repository = "0" * 40, tmp_path / f"models--timm--{TAG}"
    file = repository / "snapshots" / revision / name
    for path, content in ((repository / "refs" / "main", revision), (file, "weights")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    for form in (TAG, f"timm/{TAG}", f"hf-hub:timm/{TAG}", f"hf_hub:timm/{TAG}"):
        assert fingerprint(form) == files.fingerprint(file)


def test_hub_weights_are_those_of_the_named_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, file = [], tmp_path / "model.safetensors"
    file.write_bytes(b"weights")

    def cached(*arguments: str) -> str:
        asked.append(arguments)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert fingerprint(TAG) == files.fingerprint(file)
    assert asked == [(f"timm/{TAG}", "model.safetensors")]
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        load_backbone(TAG)
