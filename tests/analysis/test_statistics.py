from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.analysis.statistics import (
    Interval,
    bootstrap_iqm,
    estimate,
    interquartile_mean,
    mcnemar,
    min_max,
    t_interval,
)

accuracies = st.floats(0, 1)
several = st.lists(accuracies, min_size=2, max_size=12)
tasks = st.integers(1, 4).flatmap(
    lambda seeds: st.lists(st.lists(accuracies, min_size=seeds, max_size=seeds), min_size=1)
)
bits = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def test_an_estimate_by_hand() -> None:
    found = estimate([0.90, 0.92, 0.94])
    assert found.values == (0.90, 0.92, 0.94)
    assert found.mean == pytest.approx(0.92)
    assert found.std == pytest.approx(0.02)
    # t(0.975, 2) = 4.30265; 4.30265 · 0.02 / √3
    assert found.half == pytest.approx(0.0496828, abs=1e-7)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(0.8703172, abs=1e-7)
    assert found.interval.high == pytest.approx(0.9696828, abs=1e-7)


def test_what_is_undefined_is_none() -> None:
    nothing, single = estimate([]), estimate([0.5])
    assert (nothing.mean, nothing.std, nothing.interval, nothing.half) == (None,) * 4
    assert (single.mean, single.std, single.interval, single.half) == (0.5, None, None, None)


@given(several, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_t_interval_is_that_of_scipy(values: list[float], confidence: float) -> None:
    found, scale = t_interval(values, confidence), stats.sem(values)
    assert found is not None
    if scale < 1e-12:  # scipy answers nan.
        assert found.high - found.low < 1e-9
        return
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), scale)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


@given(several, several)
def test_overlap_is_symmetric_and_includes_the_ends(a: list[float], b: list[float]) -> None:
    first, second = t_interval(a), t_interval(b)
    assert first is not None and second is not None
    assert first.overlaps(first)
    assert first.overlaps(second) == second.overlaps(first)
    assert first.overlaps(Interval(first.high, first.high + 1))
    assert not first.overlaps(Interval(first.high + 0.1, first.high + 1))


def test_an_interquartile_mean_by_hand() -> None:
    # Eight scores: the middle four are 3, 4, 5, 6.
    assert interquartile_mean([[1, 2, 100, 4], [5, 6, 3, 7]]) == pytest.approx(4.5)
    # Nine: two and a quarter cut at each end, (0.75 · 3 + 4 + 5 + 6 + 0.75 · 10) / 4.5
    assert interquartile_mean([[1, 2, 3], [4, 5, 6], [10, 11, 12]]) == pytest.approx(24.75 / 4.5)


def test_tasks_weigh_the_same_whatever_their_seeds() -> None:
    assert interquartile_mean([[0.0] * 9, [1.0]]) == pytest.approx(0.5)


@given(tasks)
def test_it_is_a_trimmed_mean_where_the_quartiles_fall_between_scores(
    scores: list[list[float]],
) -> None:
    four = [row * 4 for row in scores]  # A multiple of four scores.
    pooled = [value for row in four for value in row]
    assert interquartile_mean(four) == pytest.approx(stats.trim_mean(pooled, 0.25), abs=1e-9)


@pytest.mark.parametrize("scores", [[], [[]], [[0.5], []]])
def test_an_interquartile_mean_of_nothing_is_refused(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="every task"):
        interquartile_mean(scores)


def test_the_bootstrap_draws_seeds_within_tasks_only() -> None:
    """All draws of each task's lower (higher) seed have chance 1/16, beyond 2.5 %: they are the
    ends. Across tasks 0.1 (0.9) four times over would be as likely."""
    found = bootstrap_iqm([[0.1, 0.3], [0.5, 0.9]])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.3, 0.6))


def test_the_bootstrap_repeats_itself_and_narrows_with_agreement() -> None:
    wide = [[0.2, 0.5, 0.8], [0.3, 0.6, 0.9]]
    close = [[0.49, 0.5, 0.51], [0.59, 0.6, 0.61]]
    first, second, narrow = bootstrap_iqm(wide), bootstrap_iqm(wide), bootstrap_iqm(close)
    assert first == second
    assert first is not None and narrow is not None
    assert narrow.high - narrow.low < (first.high - first.low) / 5
    assert bootstrap_iqm(wide, repetitions=50, seed=1) != bootstrap_iqm(wide, repetitions=50)


@settings(max_examples=25)
@given(st.lists(st.lists(accuracies, min_size=2, max_size=4), min_size=1, max_size=4))
def test_the_bootstrap_stays_within_what_its_seeds_can_give(scores: list[list[float]]) -> None:
    found = bootstrap_iqm(scores, repetitions=200)
    assert found is not None
    lowest = interquartile_mean([[min(row)] * len(row) for row in scores])
    highest = interquartile_mean([[max(row)] * len(row) for row in scores])
    assert lowest - 1e-9 <= found.low <= found.high <= highest + 1e-9


@pytest.mark.parametrize("scores", [[], [[0.5]], [[0.5, 0.6], [0.5]]])
def test_a_bootstrap_without_spread_is_undefined(scores: list[list[float]]) -> None:
    assert bootstrap_iqm(scores) is None


def vectors(only_first: int, only_second: int, both: int = 3) -> tuple[bytes, bytes]:
    first = [1] * only_first + [0] * only_second + [1] * both + [0]
    second = [0] * only_first + [1] * only_second + [1] * both + [0]
    return bytes(first), bytes(second)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),
        (4, 4, 1.0),  # Twice the tail is above one.
        (8, 1, 20 / 512),  # 2 · (1 + 9) / 2⁹
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    found = mcnemar(*vectors(only_first, only_second))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(p, rel=1e-12)


@given(bits)
def test_mcnemar_is_scipys_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = bytes(a for a, _ in pairs), bytes(b for _, b in pairs)
    found, turned = mcnemar(first, second), mcnemar(second, first)
    discordant = found.only_first + found.only_second
    assert discordant == sum(a != b for a, b in pairs)
    assert turned == type(found)(found.only_second, found.only_first, found.p)
    if discordant:
        expected = stats.binomtest(found.only_first, discordant).pvalue
        assert found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stays_exact_on_a_large_split() -> None:
    found = mcnemar(*vectors(5_100, 4_900))
    assert found.p == pytest.approx(stats.binomtest(5_100, 10_000).pvalue, rel=1e-9)


def test_vectors_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 images"):
        mcnemar(b"\1\0", b"\1\0\1")


def test_min_max_by_hand() -> None:
    assert min_max([0.2, 0.6, 0.4]) == pytest.approx([0.0, 1.0, 0.5])
    assert min_max([0.3, 0.3]) is None
    assert min_max([0.3]) is None
