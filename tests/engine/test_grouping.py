"""Which trials share a stack, and why others do not."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine.grouping import GroupKey, incompatible_because
from orchestrator.engine.pool import Pool
from orchestrator.spec import Trial
from tests.engine.worlds import CPU, backbone, search_data, trial


def keys(*trials: Trial, view: str = "whole") -> tuple[GroupKey, ...]:
    pool = Pool(backbone(), CPU, width=4)
    for one in trials:
        classes = 4 if one.task == "grey" else 9
        pool.add(one, search_data(one.task, classes, view=view))
    return tuple(group.key for group in pool.groups)


def test_tasks_ranks_scales_rates_seeds_and_dropouts_share() -> None:
    trials = [
        trial("efft2", {"rank": 2, "scale": 0.1, "dropout": 0.3}, 1),
        trial("efft2", {"rank": 6, "scale": 5.0, "ffn_rank": 3, "init": "uu"}, 2, task="other"),
        trial("efft2", {"rank": 1}, 3, lr=0.5, weight_decay=0.1, epochs=9, drop_path=0.3),
    ]
    (key,) = keys(*trials)
    assert key.label() == "efft2 (sites=('mhsa', 'ffn'), cores=per_layer), batch 8"


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (trial("lora"), trial("hta"), "adapter (lora, hta)"),
        (trial("lora"), trial("lora", {"sites": ["q"]}), "sites (('q', 'v'), ('q',))"),
        (trial("lora"), trial(batch=16), "batch (8, 16)"),
        (trial("lora"), trial(optimiser="sgd"), "optimiser (adamw, sgd)"),
        (trial("lora"), trial(last_batch="keep"), "last_batch (drop, keep)"),
        (trial("lora"), trial(augment="crop_flip"), "augment (none, crop_flip)"),
        (trial("lora"), trial(precision="bf16"), "precision (fp32, bf16)"),
        (trial("lora"), trial(normalisation="half"), "normalisation (imagenet, half)"),
        (
            trial("lora", {"layers": [1]}),
            trial("lora", {"layers": [1]}, drop_path=0.2, augment="crop_flip"),
            "augment (none, crop_flip); prefix (1, None)",
        ),
        (trial("linear"), trial("linear", drop_path=0.2), "prefix (3, 1)"),
        (trial("lora"), trial("full"), "full takes one trial at a time"),
        (trial("full", seed=1), trial("full", seed=2), "full takes one trial at a time"),
    ],
)
def test_the_reasons_not_to_share_are_named(one: Trial, other: Trial, why: str) -> None:
    first, second = keys(one, other)
    assert incompatible_because(first, second) == why


def test_views_differ() -> None:
    one, other = keys(trial())[0], keys(trial(), view="centre")[0]
    assert incompatible_because(one, other) == "view (whole, centre)"


@pytest.mark.parametrize(
    ("adapter", "params", "recipe", "prefix"),
    [
        ("linear", {}, {}, 3),  # of 2 blocks: the features
        ("lora", {}, {}, None),
        ("lora", {"layers": [1]}, {}, 1),
        ("lora", {"layers": [1]}, {"drop_path": 0.1}, 1),  # block 0 drops nothing
        ("linear", {}, {"drop_path": 0.1}, 1),
        ("lora", {"layers": [1]}, {"augment": "crop_flip"}, None),
        ("dtl", {}, {}, 1),
        ("last", {}, {}, 2),  # the final norm
        ("last", {}, {"drop_path": 0.1}, 1),
    ],
)  # the first changed block of every adapter: tests/adapters/test_partial_forward.py
def test_where_a_step_begins(
    adapter: str, params: dict[str, Any], recipe: dict[str, Any], prefix: int | None
) -> None:
    (key,) = keys(trial(adapter, params, **recipe))
    assert key.prefix == prefix
