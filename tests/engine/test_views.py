"""Boxes and resampling against torchvision and Pillow, which the papers' scripts call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from orchestrator.engine import views
from orchestrator.errors import InvalidInput

SIDES = (23, 60, 97)
STORED = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, stored: int = STORED) -> Tensor:
    shape = (count, 3, stored, stored)
    return torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8)


def drawn(count: int, seed: int) -> Tensor:
    return torch.rand((4, views.ATTEMPTS, count), generator=generator(seed), dtype=torch.float64)


WHOLE = torch.tensor([views.WHOLE_BOX], dtype=torch.float64)


def whole_pixels(count: int) -> tuple[Tensor, list[list[int]]]:
    """Boxes with edges between stored pixels, as fractions and in pixels."""
    sizes = torch.tensor([[STORED, STORED]]).repeat(count, 1)
    boxes = views.random_crop(sizes, drawn(count, 3))
    boxes[0] = torch.tensor([0.25, 0.75, 1 / STORED, 0.25])  # one pixel high, at the right edge
    return boxes, (boxes * STORED).round().int().tolist()


@pytest.mark.parametrize("side", SIDES)
def test_whole_pixels_come_out_as_torchvision_crops_and_resizes(side: int) -> None:
    images, flip = noise(8), torch.arange(8) % 3 == 0
    boxes, pixels = whole_pixels(8)
    found = views.resample(images, boxes, flip, side)
    assert found.shape == (8, 3, side, side)
    assert found.dtype == torch.float32
    for index, (top, left, height, width) in enumerate(pixels):
        expected = reference.resized_crop(
            images[index].float(), top, left, height, width, [side, side],
            interpolation=InterpolationMode.BICUBIC, antialias=True,
        ).clamp(0, 255)  # fmt: skip
        if flip[index]:
            expected = expected.flip(-1)
        torch.testing.assert_close(found[index], expected, rtol=0, atol=0.255)
        assert (found[index] - expected).abs().mean() < 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_and_as_pillow_does(side: int) -> None:
    """Within a level: Pillow rounds (and clips) after either axis, so the image is smooth."""
    ramp = torch.linspace(0, 6, STORED)
    waves = torch.stack([torch.sin(ramp + p)[:, None] * torch.cos(ramp - p) for p in range(3)])
    image = (127 + 100 * waves).round().to(torch.uint8)
    boxes, pixels = whole_pixels(8)
    found = views.resample(image.expand(8, -1, -1, -1), boxes, None, side)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    for index, (top, left, height, width) in enumerate(pixels):
        crop = picture.crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        difference = found[index].round().permute(1, 2, 0).numpy() - expected
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("side", SIDES)
def test_the_whole_box_is_a_plain_resize(side: int) -> None:
    images = noise(70)
    found = views.resample(images, WHOLE, None, side)
    expected = F.interpolate(images.float(), (side, side), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, expected.clamp(0, 255), rtol=0, atol=2e-3)
    if side == STORED:
        assert torch.equal(found, images.float())


def test_one_box_for_all_shares_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    images, box = noise(3), views.centre(torch.tensor([[30, 50]]))
    made: list[int] = []
    original = views._weights

    def counting(spans: Tensor, *args: object) -> Tensor:
        made.append(len(spans))
        return original(spans, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(views, "_weights", counting)
    shared = views.resample(images, box, None, 40)
    assert made == [1, 1]
    own = views.resample(images, box.repeat(3, 1), None, 40)
    assert made == [1, 1, 3, 3]
    torch.testing.assert_close(own, shared, rtol=0, atol=1e-3)


def test_a_box_moves_what_is_seen_by_fractions_of_a_pixel() -> None:
    """A ramp resampled is a ramp: the middle of the result is the middle of the box."""
    ramp = (4 * torch.arange(STORED) + 2.0).expand(1, 3, STORED, STORED)  # 4 · (x + ½)
    for left in (0.1, 0.213, 0.3391):
        box = torch.tensor([[0.2, left, 0.5, 0.4]], dtype=torch.float64)
        found = views.resample(ramp, box, None, 12)[0, 0, 6, 3:9]
        expected = 4 * STORED * (left + 0.4 * (torch.arange(3, 9) + 0.5) / 12)
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=0.05)
        mirrored = views.resample(ramp, box, torch.tensor([True]), 12)[0, 0, 6, 3:9]
        torch.testing.assert_close(mirrored, found.flip(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("height", [1e-4, 0.004, 0.011, 1 / 60, 0.02, 0.05])
def test_boxes_thinner_than_a_pixel_are_no_holes(height: float) -> None:
    tops = torch.linspace(0, 1 - height, 200, dtype=torch.float64)
    boxes = torch.stack([tops, tops * 0, tops * 0 + height, tops * 0 + 1], dim=1)
    images = noise(1).expand(200, -1, -1, -1)
    found = views.resample(images, boxes, None, 8)
    assert torch.isfinite(found).all()
    assert found.std() > 10
    grey = views.resample(torch.full_like(images, 51), boxes, None, 8)
    torch.testing.assert_close(grey, torch.full_like(grey, 51.0), rtol=0, atol=1e-3)


def test_the_centre_is_seven_eighths_of_the_shorter_side() -> None:
    found = views.centre(torch.tensor([[256, 256], [100, 400], [80, 40]])) * torch.tensor(
        [[256, 256, 256, 256], [100, 400, 100, 400], [80, 40, 80, 40]]
    )
    expected = [[16, 16, 224, 224], [6.25, 156.25, 87.5, 87.5], [22.5, 2.5, 35, 35]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_views_have_names() -> None:
    sizes = torch.tensor([[30, 50], [7, 9]])
    boxes = views.evaluation_view("centre", sizes).boxes
    assert boxes is not None
    assert torch.equal(boxes, views.centre(sizes))
    assert views.evaluation_view("whole", sizes) == views.View()
    with pytest.raises(InvalidInput, match=r"unknown view 'center'. Did you mean 'centre'"):
        views.evaluation_view("center", sizes)


SIZES = [(300, 400), (500, 375), (32, 32), (64, 1000), (900, 50), (3, 4), (1, 1), (7, 1200)]


@pytest.mark.parametrize("size", SIZES)
def test_random_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count, (height, width) = 2000, size
    sizes = torch.tensor([size]).repeat(count, 1)
    scale = torch.tensor([height, width, height, width])
    found = views.random_crop(sizes, drawn(count, 5)) * scale
    torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-9)  # whole pixels
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= scale[:2] + 1e-9).all()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        picture = torch.empty(3, height, width)
        expected = torch.tensor(
            [
                RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])
                for _ in range(count)
            ],
            dtype=torch.float64,
        )
    for ours, theirs in zip(_statistics(found), _statistics(expected), strict=True):
        assert ks_2samp(ours, theirs).pvalue > 1e-4


def _statistics(boxes: Tensor) -> Tensor:
    """Area, aspect and corners (4, N)."""
    top, left, height, width = boxes.double().unbind(1)
    return torch.stack([height * width, width / height, top, left])
