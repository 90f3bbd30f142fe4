"""Parameter counts that the papers and docstrings state, and how heads start.

The counts at the defaults are those of docs/methods.md, which tests/test_methods.py compares.
"""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from adapters import Adapter, attach, attached, get
from adapters.arc import ARC
from adapters.backbones import find_sites
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.efft import EFFT1, EFFT2
from adapters.fact import FactTK, FactTT
from adapters.full import Full, Partial
from adapters.heads import LinearProbe
from adapters.hta import HTA, HTAAdapter
from adapters.lora import LoRA
from adapters.noah import NOAH
from adapters.per_feature import SSF, BitFit
from adapters.rlrr import RLRR
from adapters.side import DTL, LAST
from adapters.sites import Sites
from adapters.stack import start_member
from adapters.vpt import VPTDeep, VPTShallow
from tests.adapters.claims import CLAIMS
from tests.adapters.models import WIDTH, vit, vit_b16

COUNTS: list[tuple[Adapter, int]] = [
    (Full(layers=(0, 11)), 14_175_744),
    (Partial(blocks=4), 4 * 7_087_872 + 1_536),
    (BitFit(sites=("mhsa",)), 12 * 5 * 768),
    (BitFit(sites=("q", "v"), layers=(3,)), 3 * 768),
    (VPTShallow(prompts=50), 38_400),
    (VPTDeep(prompts=1), 9_216),
    (Bottleneck(position="houlsby"), 313_536),
    (Bottleneck(layers=(0, 1, 2)), 39_192),
    (AdaptFormer(sites=("mhsa", "ffn")), 313_536),
    (SSF(sites=("ffn",), layers=(9, 10, 11)), 2 * 3 * 6 * 768),
    (FactTT(sites=("q", "v")), 30_720),
    (FactTT(sites=("fc1",), layers=(3,)), 25_600),
    (FactTK(sites=("mhsa",)), 83_456),
    (EFFT1(rank=32), 159_744),
    (EFFT1(rank2=32), 129_024),
    (EFFT1(sites=("q", "v")), 39_936),
    (EFFT1(sites=("ffn",), layers=(9, 10, 11)), 62_976),
    (EFFT2(rank=32), 245_760),
    (EFFT2(ffn_rank=32), 184_320),
    (EFFT2(ffn_rank2=32), 159_744),
    (EFFT2(cores="shared"), 87_552),
    (EFFT2(sites=("mhsa",)), 36_864),
    (EFFT2(sites=("ffn",), layers=(9, 10, 11)), 62_976),
    (HTA(rank=0), 110_592),
    (HTA(rank=2), 258_048),
    (HTA(rank=4), 405_504),
    (HTA(sites=("q", "v")), 92_160),
    (HTA(sites=("fc1",)), 101_376),
    (HTAAdapter(sites=("ffn",)), 46_080),
    (ARC(rank=8, sites=("mhsa",), layers=(0, 1)), 8 * 768 + 2 * (8 + 768)),
    (RLRR(sites=("mhsa",), layers=(0,)), (4 * 3 + 2) * 768),
    (NOAH(prompts=5, rank=1, hidden=0), 82_944),
    (NOAH(prompts=1, rank=5, hidden=10), 12 * (768 + 3_072 * 5 + 1_537 * 10 + 768)),
    (
        NOAH(prompts=1, rank=5, hidden=10, prompts_depth=3, rank_depth=6, hidden_depth=9),
        3 * 768 + 6 * 5 * 3_072 + 9 * (10 * 1_537 + 768),
    ),
    (LoRA(rank=4, sites=("ffn",)), 368_640),
    (DTL(kernel=3), 43_776),
    (DTL(rank=4, layers=(6, 11)), 2 * 4 * 2 * 768),
    (LAST(rank=8, gap=2, repeats=3), 6 * 3 * (4 * 8 * 768 + 2 * 768)),
]
STATED = {
    "adapter": ("313,536",), "efft1": ("159,744",), "efft2": ("245,760", "87,552"),
    "hta": ("92,160",), "hta_adapter": ("46,080",), "linear": ("count 0",), "mlp_head": ("count",),
    "noah": ("768p + 3,072r", "1,537h + 768"), "partial": ("7,087,872", "1,536"),
    "vpt_shallow": ("768·p",), "vpt_deep": ("12·768·p",),
}  # fmt: skip
"""What docstrings state beside, or instead of, the count at the defaults."""


@pytest.fixture(scope="module")
def sites() -> Sites:
    return vit_b16()


@pytest.mark.parametrize(("adapter", "figure"), COUNTS)
def test_counts(adapter: Adapter, figure: int, sites: Sites) -> None:
    with torch.device("meta"):
        assert start_member(adapter, sites, 0, None).trained_count == figure


@pytest.mark.parametrize("name", CLAIMS)
def test_docstrings_state_the_counts(name: str) -> None:
    text, formulas = str(get(name).__doc__), ("linear", "mlp_head", "partial", "vpt_")
    default = () if name.startswith(formulas) else (f"{CLAIMS[name].count:,}",)
    assert all(figure in text for figure in (*default, *STATED.get(name, ())))


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


def test_vpts_head_is_that_of_its_code() -> None:
    """Kaiming normal over the fan out: deviation √(2/classes), whatever the width."""
    for classes in (10, 400):
        weight, bias = (
            start_member(VPTDeep(), find_sites(vit()), 3, classes, "kaiming").tensors[name]
            for name in ("head.weight", "head.bias")
        )
        assert weight.std().item() == pytest.approx(sqrt(2 / classes), rel=0.1)
        assert 0 < bias.abs().max() <= 1 / sqrt(WIDTH)
    assert not VPTDeep.decays_head_bias


def test_without_num_classes_the_models_own_head_trains() -> None:
    model = vit(6)
    tensors = attached(attach(vit(6), LoRA())).tensors_of(0)
    assert torch.equal(tensors["head.weight"], model.get_parameter("head.weight"))
    assert torch.equal(tensors["head.bias"], model.get_parameter("head.bias"))
