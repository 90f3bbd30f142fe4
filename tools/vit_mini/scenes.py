"""Scenes of formula-drawn shapes on formula-drawn textures, labelled by the formulas' parameters.

A scene has zero to six objects (class, position, rotation, size, colour) on a textured ground
(kind, frequency, angle, colour). Every parameter is a label: a network that predicts it must keep
pose, number and colour, which class labels alone do not require.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tools.vit_mini.formulas import Floats, bank

SIDE = 32
PATCH = 8
PATCHES = (SIDE // PATCH) ** 2
OBJECTS = 6
CLASSES = 200
POSE = 10  # r g b, cos t, sin t, cos 2t, sin 2t, dx, dy, log radius
GROUND = 7  # r g b of the mean image, frequency, cos 2a, sin 2a, contrast
CENTRES = np.array([5.5, 16.0, 26.5], np.float32)
KINDS = ("flat", "grating", "plaid", "rings", "noise", "blobs", "ramp")
"""Textures of the ground."""
Ints = npt.NDArray[np.int64]

__all__ = [
    "CLASSES",
    "GROUND",
    "KINDS",
    "OBJECTS",
    "PATCHES",
    "POSE",
    "Scenes",
    "render",
    "render_many",
]


@dataclass(frozen=True)
class Scenes:
    """N rendered scenes and their parameters.

    Attributes:
        images: (N, 32, 32, 3) uint8.
        count: (N,) number of objects.
        kind: (N,) texture kind of the ground, an index into `KINDS`.
        ground: (N, GROUND) parameters of the ground.
        owner: (N, 1 + PATCHES) class of the largest object, then of the object that covers
            most of each patch; -1 where there is none.
        pose: (N, 1 + PATCHES, POSE) that object's parameters, position relative to the image's
            or the patch's centre, in half images; 0 where there is none.
    """

    images: npt.NDArray[np.uint8]
    count: Ints
    kind: Ints
    ground: Floats
    owner: Ints
    pose: Floats

    def __getitem__(self, rows: slice | Ints) -> "Scenes":
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __len__(self) -> int:
        return len(self.images)


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


@dataclass(frozen=True)
class Objects:
    """Parameters of up to OBJECTS objects in N scenes; arrays (N, OBJECTS) or (N, OBJECTS, k)."""

    label: Ints
    centre: Floats
    angle: Floats
    radius: Floats
    colour: Floats


def draw_objects(rng: np.random.Generator, count: Ints, base: Floats) -> Objects:
    """Random objects for scenes that will show `count` (N,) of them on colour `base` (N, 3).

    Centres come from distinct cells of a jittered 3x3 grid, so that objects seldom hide each
    other; few objects may be large.
    """
    n = len(count)
    cells = rng.random((n, 9)).argsort(1)[:, :OBJECTS]
    middle = np.stack([CENTRES[cells % 3], CENTRES[cells // 3]], -1)
    centre = middle + rng.uniform(-4, 4, middle.shape)
    largest = np.where(count <= 2, 13.0, 8.0)[:, None]
    radius = rng.uniform(4.0, largest, (n, OBJECTS))
    candidates = rng.random((n, OBJECTS, 3, 3))
    contrast = np.abs(candidates - base[:, None, None]).sum(-1).argmax(-1)
    colour = np.take_along_axis(candidates, contrast[..., None, None], 2)[:, :, 0]
    return Objects(
        label=rng.integers(0, CLASSES, (n, OBJECTS)),
        centre=centre.astype(np.float32),
        angle=rng.uniform(0, 2 * np.pi, (n, OBJECTS)).astype(np.float32),
        radius=radius.astype(np.float32),
        colour=colour.astype(np.float32),
    )


def opacity(masks: tuple[Floats, ...], objects: Objects, rows: Ints, slot: int) -> Floats:
    """Opacity (len(rows), 32, 32) of object `slot` in scenes `rows`, bilinear in its mask."""
    angle, radius = objects.angle[rows, slot], objects.radius[rows, slot]
    pixel = np.arange(SIDE, dtype=np.float32) + 0.5
    x = (pixel - objects.centre[rows, slot, :1])[:, None, :]
    y = (pixel - objects.centre[rows, slot, 1:])[:, :, None]
    cos, sin = (np.cos(angle) / radius)[:, None, None], (np.sin(angle) / radius)[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    out = np.empty((len(rows), SIDE, SIDE), np.float32)
    for level, chosen in zip(masks, (radius < 6, radius >= 6), strict=True):
        shapes = level[objects.label[rows[chosen], slot]]
        out[chosen] = bilinear(shapes, along[chosen], across[chosen])
    return out


def bilinear(shapes: Floats, x: Floats, y: Floats) -> Floats:
    """Sample `shapes` (n, r, r) at x, y (n, h, w) in [-1, 1]; 0 outside."""
    size = shapes.shape[-1]
    u = np.clip((x + 1) * (size / 2) - 0.5, 0, size - 1.001)
    v = np.clip((y + 1) * (size / 2) - 0.5, 0, size - 1.001)
    left, top = u.astype(np.int32), v.astype(np.int32)
    du, dv = u - left, v - top
    flat = shapes.reshape(-1)
    at = top * size + left + (np.arange(len(shapes), dtype=np.int32) * size * size)[:, None, None]
    upper = flat[at] * (1 - du) + flat[at + 1] * du
    lower = flat[at + size] * (1 - du) + flat[at + size + 1] * du
    return np.asarray(upper * (1 - dv) + lower * dv, np.float32)


def pose_of(objects: Objects) -> Floats:
    """(N, OBJECTS, POSE) regression targets, positions still absolute in pixels."""
    turns = [np.cos(objects.angle), np.sin(objects.angle)]
    turns += [np.cos(2 * objects.angle), np.sin(2 * objects.angle)]
    size = np.log(objects.radius / 7)
    columns = [*np.moveaxis(2 * objects.colour - 1, -1, 0), *turns]
    columns += [*np.moveaxis(objects.centre, -1, 0), size]
    return np.stack(columns, -1).astype(np.float32)


def patch_means(alpha: Floats) -> Floats:
    """Mean of `alpha` (n, 32, 32) over each 8x8 patch: (n, PATCHES)."""
    cut = alpha.reshape(-1, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH)
    means: Floats = cut.mean((2, 4)).reshape(-1, PATCHES)
    return means


def owners(cover: Floats, objects: Objects, count: Ints) -> tuple[Ints, Floats]:
    """The labelled object of the image and of each patch, from `cover` (N, OBJECTS, PATCHES).

    Returns:
        `owner` and `pose` as in `Scenes`.
    """
    area = np.where(np.arange(OBJECTS) < count[:, None], objects.radius, 0)
    slots = np.concatenate([area.argmax(1)[:, None], cover.argmax(1)], 1)
    exists = np.concatenate([(count > 0)[:, None], cover.max(1) > 0.12], 1)
    pose = np.take_along_axis(pose_of(objects), slots[..., None], 1)
    middle = (np.arange(SIDE // PATCH) + 0.5) * PATCH
    x, y = (side.ravel() for side in np.meshgrid(middle, middle))
    origin = np.stack([np.r_[SIDE / 2, x], np.r_[SIDE / 2, y]], -1)
    pose[..., 7:9] = (pose[..., 7:9] - origin) / (SIDE / 2)
    owner = np.where(exists, np.take_along_axis(objects.label, slots, 1), -1)
    return owner, np.where(exists[..., None], pose, 0).astype(np.float32)


def render(rng: np.random.Generator, masks: tuple[Floats, ...], n: int) -> Scenes:
    """Render `n` scenes with the shapes of `masks`, as `bank` returns them."""
    count = rng.integers(0, OBJECTS + 1, n)
    image, base, kind, facts = ground(rng, np.where(count == 0, 1.0, 0.4))
    objects = draw_objects(rng, count, base)
    cover = np.zeros((n, OBJECTS, PATCHES), np.float32)
    for slot in range(OBJECTS):
        rows = np.flatnonzero(count > slot)
        alpha = opacity(masks, objects, rows, slot)
        cover[rows, slot] = patch_means(alpha)
        paint = objects.colour[rows, slot][:, None, None]
        image[rows] += alpha[..., None] * (paint - image[rows])
    drawn = rng.normal(0, 1, image.shape).astype(np.float32)
    image += drawn * rng.uniform(0, 0.06, (n, 1, 1, 1)).astype(np.float32)  # deviation by scene
    mean = 2 * image.mean((1, 2)) - 1
    owner, pose = owners(cover, objects, count)
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scenes(pixels, count, kind, np.concatenate([mean, facts], 1), owner, pose)


def render_many(n: int, seed: int, chunk: int = 1000) -> Scenes:
    """Render `n` scenes (a multiple of `chunk`) of the shape bank `seed`, in chunks."""
    masks = bank(CLASSES, seed)
    rng = np.random.default_rng([seed, 1])
    parts = [render(rng, masks, chunk) for _ in range(n // chunk)]
    columns = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Scenes)}
    return Scenes(**columns)
