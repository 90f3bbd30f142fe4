"""The frozen backbone of a pool: its inputs, and its first blocks computed once per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from adapters.attach import attached
from adapters.backbones import find_sites
from adapters.float8 import Float8Linear
from adapters.partial_forward import begin, finish
from orchestrator.backbones import Backbone, copy_of, meta_copy
from orchestrator.engine import memory
from orchestrator.engine.input import AnySplit, DeviceSplit, Normaliser
from orchestrator.engine.roofline import Flops, count_flops
from orchestrator.engine.views import View
from orchestrator.errors import BackendError

_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "amp": torch.float32,
    "fp8": torch.bfloat16,
}
"""Of the frozen weights, by precision."""
_FLOAT8 = (8, 9)
"""The least compute capability of a GPU with float8 matrix units."""
_CHUNK = 256  # images computed at once
_SHARE = 0.25
"""Of the free memory, the part that the kept prefix of one split may take."""

SHORT = 32
"""Tokens up to which unfused attention is faster on a CPU. Measured forward and backward, a whole
attention module: 17 and 26 tokens in heads of 16 channels take 14 to 17 % less time; 50 or more
tokens, or heads of 64 channels, as long or longer."""


class FrozenBackbone:
    """One backbone in one precision and normalisation, on a device; `amp`: products in bf16.

    A *cut* says which outputs of the frozen model are kept: a block's index (the input of that
    block), depth + 1 (the features) or None (none: computation starts from images). Of the blocks
    `reads` (`Adapter.reads`) those before the cut have their inputs kept with it. What is *begun*
    is the inputs of these blocks in their order, and last what the cut gives (or the images).
    """

    def __init__(
        self, model: nn.Module, normalise: Normaliser, side: int, name: str, amp: bool
    ) -> None:
        self.model, self.name, self.dtype = model.eval(), name, normalise.dtype
        self._amp = amp
        self.sites = find_sites(model)
        self._normalise, self._side = normalise, side

    @property
    def features(self) -> int:
        """The cut after the whole backbone."""
        return self.sites.depth + 1

    def inputs(self, images: Tensor, view: View) -> Tensor:
        """The backbone's input (N, 3, side, side), from uint8 images (N, 3, S, S)."""
        return self._normalise(images, view)

    def keeps(self, split: AnySplit, cut: int | None, reads: Sequence[int] = ()) -> bool:
        """Whether the prefix of a split up to `cut` is kept, or worth keeping.

        Features always are. Tokens are if at least one block precedes them, the split is on the
        device and they fit.
        """
        if cut is None:
            return False
        missing = [block for block in _kept(cut, reads) if (self.name, block) not in split.prefixes]
        if cut == self.features or not missing:
            return True
        if not cut or not isinstance(split, DeviceSplit):
            return False
        size = len(split) * sum(self._bytes(missing))
        return size <= _SHARE * memory.free(split.labels.device)

    @torch.no_grad()
    def prefix(self, split: AnySplit, cut: int, reads: Sequence[int] = ()) -> list[Tensor]:
        """What all images of a split have begun with at `cut`; computed once, kept there."""
        keys = [(self.name, block) for block in _kept(cut, reads)]
        missing = [key for key in keys if key not in split.prefixes]
        if missing:
            blocks = [block for _, block in missing]
            parts = [self._begun(*chunk, blocks) for chunk in split.chunks(_CHUNK)]
            for key, part in zip(missing, zip(*parts, strict=True), strict=True):
                split.prefixes[key] = torch.cat(part)
        return [split.prefixes[key] for key in keys]

    @torch.no_grad()
    def chunks(
        self, split: AnySplit, cut: int | None, size: int, reads: Sequence[int] = ()
    ) -> Iterator[Sequence[Tensor]]:
        """What all images have begun with at `cut`, `size` at a time; kept if worth it."""
        if cut is not None and self.keeps(split, cut, reads):
            parts = (torch.split(tensor, size) for tensor in self.prefix(split, cut, reads))
            yield from zip(*parts, strict=True)
            return
        for images, view in split.chunks(size):
            yield self._begun(images, view, [] if cut is None else _kept(cut, reads))

    def logits(
        self,
        model: nn.Module,
        begun: Sequence[Tensor],
        cut: int | None,
        reads: Sequence[int] = (),
    ) -> Tensor:
        """Logits (K·B, classes) of the adapted `model`, from what has begun (K·B, …) at `cut`."""
        last = begun[-1]
        with self._autocast(last.device):
            if cut is None:
                output: Tensor = model(last)
                return output
            stack = attached(model)
            stack.prepare(len(last), self.dtype)  # the patch embedding, skipped, would do it
            if cut == self.features:
                return stack.logits(last)
            return finish(model, begun, _kept(cut, reads))

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self._amp)

    @cached_property
    def flops(self) -> Flops:
        """Floating-point operations of the backbone, per image."""
        return count_flops(self._meta, self._blank, self.sites)

    @cached_property
    def _meta(self) -> nn.Module:
        return meta_copy(self.model)

    @property
    def _blank(self) -> Tensor:
        """One input on the device `meta`."""
        return torch.empty(1, 3, self._side, self._side, dtype=self.dtype, device="meta")

    def _begun(self, images: Tensor, view: View, blocks: Sequence[int]) -> list[Tensor]:
        """What the blocks are given; features (N, D) for depth + 1, inputs for no block at all."""
        inputs = self.inputs(images, view)
        if not blocks:
            return [inputs]
        with self._autocast(inputs.device):
            if blocks[-1] == self.features:
                output: Tensor = self.model(inputs)
                return [output.float()]  # heads are fp32
            return begin(self.model, inputs, blocks)

    def _bytes(self, blocks: Sequence[int]) -> list[int]:
        """Bytes of one image's tokens at each block."""
        with torch.no_grad():
            tokens = begin(self._meta, self._blank, blocks)
        return [one.numel() * one.element_size() for one in tokens]


def _kept(cut: int, reads: Sequence[int]) -> list[int]:
    return [*(block for block in reads if block < cut), cut]


class FrozenBackbones:
    """A pool's backbone on its device: weights once per precision, `FrozenBackbone` per recipe."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.sites = find_sites(backbone.model)
        self._backbone, self._device = backbone, device
        self._models: dict[str, nn.Module] = {}
        self._made: dict[str, FrozenBackbone] = {}

    def get(self, precision: str, normalisation: str) -> FrozenBackbone:
        """`BackendError` if the device does not support the precision."""
        name = f"{precision} {normalisation}"
        if name not in self._made:
            dtype, side = _DTYPES[precision], self._backbone.image_size
            statistics = self._backbone.normalisation(normalisation)
            normalise = Normaliser(statistics, side, self._device, dtype)
            self._made[name] = FrozenBackbone(
                self._model(precision), normalise, side, name, amp=precision == "amp"
            )
        return self._made[name]

    def _model(self, precision: str) -> nn.Module:
        if precision not in self._models:
            _check_precision(precision, self._device)
            model = copy_of(self._backbone.model, self._device, _DTYPES[precision])
            choose_attention(model, self._device)
            if precision == "fp8":
                for site in self.sites.linears:
                    layer: Any = model.get_submodule(site.path)
                    exact: Any = self._backbone.model.get_submodule(site.path)
                    model.set_submodule(site.path, Float8Linear(layer, exact.weight))
            self._models[precision] = model
        return self._models[precision]


def choose_attention(model: nn.Module, device: torch.device) -> None:
    """Switch a ViT's attention to timm's unfused one on a CPU if its sequences are short."""
    prefix = getattr(model, "num_prefix_tokens", None)  # Swin has none: its windows are larger
    if device.type != "cpu" or prefix is None:
        return
    vit: Any = model
    if vit.patch_embed.num_patches + prefix > SHORT:
        return
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "fp32" or device.type != "cuda":
        return
    name = torch.cuda.get_device_name(device)
    if not torch.cuda.is_bf16_supported(False):
        raise BackendError(
            f"{name} ({device}) has no bf16, which {precision} needs; use --precision fp32."
        )
    if precision == "fp8" and torch.cuda.get_device_capability(device) < _FLOAT8:
        raise BackendError(f"{name} ({device}) has no float8 products; use --precision bf16.")
