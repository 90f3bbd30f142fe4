"""The frozen backbone as a pool uses it: inputs, and the prefix that is computed once per split."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from adapters.backbones import find_sites
from adapters.partial_forward import begin
from orchestrator.backbones import shadow
from orchestrator.engine import flops, memory
from orchestrator.engine.feed import DeviceSplit, Look, Normaliser, StreamedSplit

_CHUNK = 256  # images computed at once
_SHARE = 0.25
"""Of the memory that is left, how much the prefix of one split may take."""


class Frozen:
    """One backbone in one precision and normalisation, on a device.

    A *cut* says where a prefix ends: a block's number (what that block is given is kept),
    depth + 1 (the features) or None (nothing is kept, images are).
    """

    def __init__(self, model: nn.Module, normalise: Normaliser, side: int, name: str) -> None:
        self.model, self.name, self.dtype = model.eval(), name, normalise.dtype
        self.sites = find_sites(model)
        self._normalise, self._side = normalise, side

    @property
    def features(self) -> int:
        """The cut after everything."""
        return self.sites.depth + 1

    def inputs(self, images: Tensor, look: Look) -> Tensor:
        """What the backbone reads of uint8 images."""
        return self._normalise(images, look)

    def keeps(self, split: DeviceSplit | StreamedSplit, cut: int | None) -> bool:
        """Whether the prefix of a split is kept, or worth being kept.

        Features always; tokens behind at least one block, of a split that is on the device, if they
        fit.
        """
        if cut == self.features or (self.name, cut) in split.prefixes:
            return True
        if not cut or not isinstance(split, DeviceSplit):
            return False
        device = split.labels.device
        return len(split) * self._bytes(cut) <= _SHARE * memory.free(device)

    @torch.no_grad()
    def prefix(self, split: DeviceSplit | StreamedSplit, cut: int) -> Tensor:
        """What the first blocks make of all images of a split, as it looks at them; kept there."""
        place = (self.name, cut)
        if place not in split.prefixes:
            parts = [self._begun(*chunk, cut) for chunk in split.chunks(_CHUNK)]
            split.prefixes[place] = torch.cat(parts)
        return split.prefixes[place]

    @torch.no_grad()
    def chunks(
        self, split: DeviceSplit | StreamedSplit, cut: int | None, size: int
    ) -> Iterator[Tensor]:
        """All images of a split, `size` at a time, up to the cut; kept if that is worth it."""
        if cut is not None and self.keeps(split, cut):
            yield from torch.split(self.prefix(split, cut), size)
            return
        for images, look in split.chunks(size):
            yield self._begun(images, look, cut)

    @cached_property
    def flops(self) -> flops.Flops:
        """Counted once."""
        return flops.count(self._shadow, self._blank, self.sites)

    @cached_property
    def _shadow(self) -> nn.Module:
        """The model without its data."""
        return shadow(self.model)

    @property
    def _blank(self) -> Tensor:
        """An image for it."""
        return torch.empty(1, 3, self._side, self._side, dtype=self.dtype, device="meta")

    def _begun(self, images: Tensor, look: Look, cut: int | None) -> Tensor:
        inputs = self.inputs(images, look)
        if cut is None:
            return inputs
        if cut == self.features:
            output: Tensor = self.model(inputs)
            return output.float()  # heads are fp32
        return begin(self.model, inputs, cut)

    def _bytes(self, cut: int) -> int:
        """Of one image at a cut."""
        with torch.no_grad():
            one = begin(self._shadow, self._blank, cut)
        return one.numel() * one.element_size()
