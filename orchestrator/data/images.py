"""From an encoded image to pixels, as the papers' code does it."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width in pixels."""

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes for grey images of more than 8 bits."""

# What it warns of (transparency in a palette, many pixels) is handled here, or an error anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """An image that cannot be decoded whole; the text says why."""


def decode(data: bytes, side: int) -> tuple[Pixels, Size]:
    """The whole image stretched to a square, RGB (side, side, 3), and its size before that.

    Bicubic with antialiasing by Pillow, which is `Resize((side, side), interpolation=3)` of the
    EFFT and FacT scripts. Orientation tags are ignored, as there. Raises `ImageError`.
    """
    picture = load(data)
    small = picture.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small), (picture.height, picture.width)


def load(data: bytes) -> Picture:
    """The decoded image as RGB; `ImageError` if it is damaged, cut off or no image at all."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if picture.mode == "F":
                raise ImageError("it has floating-point values; save it with 8 or 16 bits")
            return _deep(picture) if picture.mode in _DEEP else picture.convert("RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, …
        raise ImageError(_reason(data, error)) from error


def _deep(picture: Picture) -> Picture:
    """Grey of 16 bits scaled to 8; Pillow's own conversion would clip it."""
    values = np.asarray(picture).astype(np.float64)
    grey = np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return "it has more than 179 million pixels; make it smaller"
    return "it is no image that Pillow knows" if "cannot identify" in text else text
