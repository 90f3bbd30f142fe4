"""`textures`: eight procedural textures, random in colour, frequency and phase (specialised)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.data.mini.pixels import SIDE, Floats, Labels, Splits, grid, rendered, two_colours

CLASSES = 8
_SEED = 13
_NOISE = 0.06


def make() -> Splits:
    """The splits; classes in order: stripes, checks, rings, spots, waves, cells, grain, weave."""
    return rendered(_SEED, CLASSES, draw)


def draw(rng: np.random.Generator, labels: Labels) -> Floats:
    """Images (N, 32, 32, 3) in [0, 1]: a pattern in [0, 1] that blends two colours, plus noise."""
    pattern = np.stack([_PATTERNS[label](rng) for label in labels])
    first, second = two_colours(rng, len(labels), apart=0.6)
    blend = pattern[..., None]
    image = first[:, None, None] * blend + second[:, None, None] * (1 - blend)
    return np.asarray(image + rng.normal(0, _NOISE, image.shape), np.float32)


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
