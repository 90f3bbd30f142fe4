"""The rendered tasks.

`textures` (specialised): procedural patterns, random in colour, frequency and phase.
`count`, `location`, `orientation` (structured): objects, after CLEVR and dSprites.

Objects are ellipses, rectangles and triangles, antialiased, of random colour and size on a
gradient with noise. What the label does not tell varies freely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from orchestrator.data.mini.pixels import SIDE, SIZES, Labels, Splits, balanced

Floats = npt.NDArray[np.float32]
_DIRECTIONS = 8
_CELLS = 4
"""`location` asks for one of 4×4 cells."""
_NOISE, _TEXTURE_NOISE = 0.05, 0.06


def draw_count(rng: np.random.Generator, labels: Labels) -> Floats:
    """How many objects, of any colour, shape and size? Images (N, 32, 32, 3) with `labels` + 1 of
    them in distinct cells of a jittered 3×3 grid.
    """
    image, ground = _grounds(rng, len(labels))
    for row, label in enumerate(labels):
        cells = rng.permutation(9)[: label + 1]
        for cell in cells:
            centre = (np.array([cell % 3, cell // 3]) + 0.5) * (SIDE / 3) + rng.uniform(
                -1.5, 1.5, 2
            )
            radius, angle = rng.uniform(2.4, 4.4), rng.uniform(0, 2 * np.pi)
            mask = shape_mask(int(rng.integers(3)), centre, radius, angle)
            _paint(image[row], mask, _contrasting(rng, ground[row]))
    return _noisy(rng, image)


def draw_location(rng: np.random.Generator, labels: Labels) -> Floats:
    """Where is the centre of the large object? One object of radius 4…5.5 in the label's cell of
    4×4; three of radius 1.5…2.2 anywhere.
    """
    image, ground = _grounds(rng, len(labels))
    for row, label in enumerate(labels):
        for _ in range(3):
            small = shape_mask(
                int(rng.integers(3)), rng.uniform(2, SIDE - 2, 2), rng.uniform(1.5, 2.2), 0.0
            )
            _paint(image[row], small, _contrasting(rng, ground[row]))
        cell = np.array([label % _CELLS, label // _CELLS])
        centre = (cell + rng.uniform(0.1, 0.9, 2)) * (SIDE / _CELLS)
        angle = rng.uniform(0, 2 * np.pi)
        mask = shape_mask(int(rng.integers(3)), centre, rng.uniform(4.0, 5.5), angle)
        _paint(image[row], mask, _contrasting(rng, ground[row]))
    return _noisy(rng, image)


def draw_orientation(rng: np.random.Generator, labels: Labels) -> Floats:
    """Where does the triangle point? A long one of radius 6…9 anywhere, within 15° of the label's
    direction, one of eight.
    """
    image, ground = _grounds(rng, len(labels))
    for row, label in enumerate(labels):
        radius = rng.uniform(6, 9)
        centre = rng.uniform(radius, SIDE - radius, 2)
        angle = label * (2 * np.pi / _DIRECTIONS) + rng.uniform(-1, 1) * np.pi / 12
        _paint(image[row], shape_mask(2, centre, radius, angle), _contrasting(rng, ground[row]))
    return _noisy(rng, image)


def shape_mask(kind: int, centre: npt.NDArray[np.floating], radius: float, angle: float) -> Floats:
    """Opacity (32, 32) of an ellipse (0), rectangle (1) or triangle pointing along `angle` (2)."""
    x, y = grid()
    x, y = x - centre[0], y - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == 0:
        inside = radius * (1 - np.hypot(u / radius, v / (0.75 * radius)))
    elif kind == 1:
        inside = np.minimum(0.9 * radius - np.abs(u), 0.65 * radius - np.abs(v))
    else:  # apex at +radius, base at −0.8 radius, half as wide at the base as it is long
        slope = 0.55 * (radius - u) / 1.8 - np.abs(v)
        inside = np.minimum(slope, u + 0.8 * radius)
    return np.asarray(np.clip(inside + 0.5, 0, 1), np.float32)


def _grounds(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Gradients (N, 32, 32, 3) between two similar colours, and their mean colours (N, 3)."""
    x, y = (coordinate - SIDE / 2 for coordinate in grid())
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    along = np.cos(angle) * x + np.sin(angle) * y
    base, other = _two_colours(rng, count, apart=0.0)
    reach = 0.15 * (other - base)
    image = base[:, None, None] + (along / SIDE)[..., None] * reach[:, None, None]
    return np.asarray(image, np.float32), base


def grid() -> tuple[Floats, Floats]:
    """x and y (SIDE, SIDE) of the pixels' centres, from 0.5 to 31.5."""
    centre = np.arange(SIDE, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centre, centre)
    return x, y


def _two_colours(rng: np.random.Generator, count: int, apart: float) -> tuple[Floats, Floats]:
    """Two random colours (count, 3) that differ by at least `apart` summed over the channels."""
    first = rng.random((count, 3))
    second = rng.random((count, 3))
    while (close := np.abs(first - second).sum(1) < apart).any():
        second[close] = rng.random((int(close.sum()), 3))
    return first.astype(np.float32), second.astype(np.float32)


def _contrasting(rng: np.random.Generator, ground: Floats) -> Floats:
    """A colour that differs from the ground's by at least 0.8 summed over the channels."""
    while True:
        colour = rng.random(3).astype(np.float32)
        if np.abs(colour - ground).sum() >= 0.8:
            return colour


def _paint(image: Floats, mask: Floats, colour: Floats) -> None:
    image += mask[..., None] * (colour - image)


def _noisy(rng: np.random.Generator, image: Floats) -> Floats:
    return np.asarray(image + rng.normal(0, _NOISE, image.shape), np.float32)


def draw_textures(rng: np.random.Generator, labels: Labels) -> Floats:
    """Images (N, 32, 32, 3) in [0, 1]: a pattern in [0, 1] that blends two colours, plus noise.

    Classes in order: stripes, checks, rings, spots, waves, cells, grain, weave.
    """
    pattern = np.stack([_PATTERNS[label](rng) for label in labels])
    first, second = _two_colours(rng, len(labels), apart=0.6)
    blend = pattern[..., None]
    image = first[:, None, None] * blend + second[:, None, None] * (1 - blend)
    return np.asarray(image + rng.normal(0, _TEXTURE_NOISE, image.shape), np.float32)


def _turned(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Coordinates turned by a random angle around a random point."""
    x, y = grid()
    angle = rng.uniform(0, np.pi)
    x, y = x - rng.uniform(0, SIDE), y - rng.uniform(0, SIDE)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _wave(values: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(0.5 + 0.5 * np.sin(values), np.float32)


def _frequency(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.6, 1.3))


def _stripes(rng: np.random.Generator) -> Floats:
    return _wave(_frequency(rng) * _turned(rng)[0])


def _checks(rng: np.random.Generator) -> Floats:
    x, y = _turned(rng)
    f = _frequency(rng)
    return np.asarray((np.sin(f * x) * np.sin(f * y) > 0).astype(np.float32))


def _rings(rng: np.random.Generator) -> Floats:
    x, y = _turned(rng)
    return _wave(_frequency(rng) * np.hypot(x, y))


def _spots(rng: np.random.Generator) -> Floats:
    x, y = _turned(rng)
    f = _frequency(rng)
    return np.asarray((_wave(f * x) * _wave(f * y)) ** 1.5, np.float32)


def _waves(rng: np.random.Generator) -> Floats:
    x, y = _turned(rng)
    f = _frequency(rng)
    return _wave(f * x + 2.2 * np.sin(0.7 * f * y))


def _cells(rng: np.random.Generator) -> Floats:
    x, y = grid()
    points = rng.uniform(0, SIDE, (rng.integers(10, 24), 2))
    distance = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    nearest = np.sort(distance, -1)
    return np.asarray(np.clip((nearest[..., 1] - nearest[..., 0]) / 3, 0, 1), np.float32)


def _grain(rng: np.random.Generator) -> Floats:
    size = int(rng.integers(2, 5))
    coarse = rng.random((SIDE // size + 2, SIDE // size + 2))
    fine = coarse.repeat(size, 0).repeat(size, 1)
    top, left = rng.integers(0, size, 2)
    return np.asarray(fine[top : top + SIDE, left : left + SIDE], np.float32)


def _weave(rng: np.random.Generator) -> Floats:
    x, y = _turned(rng)
    f = _frequency(rng)
    return np.asarray(np.where(np.sin(f * (x + y) / 2) > 0, _wave(f * x), _wave(f * y)), np.float32)


_PATTERNS = (_stripes, _checks, _rings, _spots, _waves, _cells, _grain, _weave)


def _make(seed: int, classes: int, draw: Callable[[np.random.Generator, Labels], Floats]) -> Splits:
    """The splits of a task: balanced labels, and `draw(rng, labels)` in [0, 1] as uint8."""
    splits: Splits = {}
    for index, (split, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([seed, index])
        labels = balanced(rng, count, classes)
        images = np.rint(np.clip(draw(rng, labels), 0, 1) * 255)
        splits[split] = (images.astype(np.uint8), labels)
    return splits


MAKERS: Mapping[str, Callable[[], Splits]] = {
    "textures": partial(_make, 13, len(_PATTERNS), draw_textures),
    "count": partial(_make, 14, 6, draw_count),
    "location": partial(_make, 15, _CELLS**2, draw_location),
    "orientation": partial(_make, 16, _DIRECTIONS, draw_orientation),
}
