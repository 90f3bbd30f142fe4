from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from orchestrator.data.images import ImageError, decode
from tests.data.toys import picture


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def ramp(mode: str = "L") -> Image.Image:
    values = np.linspace(0, 255, 40 * 30).reshape(40, 30).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_is_stretched_as_the_papers_scripts_do_it(form: str) -> None:
    data = picture(1, (37, 61), form)
    pixels, size = decode(data, 24)
    shown = Image.open(io.BytesIO(data)).convert("RGB")
    wanted = transforms.resize(shown, [24, 24], interpolation=transforms.InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(pixels, np.asarray(wanted))
    assert size == (37, 61)
    assert (pixels.shape, pixels.dtype) == ((24, 24, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (ramp(), "PNG"),
        (ramp(), "JPEG"),
        (ramp("P"), "PNG"),
        (ramp("P"), "GIF"),
        (ramp("LA"), "PNG"),
        (ramp("RGBA"), "PNG"),
        (ramp("CMYK"), "JPEG"),
        (ramp("1"), "PNG"),
        (ramp("RGB"), "BMP"),
        (ramp("RGB"), "WEBP"),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else value,
)
def test_every_kind_of_picture_becomes_rgb(image: Image.Image, form: str) -> None:
    pixels, size = decode(encoded(image, form), 16)
    assert (pixels.shape, size) == ((16, 16, 3), (40, 30))
    rows = pixels.mean((1, 2))
    assert rows[0] < 40 and rows[-1] > 215  # the ramp is still there
    assert np.ptp(pixels.astype(int), axis=2).max() < 12  # and grey


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 40 * 30).reshape(40, 30).astype(np.uint16)
    deep, _ = decode(encoded(Image.fromarray(values), "PNG"), 16)
    plain, _ = decode(encoded(ramp(), "PNG"), 16)
    assert np.abs(deep.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_that_is_cut_off_is_refused(form: str) -> None:
    data = picture(2, (40, 30), form)
    decode(data, 8)
    for part in (len(data) // 2, 3 * len(data) // 4):
        with pytest.raises(ImageError):
            decode(data[:part], 8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "no image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "."),
        (encoded(ramp("RGB"), "EPS"), "no image of a known format"),  # Pillow would run Ghostscript
        (encoded(ramp("F"), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((9, 9), 70_000, np.int32)), "TIFF"), "32 bits"),
        (encoded(Image.fromarray(np.full((9, 9), -1, np.int32)), "TIFF"), "32 bits"),
        (encoded(Image.new("1", (8_000, 6_251)), "PNG"), "8000 × 6251 pixels; at most 50 million"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "more than 50 million"),
    ],
    ids=range(9),
)
def test_what_is_no_picture_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(data, 8)
