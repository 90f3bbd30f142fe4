from __future__ import annotations

import torch

from orchestrator.engine import draws
from orchestrator.engine.batches import augmented, take
from orchestrator.engine.feed import DeviceSplit, Look
from orchestrator.engine.views import centre
from tests.engine.worlds import CPU, split


def held(name: str, view: str = "whole") -> DeviceSplit:
    return DeviceSplit.of([split(name, 9, 3, view)], CPU)


def looked(sizes: torch.Tensor, *seeds_and_steps: tuple[int, int]) -> Look:
    seeds, steps = torch.tensor(seeds_and_steps).unbind(1)
    return augmented(sizes, seeds, steps)


def test_orders_depend_on_seed_and_epoch() -> None:
    first = draws.order(50, 3, 2, CPU)
    assert sorted(first.tolist()) == list(range(50))
    assert torch.equal(first, draws.order(50, 3, 2, CPU))
    for seed, epoch in ((3, 3), (4, 2), (2, 3)):
        assert not torch.equal(first, draws.order(50, seed, epoch, CPU))


def test_every_image_is_equally_likely_everywhere() -> None:
    orders = torch.stack([draws.order(6, seed, 0, CPU) for seed in range(3000)])
    for place in range(6):
        counts = torch.bincount(orders[:, place], minlength=6)
        assert (counts - 500).abs().max() < 100  # 4.9 standard deviations


def test_numbers_are_uniform_and_unrelated() -> None:
    seeds, steps = torch.tensor([[0, 1, 2**62, 2**63 - 1]] * 2)
    drawn = draws.uniform(seeds, steps, draws.VIEWS, 20_000)
    assert drawn.dtype == torch.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for row in drawn:
        counts = torch.histc(row.float(), 20, 0, 1)
        assert (counts - 1000).abs().max() < 150
    related = torch.corrcoef(torch.cat([drawn, drawn.roll(1, 1)]))
    assert (related - torch.eye(8)).abs().max() < 0.04
    other = draws.uniform(seeds, steps, draws.ORDERS, 20_000)
    assert abs(float(torch.corrcoef(torch.stack([drawn[0], other[0]]))[0, 1])) < 0.04


def test_a_trials_numbers_do_not_depend_on_its_company() -> None:
    seeds, steps = torch.tensor([5, 7, 9]), torch.tensor([0, 3, 3])
    together = draws.uniform(seeds, steps, draws.VIEWS, 30)
    for index in range(3):
        alone = draws.uniform(seeds[index, None], steps[index, None], draws.VIEWS, 30)
        assert torch.equal(together[index, None], alone)


def test_the_hash_is_splitmix64() -> None:
    """Against Python's unbounded integers."""
    mask = (1 << 64) - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    seed, step = 2**62 + 12345, 17
    found = draws.uniform(torch.tensor([seed]), torch.tensor([step]), draws.VIEWS, 5)[0]
    state = mixed((mixed(seed ^ draws.VIEWS) + step * 0xD1B54A32D192ED03) & mask)
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


def test_unaugmented_images_have_the_view_of_their_split() -> None:
    indices = torch.tensor([5, 2])
    one = held("one", "centre")
    boxes = one.look(one.sizes[indices]).boxes
    assert boxes is not None
    assert torch.equal(boxes, centre(one.sizes[indices]))
    assert held("one").look(one.sizes) == Look()


def test_crops_depend_on_seed_and_step_and_on_nothing_else() -> None:
    sizes = held("one").sizes
    first, flips = looked(sizes, (3, 4))
    assert first is not None
    assert flips is not None
    together, both = looked(sizes.repeat(2, 1), (9, 9), (3, 4))
    assert together is not None
    assert both is not None
    assert torch.equal(together[9:], first)
    assert torch.equal(both[9:], flips)
    pixels = first * sizes.repeat(1, 2)  # of the originals, not of the stored squares
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-9)
    for seed, step in ((3, 5), (4, 4), (4, 3)):
        other = looked(sizes, (seed, step)).boxes
        assert other is not None
        assert not torch.equal(first, other)


def test_half_of_the_images_are_flipped() -> None:
    sizes = torch.full((4000, 2), 50)
    flips = looked(sizes, (1, 0), (2, 0)).flips
    assert flips is not None
    assert abs(float(flips.double().mean()) - 0.5) < 0.04
