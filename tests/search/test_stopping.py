from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.search.stopping import RULES, Asha, make_rule
from orchestrator.spec import Recipe


@pytest.mark.parametrize(
    ("epochs", "warmup", "rungs"),
    [
        (10, 2, (3, 9)),
        (100, 10, (12, 36)),
        (10, 1, (2, 6)),
        (6, 1, (2,)),
        (3, 1, (2,)),
        (2, 1, ()),
        (1, 0, ()),
        (50, 49, ()),
    ],
)
def test_rungs(epochs: int, warmup: int, rungs: tuple[int, ...]) -> None:
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup)
    assert Asha().rungs(recipe) == rungs
    assert make_rule("none").rungs(recipe) == ()


@given(st.integers(1, 300), st.integers(0, 299))
def test_rungs_are_after_warmup_and_before_the_end(epochs: int, warmup: int) -> None:
    recipe = Recipe(epochs=epochs, warmup_epochs=min(warmup, epochs - 1))
    for name in RULES:
        rungs = make_rule(name).rungs(recipe)
        assert all(recipe.warmup_epochs < rung < epochs for rung in rungs)
        assert list(rungs) == sorted(set(rungs))


def test_even_rungs() -> None:
    for name in ("median", "patience"):
        rule = make_rule(name)
        assert rule.rungs(Recipe(epochs=100, warmup_epochs=10)) == tuple(range(12, 100, 12))
        assert rule.rungs(Recipe(epochs=7, warmup_epochs=1)) == (2, 4, 6)
        assert rule.rungs(Recipe(epochs=1, warmup_epochs=0)) == ()


def test_what_is_below_the_median_of_five_others_stops() -> None:
    rule = make_rule("median")
    values = [0.5, 0.1, 0.6, 0.4, 0.2, 0.39, 0.4, 0.41]
    #   too few others five times; then medians of 0.4, 0.395 and 0.4
    expected = [False] * 5 + [True, False, False]
    assert [rule.stops(str(i), 3, value) for i, value in enumerate(values)] == expected
    assert not rule.stops("other", 6, 0.0), "nobody was at that rung"
    assert rule.stops("0", 3, 0.1) and not rule.stops("0", 3, 0.5), "told again, it counts once"
    assert not rule.stops("new", 3, float("nan"))


def test_patience_ends_after_three_rungs_without_a_gain() -> None:
    rule = make_rule("patience")
    curve = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.51, 12: 0.5, 14: 0.51, 16: 0.2}
    seen = [epoch for epoch, value in curve.items() if rule.stops("a", epoch, value)]
    assert seen == [16], "0.51 at epoch 10 is three rungs old"
    assert rule.stops("a", 16, 0.2) and not rule.stops("a", 14, 0.51), "told again, the same"
    assert not any(rule.stops("b", epoch, 0.1) for epoch in (2, 4, 6)), "others do not matter"
    assert rule.stops("b", 8, 0.1)


def test_only_what_is_strictly_below_the_best_third_stops() -> None:
    rule = Asha()
    values = [0.5, 0.4, 0.3, 0.5, 0.45, 0.6, 0.5]
    #   n = 1, 2: too few; 3: third of 3; 4 … 6: two best are safe; 7: three best
    expected = [False, False, True, False, True, False, False]
    assert [rule.stops(str(i), 3, value) for i, value in enumerate(values)] == expected


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_equal_values_are_treated_alike_and_the_best_survives(levels: list[int]) -> None:
    rule = Asha()
    for index, level in enumerate(levels):
        rule.stops(str(index), 3, level / 200)
    answers: dict[int, set[bool]] = {level: set() for level in levels}
    for index, level in enumerate(levels):
        answers[level].add(rule.stops(str(index), 3, level / 200))
    assert all(len(answer) == 1 for answer in answers.values())
    assert answers[max(levels)] == {False}


def test_rungs_do_not_mix_and_a_repeated_report_counts_once() -> None:
    rule = Asha()
    for key in "ab":
        assert not rule.stops(key, 3, 0.9)
    assert not rule.stops("c", 9, 0.1)
    for _ in range(3):
        assert not rule.stops("b", 3, 0.1)  # Two values only, however often they are told.
    assert rule.stops("c", 3, 0.2)


def test_nan_is_no_evidence() -> None:
    rule = Asha()
    assert not any(rule.stops(key, 3, float("nan")) for key in "abc")
    assert not rule.stops("d", 3, 0.0)


def test_unknown_rule() -> None:
    with pytest.raises(
        InvalidInput, match=r"unknown stopping rule 'ash'.*'asha'.*asha, median, none"
    ):
        make_rule("ash")
    assert set(RULES) == {"none", "asha", "median", "patience"}
