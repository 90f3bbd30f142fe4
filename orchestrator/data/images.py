"""Encoded images to pixels, as the papers' code does it, on all cores."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

S = TypeVar("S")
T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width in pixels."""

AHEAD = 256
"""Results that `map_ahead` holds in memory at most."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, and hands some (EPS) to other programs."""
MAX_PIXELS = 50_000_000
"""Of one image: decoding takes five bytes for each, on every core at once."""

_GREY_16_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes for grey images of more than 8 bits; "I" may hold 32."""

# What it warns of (transparency in a palette, …) is handled here, or an error anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """An image that cannot be decoded completely; the text says why."""


def decode(data: bytes, side: int) -> tuple[Pixels, Size]:
    """The whole image stretched to a square, RGB (side, side, 3), and its size before that.

    Bicubic with antialiasing by Pillow, which is `Resize((side, side), interpolation=3)` of the
    EFFT and FacT scripts. Orientation tags are ignored, as there. Raises `ImageError`.
    """
    picture = load(data)
    small = picture.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small), (picture.height, picture.width)


def load(data: bytes) -> Picture:
    """The decoded image as RGB; `ImageError` if it is damaged, cut off or not an image."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError(
                    f"it has {picture.width} × {picture.height} pixels; at most "
                    f"{MAX_PIXELS // 10**6} million are decoded: make it smaller"
                )
            picture.load()
            if picture.mode == "F":
                raise ImageError("it has floating-point values; save it with 8 or 16 bits")
            if picture.mode in _GREY_16_BIT:
                # Scaled to 8 bits; Pillow's own conversion would clip.
                values = np.asarray(picture).astype(np.float64)
                if values.min() < 0 or values.max() > 65535:
                    raise ImageError("it is grey with 32 bits; save it with 8 or 16 bits")
                grey = np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
                return Image.fromarray(grey).convert("RGB")
            return picture.convert("RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, …
        raise ImageError(_reason(data, error)) from error


def is_image(path: Path) -> bool:
    """Whether a regular file begins as an image of a format that is read; nothing is decoded."""
    try:
        if not path.is_file():
            return False
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # as in `load`
        return False


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombError):  # twice Pillow's own bound
        return f"it has more than {MAX_PIXELS // 10**6} million pixels; make it smaller"
    text = " ".join(str(error).split()) or type(error).__name__
    if "cannot identify" in text:
        return f"it is no image of a known format ({', '.join(FORMATS)})"
    return text


def map_ahead(
    call: Callable[[S], T], items: Iterable[S], threads: int | None = None
) -> Iterator[T]:
    """`call(item)` of every item, in order, computed ahead on `threads` threads (all cores).

    Threads, not processes: Pillow decodes and resizes outside the interpreter's lock. After an
    error, or when the consumer stops, calls that have not begun are dropped.
    """
    if threads is None:  # macOS has no affinity
        own = getattr(os, "sched_getaffinity", None)
        threads = len(own(0)) if own else os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) >= AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
