"""Parameter counts and initial values, against METHODS.md's formulas and figures."""

from __future__ import annotations

from math import sqrt

import pytest
import timm
import torch

from adapters import Adapter, attach, attached
from adapters.arc import ARC
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.efft import EFFT1, EFFT2
from adapters.fact import FactTK, FactTT
from adapters.full import Full, Partial
from adapters.heads import LinearProbe, MLPHead
from adapters.hta import HTA, HTAAdapter
from adapters.lora import LoRA
from adapters.noah import NOAH
from adapters.per_feature import SSF, BitFit
from adapters.rlrr import RLRR
from adapters.sites import Sites
from adapters.stack import start_member
from adapters.vpt import VPTDeep, VPTShallow
from tests.adapters.models import ADAPTERS, DEPTH, WIDTH, vit

D, L = 768, 12


@pytest.fixture(scope="module")
def vit_b16() -> Sites:
    with torch.device("meta"):
        return find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))


def started(adapter: Adapter, sites: Sites | None = None) -> Tensors:
    sites = sites or find_sites(vit())
    return adapter.start(adapter.select(sites), torch.Generator().manual_seed(0))


def efft2(r: int, f: int) -> int:
    return 2 * D * r + 4 * L * r * r + 5 * D * f + 2 * L * f * f


def hta(r: int, parts: int) -> int:
    return L * parts * (2 * D * r + 3 * D)


BLOCK = 12 * D * D + 13 * D  # 4 D×D, two D×4D; biases 3 + 1 + 4 + 1, two norms of 2
PATCH = 3 * 16 * 16


def noah(p: int, r: int, h: int) -> int:
    return D * p + 4 * D * r + (2 * D * h + h + D if h else 0)


COUNTS: list[tuple[Adapter, int, int]] = [
        (LinearProbe(), 0, 0),
        (MLPHead(), 0, 0),
        (Full(), L * BLOCK + PATCH * D + D + 197 * D + D + 2 * D, 85_798_656),
        (Full(layers=(0, 11)), 2 * BLOCK, 14_175_744),
        (Partial(), BLOCK + 2 * D, 7_087_872 + 1_536),
        (Partial(blocks=4), 4 * BLOCK + 2 * D, 4 * 7_087_872 + 1_536),
        (BitFit(), L * 11 * D + 2 * D, 102_912),
        (VPTShallow(prompts=10), 10 * D, 7_680),
        (VPTDeep(prompts=10), L * 10 * D, 92_160),
        (Bottleneck(hidden=8), L * (2 * D * 8 + 8 + D), 156_768),
        (Bottleneck(hidden=8, position="houlsby"), 2 * L * (2 * D * 8 + 8 + D), 313_536),
        (AdaptFormer(hidden=8), L * (2 * D * 8 + 8 + D), 156_768),
        (SSF(), L * 2 * 11 * D + 4 * D, 205_824),
        (FactTT(rank=16), 2 * D * 16 + 12 * L * 256, 61_440),
        (FactTK(rank=32), 2 * D * 32 + 32**3 + 12 * L * 32, 86_528),
        (EFFT1(rank=16), D * 16 + 4 * D * 16 + 3 * L * 256, 70_656),
        (EFFT1(rank=32), D * 32 + 4 * D * 32 + 3 * L * 1024, 159_744),
        (HTAAdapter(sites=("ffn",)), L * 5 * D, 46_080),
        (HTAAdapter(), 2 * L * 5 * D, 92_160),
        (ARC(rank=50), 2 * D * 50 + 2 * L * (50 + D), 96_432),
        (RLRR(), L * (18 + 9 + 4) * D + 4 * D, 288_768),
        (NOAH(prompts=10, rank=10, hidden=10), L * noah(10, 10, 10), 654_456),
        (NOAH(prompts=5, rank=1, hidden=0), L * noah(5, 1, 0), 82_944),
        (
            NOAH(prompts=1, rank=5, hidden=10, prompts_depth=3, rank_depth=6, hidden_depth=9),
            3 * noah(1, 0, 0) + 6 * noah(0, 5, 0) + 9 * noah(0, 0, 10),
            3 * 768 + 6 * 5 * 3_072 + 9 * (10 * 1_537 + 768),
        ),
        (LoRA(rank=8), L * 2 * 2 * D * 8, 294_912),
        (LoRA(rank=4, sites=("ffn",)), L * 2 * 5 * D * 4, 368_640),
        (EFFT2(rank=16), efft2(16, 16), 104_448),
        (EFFT2(rank=32), efft2(32, 32), 245_760),
        (EFFT2(rank=16, ffn_rank=32), efft2(16, 32), 184_320),
        (EFFT2(rank=16, cores="shared"), 7 * D * 16 + 6 * 256, 87_552),
        (EFFT2(rank=16, sites=("mhsa",)), 2 * D * 16 + 4 * L * 256, 36_864),
        (EFFT2(rank=16, sites=("ffn",), layers=(9, 10, 11)), 5 * D * 16 + 6 * 256, 62_976),
        (HTA(rank=0), hta(0, 4), 110_592),
        (HTA(rank=1), hta(1, 4), 184_320),
        (HTA(rank=2), hta(2, 4), 258_048),
        (HTA(rank=4), hta(4, 4), 405_504),
        (HTA(rank=1, sites=("q", "v")), hta(1, 2), 92_160),
        (HTA(rank=1, sites=("fc1",)), L * (5 * D + D + 5 * D), 101_376),
]  # fmt: skip


@pytest.mark.parametrize(("adapter", "formula", "figure"), COUNTS)
def test_counts(adapter: Adapter, formula: int, figure: int, vit_b16: Sites) -> None:
    counted = {
        name: tensor
        for name, tensor in started(adapter, vit_b16).items()
        if not name.startswith(("head.", "state."))
    }
    assert sum(t.numel() for t in counted.values()) == formula == figure


def test_every_adapter_is_counted() -> None:
    assert {adapter.name for adapter, _, _ in COUNTS} == {adapter.name for adapter in ADAPTERS}


def test_full_counts_what_the_model_has() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    assert sum(p.numel() for p in model.parameters()) == 85_798_656


@pytest.mark.parametrize(
    ("cls", "figures"),
    [
        (Full, ("85,798,656",)),
        (Partial, ("7,087,872", "1,536")),
        (BitFit, ("102,912",)),
        (VPTShallow, ("768·p",)),
        (VPTDeep, ("12·768·p",)),
        (Bottleneck, ("156,768", "313,536")),
        (AdaptFormer, ("156,768",)),
        (SSF, ("205,824",)),
        (FactTT, ("61,440",)),
        (FactTK, ("86,528",)),
        (EFFT1, ("70,656", "159,744")),
        (HTAAdapter, ("46,080",)),
        (ARC, ("96,432",)),
        (RLRR, ("288,768",)),
        (NOAH, ("768p + 3,072r", "1,537h + 768")),
        (LoRA, ("294,912",)),
        (EFFT2, ("104,448", "245,760")),
        (HTA, ("184,320", "92,160")),
        (LinearProbe, ("count 0",)),
    ],
)
def test_docstrings_state_the_counts(cls: type[Adapter], figures: tuple[str, ...]) -> None:
    assert all(figure in str(cls.__doc__) for figure in figures)


def spans(tensor: torch.Tensor, bound: float) -> bool:
    """Uniform on ±bound, as far as its values can tell."""
    largest = tensor.abs().max().item()
    return 0.9 * bound < largest <= bound and abs(tensor.mean().item()) < 0.2 * bound


def test_lora_starts_like_nn_linear() -> None:
    tensors = started(LoRA(rank=8, sites=("q", "fc2")))
    assert len(tensors) == 4 * DEPTH
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            assert not tensor.any()
        else:
            assert spans(tensor, 1 / sqrt(4 * WIDTH if "fc2" in name else WIDTH))


@pytest.mark.parametrize("init", ["vv", "vu", "uv", "uu"])
@pytest.mark.parametrize(("cores", "counts"), [("per_layer", (4, 2)), ("shared", (4, 2))])
def test_efft2_starts_at_zero_in_the_named_factor(
    init: str, cores: str, counts: tuple[int, int]
) -> None:
    tensors = started(EFFT2(rank=8, ffn_rank=6, init=init, cores=cores))
    wide = {"mhsa": (WIDTH, WIDTH, 8), "ffn": (WIDTH, 4 * WIDTH, 6)}
    for group, letter, slices in zip(("mhsa", "ffn"), init, counts, strict=True):
        inputs, out, rank = wide[group]
        n = slices * (DEPTH if cores == "per_layer" else 1)
        u, core, v = (tensors[f"{group}.{name}"] for name in ("U", "core", "V"))
        assert u.shape == (inputs, rank)
        assert core.shape == (n, rank, rank)
        assert v.shape == (rank, out)
        assert spans(core, sqrt(6 / (n * 2 * rank)))
        assert spans(v, sqrt(6 / (rank + out))) if letter == "u" else not v.any()
        assert spans(u, sqrt(6 / (rank + inputs))) if letter == "v" else not u.any()


def test_hta_starts_at_the_identity() -> None:
    for name, tensor in started(HTA(rank=4, sites=("k", "fc1"))).items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("B", "d"):
            assert not tensor.any()
        elif kind == "A":
            assert spans(tensor, 1 / sqrt(WIDTH))
        else:
            assert tensor.norm().item() == pytest.approx(sqrt(2), abs=1e-6)


@pytest.mark.parametrize(
    ("adapter", "head_init", "zero"),
    [
        (LoRA(), "default", False),
        (LoRA(), "zero", True),
        (LinearProbe(), "default", True),
        (LinearProbe(), "zero", True),
    ],
)
def test_heads(adapter: Adapter, head_init: str, zero: bool) -> None:
    tensors = start_member(adapter, find_sites(vit()), 0, 9, head_init).tensors
    for tensor in (tensors["head.weight"], tensors["head.bias"]):
        assert not tensor.any() if zero else 0 < tensor.abs().max() <= 1 / sqrt(WIDTH)


def test_without_num_classes_the_models_own_head_trains() -> None:
    model = vit(6)
    stack = attached(attach(vit(6), LoRA()))
    assert torch.equal(stack.tensors_of(0)["head.weight"], model.get_parameter("head.weight"))
    assert torch.equal(stack.tensors_of(0)["head.bias"], model.get_parameter("head.bias"))
