from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import timm
from timm.models import get_deprecated_models

from orchestrator.backbones import fingerprint, load_backbone
from orchestrator.backbones.names import MINI_FILE, check
from orchestrator.errors import InvalidInput

TINY = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are refused before the hub is asked."""

    def asked(*arguments: object) -> None:
        pytest.fail(f"the hub was asked for {arguments}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", asked)


def refusal(name: str) -> str:
    with pytest.raises(InvalidInput) as error:
        fingerprint(name)
    return str(error.value)


def test_loading_refuses_what_fingerprinting_refuses() -> None:
    for name in ("vit_mimi", TINY, "resnet18"):
        with pytest.raises(InvalidInput) as error:
            load_backbone(name)
        assert str(error.value) == refusal(name)


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
def test_an_unknown_name_is_refused(name: str, fragments: list[str]) -> None:
    message = refusal(name.format(file=MINI_FILE))
    for fragment in fragments:
        assert fragment in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("old", "choices"),
    [
        (
            "vit_base_patch16_224_in21k",
            [
                "changed its meaning",
                "vit_base_patch16_224.orig_in21k (the original weights; EFFT and FacT used them)",
                "or vit_base_patch16_224.augreg_in21k (AugReg's)",
            ],
        ),
        (
            "vit_large_patch16_224_in21k",
            ["vit_large_patch16_224.orig_in21k", "vit_large_patch16_224.augreg_in21k"],
        ),
        ("vit_huge_patch14_224_in21k", ["old name", "write vit_huge_patch14_224.orig_in21k."]),
        (f"{TINY}_in21k", ["old name", f"write {TINY}.augreg_in21k."]),
        (
            "swin_base_patch4_window7_224_in22k",
            ["old name", "write swin_base_patch4_window7_224.ms_in22k."],
        ),
        # timm maps it to a tag that is not there
        ("vit_base_patch32_224_sam", ["old name", "vit_base_patch32_224.sam_in1k"]),
        ("vit_base_patch16_224_in21k.orig_in21k", ["vit_base_patch16_224.orig_in21k ("]),
        ("vit_base_patch16_224_in21k@{file}", ["old name", "write vit_base_patch16_224@FILE."]),
    ],
)
def test_an_old_alias_is_refused_with_what_to_write(old: str, choices: list[str]) -> None:
    message = refusal(old.format(file=MINI_FILE))
    for choice in choices:
        assert choice in message


def test_every_alias_of_the_supported_families_leads_somewhere() -> None:
    for module in ("vision_transformer", "deit", "swin_transformer"):
        for old in get_deprecated_models(module):
            with pytest.raises(InvalidInput, match=r"write \w+\.\w+"):
                check(old)


@pytest.mark.parametrize(
    "tag",
    [
        "vit_base_patch16_224.orig_in21k",
        "vit_large_patch16_224.augreg_in21k",
        "deit_base_patch16_224.fb_in1k",
        "deit3_small_patch16_224.fb_in1k",
        "vit_small_patch14_reg4_dinov2.lvd142m",
        "swin_tiny_patch4_window7_224.ms_in22k",
    ],
)
def test_standard_models_are_supported(tag: str) -> None:
    check(tag)


def test_a_bare_architecture_must_name_its_tag_or_a_file() -> None:
    message = refusal("vit_huge_patch14_224")
    assert "write vit_huge_patch14_224.TAG, with TAG one of mae, orig_in21k" in message
    assert "or vit_huge_patch14_224@FILE" in message


def test_an_architecture_without_weights_on_the_hub_asks_for_a_file() -> None:
    name = "vit_base_patch16_gap_224"
    assert not timm.list_pretrained(f"{name}.*")
    assert f"no weights on the hub; give a file: {name}@FILE, with FILE one of" in refusal(name)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet18", "ResNet"),
        ("resnet18@{file}", "ResNet"),
        ("beit_base_patch16_224.in22k_ft_in22k", "Beit"),
        ("eva02_base_patch14_224.mim_in22k", "Eva"),
        ("swinv2_tiny_window8_256.ms_in1k", "SwinTransformerV2"),
        ("deit_tiny_distilled_patch16_224.fb_in1k", "VisionTransformerDistilled"),
        ("vit_small_patch16_18x2_224@{file}", "ParallelThingsBlock"),
        ("vit_dwee_patch16_reg1_gap_256.sbb_in1k", "DiffAttention"),
        ("vit_giant_patch14_dinov2.lvd142m", "GluMlp"),
    ],
)
def test_other_models_are_refused_by_what_they_have(name: str, part: str) -> None:
    message = refusal(name.format(file=MINI_FILE))
    assert f"it has a {part}" in message
    assert "VisionTransformer (ViT, and DeiT" in message
    assert "SwinTransformer (the first version)" in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.safetensors", "there is no file"),
        ("folder.npz", "there is no file"),
        ("weights.txt", "is no file of weights"),
        ("", "is no file of weights"),
    ],
)
def test_what_is_no_weights_file_is_refused(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_bytes(b"x")
    (tmp_path / "folder.npz").mkdir()
    message = refusal(f"vit_mini@{tmp_path / name}")
    assert f"{tmp_path / name}'" in message
    assert problem in message
    assert "ARCHITECTURE@FILE with FILE one of .safetensors, .pth, .pt, .bin, .npz" in message


def test_a_model_that_timm_has_removed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.models, "get_deprecated_models", lambda: {TINY: None})
    assert f"'{TINY}' is no longer in timm" in refusal(TINY)
