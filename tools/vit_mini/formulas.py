"""Shapes drawn by formulas: iterated function systems and radial contours.

Each class is one random formula. Its attractor or filled contour is sampled as a point cloud,
rotated to a canonical pose (long axis along x, heavier tail towards +x) and binned into masks, so
that rotation is comparable between classes.

References:
    Kataoka et al. 2020, "Pre-training without natural images" (FractalDB).
    Anderson and Farrell 2022, "Improving fractal pre-training" (maps drawn by singular values).
    Kataoka et al. 2022, "Replacing labeled real-image datasets with auto-generated contours"
    (RCDB, radial contours).
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

RESOLUTIONS = (16, 32)
EXTENT = 2.2  # half-width of a mask, in root-mean-square radii of the point cloud


def contraction_maps(rng: np.random.Generator, count: int) -> tuple[Points, Points]:
    """`count` random affine contractions: matrices (count, 2, 2) and shifts (count, 2)."""
    turn = rng.uniform(0, 2 * np.pi, (2, count))
    cos, sin = np.cos(turn), np.sin(turn)
    rotations = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    singular = rng.uniform(0.2, 0.85, (count, 2)) * rng.choice([-1.0, 1.0], (count, 2))
    matrices = rotations[0] * singular[:, None, :] @ rotations[1]
    return matrices, rng.uniform(-1, 1, (count, 2))


def fractal(rng: np.random.Generator, walkers: int = 1500, steps: int = 40) -> Points:
    """Points (n, 2) on the attractor of two to four random maps, by the chaos game."""
    matrices, shifts = contraction_maps(rng, int(rng.integers(2, 5)))
    weight = np.abs(np.linalg.det(matrices)) + 0.02
    points = np.zeros((walkers, 2))
    visited = []
    for step in range(steps):
        pick = rng.choice(len(weight), walkers, p=weight / weight.sum())
        points = np.einsum("nij,nj->ni", matrices[pick], points) + shifts[pick]
        if step >= steps // 2:
            visited.append(points)
    return np.concatenate(visited)


def radial_contour(rng: np.random.Generator, grid: int = 160) -> Points:
    """Points (n, 2) inside r(t) = 1 + sum_k a_k cos(k t + p_k), stretched, perhaps hollow."""
    axis = np.linspace(-2, 2, grid)
    x, y = (side.ravel() for side in np.meshgrid(axis, axis))
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    harmonics = np.arange(1, 7)
    amplitudes = rng.uniform(0, 0.45, 6) / harmonics**0.5 * (rng.random(6) < 0.6)
    waves = np.cos(harmonics * angle[:, None] + rng.uniform(0, 2 * np.pi, 6))
    boundary = np.maximum(1 + waves @ amplitudes, 0.15)
    inner = rng.uniform(0.45, 0.75) if rng.random() < 0.3 else 0.0
    inside = (radius <= boundary) & (radius >= inner * boundary)
    filled: Points = np.stack([x * rng.uniform(1.0, 3.0), y], -1)[inside]
    return filled


def canonical(points: Points) -> Points:
    """Centre `points` (n, 2), scale to unit RMS radius, long axis to x, positive skew along it."""
    points = points - points.mean(0)
    points = points / np.sqrt((points**2).sum(1).mean())
    _, axes = np.linalg.eigh(points.T @ points)
    points = points @ axes[:, ::-1]
    skew = (points**3).mean(0)
    return points * np.where(skew < 0, -1.0, 1.0)


def binned(points: Points, resolution: int) -> Floats:
    """Opacity in [0, 1], (resolution, resolution), rows along y; the border row stays empty."""
    edges = np.linspace(-EXTENT, EXTENT, resolution + 1)
    density = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))[0]
    typical = np.quantile(density[density > 0], 0.6)
    mask = np.clip(density / typical, 0, 1)
    mask[[0, -1], :] = mask[:, [0, -1]] = 0
    return mask.astype(np.float32)


def acceptable(mask: Floats) -> bool:
    """Whether a mask is neither a speck nor a full square."""
    return 0.08 < float((mask > 0.3).mean()) < 0.6


def bank(classes: int, seed: int) -> tuple[Floats, ...]:
    """Masks of `classes` formulas, half fractals, half contours.

    Returns:
        One array (classes, resolution, resolution) of opacities for each of `RESOLUTIONS`.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[Floats, ...]] = []
    while len(kept) < classes:
        maker = fractal if len(kept) % 2 == 0 else radial_contour
        points = canonical(maker(rng))
        masks = tuple(binned(points, resolution) for resolution in RESOLUTIONS)
        if acceptable(masks[0]):
            kept.append(masks)
    return tuple(np.stack(level) for level in zip(*kept, strict=True))
