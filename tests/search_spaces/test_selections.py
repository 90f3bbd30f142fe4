"""Blocks and parts as text, and the ablation made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import PRESETS, choices, from_yaml, grid_size, to_choice, to_field, to_yaml


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("layers", "0-2", [0, 1, 2]),
        ("layers", "7", [7]),
        ("layers", "0-2+9-11+4", [0, 1, 2, 4, 9, 10, 11]),
        ("layers", "3-3", [3]),
        ("sites", "mhsa", ["mhsa"]),
        ("sites", "q+v", ["q", "v"]),
        ("layers", None, None),
        ("init", "0-2", "0-2"),
        ("rank", 4, 4),
    ],
)
def test_texts_become_what_a_field_takes(name: str, text: Any, value: Any) -> None:
    assert to_field(name, text) == value


@pytest.mark.parametrize("text", ["", "a", "0-", "-2", "5-3", "0-2+5-3", "0-2,4", "0--2"])
def test_a_text_without_blocks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: blocks such as '0-2'"):
        to_field("layers", text)


@given(st.sets(st.integers(0, 40), min_size=1))
def test_layers_survive_as_text(blocks: set[int]) -> None:
    text = to_choice("layers", sorted(blocks))
    assert isinstance(text, str)
    assert to_field("layers", text) == sorted(blocks)
    assert to_choice("layers", "+".join(map(str, blocks))) == text, "one spelling"


def test_sites_survive_as_text_in_their_order() -> None:
    assert to_choice("sites", ["v", "q"]) == "v+q"
    assert to_choice("sites", ("mhsa",)) == "mhsa"


def groups(depth: int) -> list[list[int] | None]:
    return [
        to_field("layers", text)
        for text in choices(PRESETS["ablation"]("lora", depth)["layers"]) or ()
    ]


def test_the_ablation_is_the_papers_table_with_its_reference() -> None:
    """Layers 0-2, 2-4, 5-8, 9-11 × {MHSA, FFN}, each half alone in all layers, and both halves."""
    assert groups(12) == [None, [0, 1, 2], [2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    space = PRESETS["ablation"]("lora", 12)
    assert choices(space["sites"]) == ("mhsa", "ffn", "mhsa+ffn")
    assert grid_size(space) == 15
    assert from_yaml(to_yaml(space)) == (space, {})


def test_the_groups_keep_their_share_of_another_depth() -> None:
    assert groups(24)[1:] == [
        [*range(6)], [*range(4, 10)], [*range(10, 18)], [*range(18, 24)]
    ]  # fmt: skip
    assert groups(4)[1:] == [[0], [0, 1], [1, 2], [3]]
    assert groups(2)[1:] == [[0], [0, 1], [1]]
    for depth in range(1, 49):
        found = groups(depth)[1:]
        assert sorted({b for group in found for b in group or ()}) == [*range(depth)]
