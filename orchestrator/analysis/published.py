"""Published tables of VTAB-1k and FGVC as frozen records, read from `published/*.csv`.

The authors' scripts keep the best test accuracy over epochs and configurations: these results were
selected on the test split.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_TITLES = {
    "EFFT": "Aggregate, Decompose, and Fine-Tune (EFFT), arXiv 2311.06749",
    "HTA": "Efficient Adaptation of Pre-trained Vision Transformer via Householder Transformation "
    "(HTA), arXiv 2410.22952",
}


@dataclass(frozen=True)
class PublishedBackbone:
    """A backbone of the papers: their name for it, and the timm tags of the same weights."""

    label: str
    architecture: str
    tags: tuple[str, ...]


VIT_B = PublishedBackbone("ViT-B/16, ImageNet-21k", "vit_base_patch16_224", ("orig_in21k",))
VIT_B_AUGREG = PublishedBackbone(
    "ViT-B/16, ImageNet-21k AugReg", "vit_base_patch16_224", ("augreg_in21k",)
)
VIT_L = PublishedBackbone("ViT-L/16, ImageNet-21k", "vit_large_patch16_224", ("orig_in21k",))
SWIN_B = PublishedBackbone("Swin-B, ImageNet-22k", "swin_base_patch4_window7_224", ("ms_in22k",))
_BACKBONES = {"vit_b16": VIT_B, "vit_l16": VIT_L, "swin_b": SWIN_B}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table; `source` is the title of `paper` with arXiv id and table.

    `method` is the name of our adapter, `variant` the paper's change of it (`r16`: that rank in
    every task; `qv`: on those sites; `augreg`: other weights), empty for the paper's main row.
    `params_m` are millions of trainable parameters as printed, `with_head` if they include the
    head. `accuracy` (task → [0, 1]) is top-1 on test; `printed` holds the paper's own means by
    their column names, in [0, 1].
    """

    paper: str
    source: str
    backbone: PublishedBackbone
    method: str
    variant: str
    params_m: float
    with_head: bool
    accuracy: Mapping[str, float]
    printed: Mapping[str, float]

    @property
    def name(self) -> str:
        """`method`, with its variant if it has one."""
        return f"{self.method} {self.variant}".strip()

    @property
    def is_plain(self) -> bool:
        """Whether it is the paper's main row of the adapter (on one of its backbones)."""
        return self.variant in ("", "augreg")


@dataclass(frozen=True)
class _Source:
    """A file of `published/`. `headless` rows print parameters without the head; * is all."""

    file: str
    paper: str
    tables: str
    headless: tuple[str, ...]


_SOURCES: Mapping[str, tuple[_Source, ...]] = {
    "vtab": (
        _Source("vtab1k_vit_b16_efft_paper.csv", "EFFT", "table 1", ("*",)),
        _Source(
            "vtab1k_hta_paper.csv",
            "HTA",
            "tables 1 and 4 to 7",
            (
                *("vit_b16/hta_qv", "vit_b16/hta_qv_ffn", "vit_b16/hta_ffn"),
                *("vit_l16/lora", "vit_l16/arc", "swin_b/hta"),
            ),
        ),
    ),
    "fgvc": (
        _Source(
            "fgvc_vit_b16_hta_paper.csv",
            "HTA",
            "table 2",
            ("vit_b16/adapter", "vit_b16/lora", "vit_b16/arc", "vit_b16/arc_augreg"),
        ),
    ),
}
_ABOUT = ("backbone", "method", "params_m")
_MEAN = re.compile(r"(.+_)?(mean|avg|mean_total)")
_VARIANT = re.compile(r"(efft1|efft2|hta|ssf|arc|rlrr)_(.+)")
_OTHER_ADAPTER = {"hta_ffn": ("hta_adapter", "ffn")}
"""The paper's row 'FC1, FC2' has the parameters of the adapter alternative on the FFN."""


@cache
def for_suite(name: str) -> tuple[PublishedRow, ...]:
    """The published rows of a suite, by paper; () for a suite without any."""
    return tuple(row for source in _SOURCES.get(name, ()) for row in _read(source))


def _read(source: _Source) -> list[PublishedRow]:
    text = files("orchestrator.analysis").joinpath("published", source.file).read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [_row(source, values) for values in csv.DictReader(lines)]


def _row(source: _Source, values: Mapping[str, str]) -> PublishedRow:
    backbone, name = values.get("backbone", "vit_b16"), values["method"]
    method, variant = _split(name)
    headless = "*" in source.headless or f"{backbone}/{name}" in source.headless
    figures = {key: value for key, value in values.items() if key not in _ABOUT}
    return PublishedRow(
        paper=source.paper,
        source=f"{_TITLES[source.paper]}, {source.tables}",
        backbone=VIT_B_AUGREG if variant == "augreg" else _BACKBONES[backbone],
        method=method,
        variant=variant,
        params_m=float(values["params_m"]),
        with_head=not headless,
        accuracy={key: _share(one) for key, one in figures.items() if not _MEAN.fullmatch(key)},
        printed={key: _share(one) for key, one in figures.items() if _MEAN.fullmatch(key)},
    )


def _split(name: str) -> tuple[str, str]:
    found = _VARIANT.fullmatch(name)
    return _OTHER_ADAPTER.get(name) or ((found[1], found[2]) if found else (name, ""))


def _share(percent: str) -> float:
    return round(float(percent) / 100, 6)  # 0.891, not 0.8909999999999999
