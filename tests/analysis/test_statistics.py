from __future__ import annotations

import itertools
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.analysis.statistics import (
    Answers,
    Folds,
    Variance,
    average,
    critical_difference,
    difference_over_images,
    estimate,
    expected_best,
    friedman,
    holm,
    interquartile_mean,
    iqm_interval,
    min_max,
    over_seeds,
    paired_images,
    ranks,
    t_interval,
    two_sided,
)

accuracies = st.floats(0, 1)
several = st.lists(accuracies, min_size=2, max_size=12)
tasks = st.integers(1, 4).flatmap(
    lambda seeds: st.lists(st.lists(accuracies, min_size=seeds, max_size=seeds), min_size=1)
)


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
    mean, scale = fmean(values), stats.sem(values)
    found = t_interval(mean, over_seeds(values), confidence, bounded=False)
    if scale < 1e-12:  # scipy answers nan.
        assert found.high - found.low < 1e-9
        return
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), scale)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


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


def test_the_interval_of_the_interquartile_mean_repeats_itself_and_narrows_with_agreement() -> None:
    wide = [[0.2, 0.5, 0.8], [0.3, 0.6, 0.9]]
    close = [[0.49, 0.5, 0.51], [0.59, 0.6, 0.61]]
    first, second, narrow = iqm_interval(wide), iqm_interval(wide), iqm_interval(close)
    assert first == second
    assert first is not None and narrow is not None
    assert narrow.high - narrow.low < (first.high - first.low) / 5


def test_of_one_task_the_interval_is_close_to_that_of_its_mean() -> None:
    """Many seeds whose middle half is their mean's neighbourhood: a trimmed mean varies as much."""
    values = [[0.1 + 0.8 * (step + 0.5) / 40 for step in range(40)]]
    found, mean = iqm_interval(values), estimate(values[0])
    assert found is not None and mean.half is not None
    assert found.high - found.low == pytest.approx(2 * mean.half, rel=0.5)


@pytest.mark.parametrize(
    "scores", [[], [[0.5]], [[0.5, 0.6], [0.5]], [[0.5, 0.5], [0.6, 0.6]], [[0.935] * 3, [0.1] * 3]]
)
def test_an_interval_without_spread_is_undefined(scores: list[list[float]]) -> None:
    assert iqm_interval(scores) is None


def test_mean_squares_of_seeds_by_images_by_hand() -> None:
    """Rows .75 and .25; columns 1, .5, .5, 0; the rest is -.25, .25, .25, -.25 and its negative."""
    found = Answers.of([bytes([1, 1, 1, 0]), bytes([1, 0, 0, 0])])
    assert found is not None
    assert found.mean_square_seeds == pytest.approx(4 * 0.125)
    assert found.mean_square_images == pytest.approx(2 * 0.5 / 3)
    assert found.mean_square_rest == pytest.approx(8 * 0.0625 / 3)
    assert found.variance.value == pytest.approx((0.5 + 1 / 3 - 1 / 6) / 8)


def test_degrees_of_freedom_are_satterthwaites() -> None:
    """Of two means they are Welch's."""
    first, second = [0.50, 0.52, 0.57], [0.60, 0.61, 0.70, 0.74]
    found = over_seeds(first) + over_seeds(second)
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.freedom == pytest.approx(expected.df)
    assert two_sided(fmean(first) - fmean(second), found) == pytest.approx(expected.pvalue)
    interval = t_interval(fmean(first) - fmean(second), found, bounded=False)
    wanted = expected.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))


def test_without_noise_of_seeds_an_interval_of_a_share_is_wilsons() -> None:
    right = np.array([[1.0] * 170 + [0.0] * 30] * 3)
    found = estimate(right.mean(1).tolist(), Answers(right))
    assert found.undefined == "3 seeds agree exactly"
    assert found.images is not None
    wilson = stats.binomtest(170, 200).proportion_ci(0.95, "wilson")
    assert (found.images.low, found.images.high) == pytest.approx(
        (wilson.low, wilson.high), abs=1e-3
    )


@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_intervals_stay_within_what_is_possible(seeds: int, images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = (rng.random((seeds, images)) < rng.random()).astype(np.float64)
    found = estimate(right.mean(1).tolist(), Answers(right))
    assert found.mean is not None and found.images is not None
    for one in (found.interval, found.images):
        if one is not None:
            assert 0 <= one.low <= found.mean + 1e-12 and found.mean <= one.high + 1e-12 <= 1 + 1e-9
    if found.mean in (0, 1):
        assert found.images.low < found.images.high, "all right is not surely right"


def test_a_pair_of_adapters_on_the_same_images_is_paired() -> None:
    rng = np.random.default_rng(0)
    base, another = (Answers(rng.random((3, 500)) < 0.8) for _ in range(2))
    same, other = (difference_over_images(base, one) for one in (base, another))
    assert same.value < other.value
    assert two_sided(0.0, same) == pytest.approx(1.0)


def test_without_spread_a_difference_is_certain_and_none_is_no_difference() -> None:
    assert (two_sided(0.0, Variance()), two_sided(0.1, Variance())) == (1.0, 0.0)


def test_an_average_weighs_variances_with_the_squares_of_its_weights() -> None:
    rows = [[0.5, 0.6, 0.7], [0.1, 0.1, 0.4]]
    found = average(rows, [0.25, 0.75])
    assert found.mean == pytest.approx(0.25 * 0.6 + 0.75 * 0.2)
    assert found.values == pytest.approx((0.2, 0.225, 0.475))
    variances = [0.01 / 3 / 16, 0.03 / 3 * 9 / 16]
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    half = stats.t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert found.interval is not None
    assert found.interval.high == pytest.approx(0.3 + half)
    uneven = average([[0.5, 0.6], [0.1, 0.1, 0.4]], [0.5, 0.5])
    assert uneven.values == () and uneven.interval is not None
    assert average([[0.5], [0.1, 0.2]], [0.5, 0.5]).undefined == "one seed"
    steady = average([[0.935] * 3, [0.1] * 3], [0.5, 0.5])
    assert (steady.interval, steady.undefined) == (None, "the seeds of every task agree exactly")


@pytest.mark.parametrize("configurations", [1, 4])
def test_folds_tell_what_seeds_change_from_what_images_do(configurations: int) -> None:
    rng = np.random.default_rng(0)
    spreads, values = [], []
    for _ in range(400):
        chance, right = rng.beta(3, 1, 1000), []
        place = np.argsort(rng.random((5, 1000)))[:, :200]
        for _ in range(configurations):
            moved = np.clip(chance[place] + rng.normal(0, 0.03, (5, 1)), 0, 1)
            right.append(rng.random((5, 200)) < moved)
        found = Folds(np.array(right))
        assert found.freedom == 4 * max(configurations - 1, 1)
        spreads.append([part for part, _ in found.spread(0.2).parts])
        values.append(np.array(right).mean(2)[0])
    # The seeds' variance is 0.03² less what clipping takes; single trainings are independent here.
    expected = np.sum(spreads, 1).mean()
    assert 0.6 * 0.03**2 < expected < 1.4 * 0.03**2
    assert np.mean(spreads, 0)[0] > 1.3 * expected, "the images' part is taken off"


def test_folds_overlap() -> None:
    """Nadeau & Bengio's variance of a mean over folds covers what other images would give."""
    rng = np.random.default_rng(1)
    covered = {"corrected": 0, "naive": 0}
    for _ in range(600):
        world = rng.random(1000) < 0.7
        place = np.argsort(rng.random((5, 1000)))[:, :200]
        values = world[place].mean(1)
        mean = float(values.mean())
        corrected = estimate(list(values), share=0.2).images
        naive = t_interval(mean, over_seeds(values))
        assert corrected is not None
        covered["corrected"] += corrected.low <= 0.7 <= corrected.high
        covered["naive"] += naive.low <= 0.7 <= naive.high
    assert covered["corrected"] > 0.93 * 600 > covered["naive"]


@pytest.mark.parametrize(
    "correct",
    [[], [{1: b"\1\0"}], [{1: b"\1\0", 2: b"\1"}], [{1: b"\1\0", 2: b"\1\0"}, {1: b"\1\1"}]],
)
def test_vectors_that_share_no_two_folds_are_none(correct: list[dict[int, bytes]]) -> None:
    assert Folds.of(correct) is None


def test_holm_by_hand() -> None:
    """4 · .005, 3 · .01, then never less than before."""
    assert holm([0.01, 0.03, 0.005, 0.04]) == pytest.approx([0.03, 0.06, 0.02, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("adapters", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_demsars_table(adapters: int, q: float) -> None:
    """Demšar 2006, table 5(a), at 0.05."""
    expected = q * (adapters * (adapters + 1) / (6 * 14)) ** 0.5
    assert critical_difference(adapters, 14) == pytest.approx(expected, rel=1e-3)


def test_ranks_share_ties() -> None:
    found = ranks(np.array([[0.9, 0.7, 0.9, 0.1]]))
    assert found.tolist() == [[1.5, 3.0, 1.5, 4.0]]
    assert friedman(np.full((4, 3), 0.5)) == 1.0


@given(st.lists(accuracies, min_size=1, max_size=7), st.integers(1, 7))
def test_the_expected_best_is_the_mean_over_all_draws(values: list[float], drawn: int) -> None:
    drawn = min(drawn, len(values))
    expected = fmean(max(some) for some in itertools.combinations(values, drawn))
    assert expected_best(np.array([values]), drawn)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rows", [[], [b"", b""], [b"\1\0"], [b"\1", b"\1"], [b"\1\0", b"\1\0\1"]])
def test_vectors_that_do_not_match_are_no_answers(rows: list[bytes]) -> None:
    assert Answers.of(rows) is None


def test_a_pair_of_vectors_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 images"):
        paired_images(b"\1\0", b"\1\0\1")


def test_min_max_by_hand() -> None:
    assert min_max([0.2, 0.6, 0.4]) == pytest.approx([0.0, 1.0, 0.5])
    assert min_max([0.3, 0.3]) is None
    assert min_max([0.3]) is None
