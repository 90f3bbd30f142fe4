"""Views of images: a box of each original, resampled to the backbone's input size.

Images are stored as squares, stretched from originals of any height and width. A box (top, left,
height, width) is in fractions of the original, hence of the stored square as well.

Shapes: N images, S stored side.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.errors import unknown

AREAS = (0.08, 1.0)
"""Range of a random crop's area, as a fraction of the original (uniform)."""
ASPECTS = (3 / 4, 4 / 3)
"""Range of a random crop's width / height in original pixels (uniform in the logarithm)."""
CENTRE = 7 / 8
"""Side of the central square / shorter side: 224 / 256 of the papers' Resize and CenterCrop."""
WHOLE_BOX = (0.0, 0.0, 1.0, 1.0)
ATTEMPTS = 10
"""Random crops drawn per image; the first that fits is taken."""

_SLICE = 64  # images resampled at once: bounds the memory of their weights


class View(NamedTuple):
    """The part of N images that is read, on the images' device.

    boxes (N, 4), or (1, 4) for all; None: whole images. flips (N,) bool; None: no flips.
    """

    boxes: Tensor | None = None
    flips: Tensor | None = None


WHOLE = View()


def evaluation_view(name: str, sizes: Tensor) -> View:
    """The view of an evaluation, `whole` or `centre`, of images of sizes (N, 2) in pixels."""
    if name == "whole":
        return WHOLE
    if name == "centre":
        return View(centre(sizes))
    raise unknown("view", name, ("whole", "centre"))


def centre(sizes: Tensor) -> Tensor:
    """Central squares of 7/8 of the shorter side, not rounded to pixels.

    Boxes (N, 4) fp64 for sizes (N, 2), heights and widths in pixels.
    """
    extent = sizes.double()
    side = CENTRE * extent.amin(1, keepdim=True)
    return torch.cat([(extent - side) / 2 / extent, side / extent], dim=1)


def random_crop(sizes: Tensor, uniform: Tensor) -> Tensor:
    """Random boxes of whole original pixels, distributed as torchvision's RandomResizedCrop.

    The first attempt that fits into the image, else the largest central box of an allowed aspect.
    Source: `torchvision.transforms.RandomResizedCrop.get_params`.

    Args:
        sizes: (N, 2), heights and widths in pixels.
        uniform: (4, attempts, N) fp64 in [0, 1), the random numbers.

    Returns:
        Boxes (N, 4) fp64.
    """
    extent = sizes.double()
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * uniform[0]) * extent.prod(1)
    low, high = map(log, ASPECTS)
    aspect = torch.exp(low + (high - low) * uniform[1])
    shape = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=-1).round()
    corner = (torch.stack([uniform[2], uniform[3]], dim=-1) * (extent - shape + 1)).floor()
    fits = ((shape >= 1) & (shape <= extent)).all(-1)
    first = fits.to(torch.uint8).argmax(0)
    drawn = torch.cat([corner, shape], dim=-1)[first, torch.arange(len(sizes), device=sizes.device)]
    boxes = torch.where(fits.any(0).unsqueeze(1), drawn, _central(extent))
    return boxes / extent.repeat(1, 2)


def resample(images: Tensor, boxes: Tensor, flip: Tensor | None, side: int) -> Tensor:
    """Crop boxes and resize them: bicubic (a = −1/2) with antialiasing, as Pillow does.

    A result pixel is the normalised sum of the stored pixels whose centres lie inside the box,
    weighted by the kernel around its own centre. The kernel widens with the shrinking factor. A box
    of whole stored pixels therefore gives the same result as cropping first.

    Args:
        images: (N, 3, S, S), any dtype, values in [0, 255].
        boxes: (N, 4) fractions, or (1, 4) for all images; on the images' device.
        flip: (N,) bool, mirrors left to right; None: no image.
        side: of the result in pixels.

    Returns:
        (N, 3, side, side) fp32 in [0, 255].
    """
    stored = images.shape[-1]
    top, left, height, width = boxes.unbind(1)
    rows = torch.stack([top, height, top, height], dim=1)
    columns = torch.stack([left, width, left, width], dim=1)
    if flip is not None:  # a mirrored row runs from the right edge to the left
        mirrored = torch.stack([left + width, -width, left, width], dim=1)
        columns = torch.where(flip.unsqueeze(1), mirrored, columns)
    if len(columns) == 1:
        wy, wx = (_weights(spans, stored, side)[0] for spans in (rows, columns))
        return torch.cat([_apply(part, wy, wx) for part in torch.split(images, _SLICE)])
    rows = rows.expand_as(columns)
    parts = zip(*(torch.split(every, _SLICE) for every in (images, rows, columns)), strict=True)
    return torch.cat(
        [_apply(part, *(_weights(s, stored, side) for s in (r, c))) for part, r, c in parts]
    )


def _central(extent: Tensor) -> Tensor:
    """Largest central boxes of an allowed aspect: (N, 4) pixels for extents (N, 2)."""
    height, width = extent.unbind(1)
    low, high = ASPECTS
    shape = torch.stack(
        [
            torch.where(width / height < low, (width / low).round(), height),
            torch.where(width / height > high, (height * high).round(), width),
        ],
        dim=1,
    )
    return torch.cat([((extent - shape) / 2).floor(), shape], dim=1)


def _weights(spans: Tensor, stored: int, side: int) -> Tensor:
    """Resampling matrices (N, side, S) of one axis.

    spans (N, 4): start and signed length of the result's pixels, lower end and length of the box.
    """
    device = spans.device
    start, run, low, length = (stored * spans).float().unsqueeze(-1).unbind(1)
    step = run / side
    centres = start + (torch.arange(side, device=device) + 0.5) * step
    pixels = torch.arange(stored, device=device) + 0.5
    distance = (pixels - centres.unsqueeze(-1)) / step.abs().clamp(min=1).unsqueeze(-1)
    # The pixel in the middle always counts: a box may lie between two pixel centres.
    middle = (low + length / 2).floor().clamp(0, stored - 1) + 0.5
    inside = ((pixels >= low) & (pixels <= low + length)) | (pixels == middle)
    weights = _kernel(distance.abs()) * inside.unsqueeze(1)
    return weights / weights.sum(-1, keepdim=True)


def _kernel(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = −1/2 at distances x ≥ 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _apply(images: Tensor, wy: Tensor, wx: Tensor) -> Tensor:
    """wy · image · wxᵀ for every image (N, 3, S, S); matrices (N, side, S), or one for all."""
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    count, _, stored, _ = pixels.shape
    side = wx.shape[-2]
    narrow = (pixels.flatten(1, 2) @ wx.mT).view(count, 3, stored, side)
    short = (wy @ narrow.transpose(1, 2).flatten(2)).view(count, side, 3, side)
    return short.transpose(1, 2).clamp(0, 255).contiguous()
