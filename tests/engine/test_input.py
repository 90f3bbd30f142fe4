"""Splits on a device, normalisation, and each trial's batches, crops and flips."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.backbones import HALF, IMAGENET
from orchestrator.data.splits import EncodedSplit, Part, Split
from orchestrator.engine import input as engine_input
from orchestrator.engine import views
from orchestrator.engine.input import (
    ORDERS,
    VIEWS,
    DeviceSplit,
    Normaliser,
    StreamedSplit,
    augmented_view,
    epoch_order,
    take,
    uniform,
)
from orchestrator.engine.views import View, centre
from tests.engine.worlds import CPU, encoded, split

IMAGES = torch.from_numpy(split("one", 2, 2).images.copy()).permute(0, 3, 1, 2)


def test_on_the_cpu_images_are_the_mapped_ones() -> None:
    originals = [split("one", 6, 3), split("two", 5, 3)]
    assert not any(original.images.flags.writeable for original in originals)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = DeviceSplit.of(originals, CPU)
    for part, original in zip(held.parts, originals, strict=True):
        assert part.dtype == torch.uint8
        assert part.data_ptr() == original.images.ctypes.data
        assert np.shares_memory(part.numpy(), original.images)
    assert len(held) == 11


def _joined(splits: Sequence[Split]) -> Split:
    one, two = splits
    return Split(
        np.concatenate([one.images, two.images]),
        np.concatenate([one.labels, two.labels]),
        np.concatenate([one.sizes, two.sizes]),
        "joined",
        one.view,
    )


def test_parts_are_read_as_if_they_were_joined() -> None:
    splits = [split("one", 6, 3, "centre"), split("two", 5, 3, "centre")]
    parts, joined = DeviceSplit.of(splits, CPU), DeviceSplit.of([_joined(splits)], CPU)
    assert (len(parts.parts), len(joined.parts)) == (2, 1)
    assert torch.equal(parts.labels, joined.labels)
    assert torch.equal(parts.sizes, joined.sizes)
    for indices in ([10, 0, 5, 6, 6, 3], [1, 2], [8], list(range(11))):
        found = parts.gather(torch.tensor(indices))
        assert found.shape == (len(indices), 3, 32, 32)
        expected = _joined(splits).images[indices].transpose(0, 3, 1, 2)
        assert np.array_equal(found.numpy(), expected)
        assert torch.equal(found, joined.gather(torch.tensor(indices)))
    for a, b in zip(parts.chunks(4), joined.chunks(4), strict=True):
        assert torch.equal(a[0], b[0])
        assert _alike(a[1], b[1])


def test_an_accelerators_copy_is_filled_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_input, "_COPIED", 4)
    splits = [split("one", 6, 3), split("two", 5, 3)]
    copy = engine_input._copied([one.images for one in splits], CPU)
    assert np.array_equal(copy.numpy(), _joined(splits).images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_sees_what_the_cpu_sees() -> None:
    cuda = torch.device("cuda")
    splits = [split("one", 6, 3, "centre"), split("two", 5, 3, "centre")]
    indices = torch.tensor([10, 0, 5])
    seen = []
    for device in (CPU, cuda):
        held = DeviceSplit.of(splits, device)
        chosen = indices.to(device)
        draw = torch.tensor([[3], [4]], device=device)
        view = augmented_view(held.sizes[chosen], *draw)
        inputs = Normaliser(HALF, 48, device, torch.float32)(held.gather(chosen), view)
        assert inputs.device.type == device.type
        seen.append([inputs.cpu(), *(images.cpu() for images, _ in held.chunks(4))])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("view", ["whole", "centre"])
@pytest.mark.parametrize("size", [1, 3, 5, 256])
def test_a_streamed_split_gives_the_chunks_of_the_pixels(
    view: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_input, "_READ", 8)
    pixels = split("one", 29, 3, view)
    pixels = replace(pixels, sizes=np.full_like(pixels.sizes, 32))
    streamed, held = StreamedSplit.of(encoded(pixels), CPU), DeviceSplit.of([pixels], CPU)
    assert len(streamed) == len(held) == 29
    assert torch.equal(streamed.labels, held.labels)
    for found, expected in zip(streamed.chunks(size), held.chunks(size), strict=True):
        assert torch.equal(found[0], expected[0])
        assert _alike(found[1], expected[1])


def _alike(one: View, other: View) -> bool:
    if one.boxes is None or other.boxes is None:
        return one == other
    return torch.equal(one.boxes, other.boxes)


class Watched(EncodedSplit):
    """Notes which parts are decoded, and in which threads."""

    reads: list[tuple[int, int]]
    threads: set[str]

    def part(self, start: int, stop: int) -> Part:
        self.reads.append((start, stop))
        self.threads.add(threading.current_thread().name)
        return super().part(start, stop)


def watched(pixels: Split) -> Watched:
    files = encoded(pixels)
    one = Watched(files.columns, files.labels, files.fingerprint, files.side, files.view)
    object.__setattr__(one, "reads", [])
    object.__setattr__(one, "threads", set())
    return one


def test_a_streamed_split_is_read_once_and_one_block_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_input, "_READ", 8)
    source = watched(split("one", 29, 3))
    chunks = StreamedSplit.of(source, CPU).chunks(3)  # blocks of 9
    assert source.reads == []
    for seen, _ in enumerate(chunks):
        assert len(source.reads) <= seen // 3 + 2
    assert source.reads == [(0, 9), (9, 18), (18, 27), (27, 36)]
    assert threading.current_thread().name not in source.threads


def test_what_fails_while_reading_ahead_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_input, "_READ", 4)
    files = encoded(split("one", 12, 3))
    broken = replace(files, columns=(files.columns[0], files.columns[0].cast("large_binary")[:0]))
    chunks = StreamedSplit.of(broken, CPU).chunks(4)
    next(chunks)
    with pytest.raises(IndexError):
        list(chunks)


def test_normalisation() -> None:
    found = Normaliser(IMAGENET, 32, CPU, torch.float32)(IMAGES)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(found, (IMAGES / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()
    assert Normaliser(IMAGENET, 32, CPU, torch.bfloat16)(IMAGES).dtype == torch.bfloat16


def test_images_come_at_the_backbones_size() -> None:
    found = Normaliser(HALF, 48, CPU, torch.float32)(IMAGES)
    expected = F.interpolate(IMAGES.float(), (48, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, expected.clamp(0, 255) / 127.5 - 1, rtol=0, atol=1e-4)
    grey = torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)
    resized = Normaliser(HALF, 224, CPU, torch.float32)(grey)
    torch.testing.assert_close(resized, torch.full((1, 3, 224, 224), -0.6))


def test_only_what_changes_an_image_resamples_it(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled: list[int] = []
    original = views.resample

    def counting(images: Tensor, boxes: Tensor, flip: Tensor, side: int) -> Tensor:
        resampled.append(len(images))
        return original(images, boxes, flip, side)

    monkeypatch.setattr(views, "resample", counting)
    normalise = Normaliser(HALF, 32, CPU, torch.float32)
    plain = normalise(IMAGES)
    assert resampled == []
    flipped = normalise(IMAGES, View(None, torch.tensor([False, True])))
    torch.testing.assert_close(flipped[0], plain[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(flipped[1], plain[1].flip(-1), rtol=0, atol=1e-5)
    boxes = centre(torch.tensor([[32, 32], [32, 64]]))
    assert not torch.allclose(normalise(IMAGES, View(boxes))[0], plain[0], atol=0.1)
    assert resampled == [2, 2]


def held(name: str, view: str = "whole") -> DeviceSplit:
    return DeviceSplit.of([split(name, 9, 3, view)], CPU)


def drawn_view(sizes: Tensor, *seeds_and_steps: tuple[int, int]) -> View:
    seeds, steps = torch.tensor(seeds_and_steps).unbind(1)
    return augmented_view(sizes, seeds, steps)


def test_orders_depend_on_seed_and_epoch() -> None:
    first = epoch_order(50, 3, 2, CPU)
    assert sorted(first.tolist()) == list(range(50))
    assert torch.equal(first, epoch_order(50, 3, 2, CPU))
    for seed, epoch in ((3, 3), (4, 2), (2, 3)):
        assert not torch.equal(first, epoch_order(50, seed, epoch, CPU))


def test_every_image_is_equally_likely_everywhere() -> None:
    orders = torch.stack([epoch_order(6, seed, 0, CPU) for seed in range(3000)])
    for place in range(6):
        counts = torch.bincount(orders[:, place], minlength=6)
        assert (counts - 500).abs().max() < 100  # 4.9 standard deviations


def test_numbers_are_uniform_and_unrelated() -> None:
    seeds, steps = torch.tensor([[0, 1, 2**62, 2**63 - 1]] * 2)
    drawn = uniform(seeds, steps, VIEWS, 20_000)
    assert drawn.dtype == torch.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for row in drawn:
        counts = torch.histc(row.float(), 20, 0, 1)
        assert (counts - 1000).abs().max() < 150
    related = torch.corrcoef(torch.cat([drawn, drawn.roll(1, 1)]))
    assert (related - torch.eye(8)).abs().max() < 0.04
    other = uniform(seeds, steps, ORDERS, 20_000)
    assert abs(float(torch.corrcoef(torch.stack([drawn[0], other[0]]))[0, 1])) < 0.04


def test_the_hash_is_splitmix64() -> None:
    """Against Python's unbounded integers."""
    mask = (1 << 64) - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    seed, step = 2**62 + 12345, 17
    found = uniform(torch.tensor([seed]), torch.tensor([step]), VIEWS, 5)[0]
    state = mixed((mixed(seed ^ VIEWS) + step * 0xD1B54A32D192ED03) & mask)
    for place, value in enumerate(found.tolist(), start=1):
        bits = mixed((state + place * 0x9E3779B97F4A7C15) & mask)
        assert value == (bits >> 11) * 2.0**-53


def test_batches_of_trials_come_one_after_the_other() -> None:
    one, two = held("one"), held("two")
    for second in (one, two):
        chosen = [torch.tensor([1, 4]), torch.tensor([7, 0])]
        images, labels, sizes = take([one, second], chosen)
        assert images.shape == (4, 3, 32, 32)
        assert torch.equal(images[1], one.gather(torch.tensor([4]))[0])
        assert torch.equal(images[3], second.gather(torch.tensor([0]))[0])
        expected = [one.labels[1], one.labels[4], second.labels[7], second.labels[0]]
        assert labels.tolist() == [int(label) for label in expected]
        assert torch.equal(sizes[2], second.sizes[7])


def test_crops_depend_on_seed_and_step_and_on_nothing_else() -> None:
    sizes = held("one").sizes
    first, flips = drawn_view(sizes, (3, 4))
    assert first is not None
    assert flips is not None
    together, both = drawn_view(sizes.repeat(2, 1), (9, 9), (3, 4))
    assert together is not None
    assert both is not None
    assert torch.equal(together[9:], first)
    assert torch.equal(both[9:], flips)
    pixels = first * sizes.repeat(1, 2)  # of the originals, not of the stored squares
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-9)
    for seed, step in ((3, 5), (4, 4), (4, 3)):
        other = drawn_view(sizes, (seed, step)).boxes
        assert other is not None
        assert not torch.equal(first, other)


def test_half_of_the_images_are_flipped() -> None:
    sizes = torch.full((4000, 2), 50)
    flips = drawn_view(sizes, (1, 0), (2, 0)).flips
    assert flips is not None
    assert abs(float(flips.double().mean()) - 0.5) < 0.04
