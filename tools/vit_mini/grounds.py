"""Textured grounds drawn by formula: gratings, plaids, rings and spectral noise."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
KINDS = ("flat", "grating", "plaid", "rings", "noise", "blobs", "ramp")
SIDE = 32


def spectral_noise(rng: np.random.Generator, slope: Floats, angle: Floats) -> Floats:
    """Noise (n, 32, 32) of unit deviation, amplitude f^-slope, stretched along `angle`."""
    n = len(slope)
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    stretched = np.sqrt((3 * (fx * cos + fy * sin)) ** 2 + (fy * cos - fx * sin) ** 2)
    gain = (stretched + 1 / SIDE) ** -slope[:, None, None]
    gain[:, 0, 0] = 0
    spectrum = np.fft.rfft2(rng.normal(size=(n, SIDE, SIDE)).astype(np.float32)) * gain
    field = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return np.asarray(field / field.std((1, 2), keepdims=True), np.float32)


def pattern(rng: np.random.Generator, kind: Ints, frequency: Floats, angle: Floats) -> Floats:
    """Patterns (n, 32, 32) of about unit amplitude: `frequency` in cycles an image, (n,)."""
    n = len(kind)
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    x, y = axis[None, None, :], axis[None, :, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1)).astype(np.float32)
    rate = (2 * np.pi * frequency)[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    wave = np.sin(rate * along + phase[0])
    shift = rng.uniform(-0.4, 0.4, (2, n, 1, 1)).astype(np.float32)
    rings = np.sin(rate * np.hypot(x - shift[0], y - shift[1]) + phase[0])
    noise = spectral_noise(rng, np.asarray(2.2 - frequency / 6, np.float32), angle)
    choices = [
        np.zeros_like(wave),
        wave,
        wave * np.sin(rate * across + phase[1]),
        rings,
        noise / 2,
        np.tanh(3 * noise),
        2 * along,
    ]
    return np.choose(kind[:, None, None], choices).astype(np.float32)


def ground(rng: np.random.Generator, strength: Floats) -> tuple[Floats, Floats, Ints, Floats]:
    """Grounds for scenes whose texture contrast is at most `strength` (n,).

    Returns:
        images (n, 32, 32, 3) in about [0, 1], base colours (n, 3), kinds (n,), and facts
        (n, 4): scaled frequency, cos and sin of twice the angle, contrast.
    """
    n = len(strength)
    kind = rng.integers(0, len(KINDS), n)
    frequency = rng.uniform(1, 11, n).astype(np.float32)
    angle = rng.uniform(0, np.pi, n).astype(np.float32)
    contrast = (rng.uniform(0.2, 1, n) * strength).astype(np.float32)
    base = rng.uniform(0.1, 0.9, (n, 3)).astype(np.float32)
    tint = rng.normal(0.6, 0.5, (n, 3)).astype(np.float32)
    tint *= contrast[:, None] * 0.5 / np.abs(tint).max(1, keepdims=True)
    drawn = pattern(rng, kind, frequency, angle)
    image = base[:, None, None] + drawn[..., None] * tint[:, None, None]
    textured = (kind > 0)[:, None]
    oriented = np.isin(kind, (1, 2, 4, 5, 6))[:, None]
    turn = np.stack([np.cos(2 * angle), np.sin(2 * angle)], -1) * oriented
    facts = np.concatenate([(frequency / 5 - 1)[:, None], turn, contrast[:, None]], 1) * textured
    return image, base, kind, facts.astype(np.float32)
