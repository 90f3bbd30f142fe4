"""A trial trained alone equals the same trial trained with co-batched ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.data.splits import SearchData
from orchestrator.spec import Trial
from tests.engine.worlds import assert_same, run, search_data, trial

OTHER = {"task": "other"}
FAMILIES: dict[str, Sequence[Trial]] = {
    "efft2": (
        trial("efft2", {"rank": 2, "scale": 0.1, "init": "uv", "dropout": 0.3}, 1, drop_path=0.3),
        trial("efft2", {"rank": 6, "scale": 5.0, "ffn_rank": 3, "dropout": 0.0}, 2, **OTHER),
        trial("efft2", {"rank": 3, "init": "uu"}, 3, lr=1e-3, weight_decay=0.1, drop_path=0.1),
        trial("efft2", {"rank": 4, "scale": 1e6}, 4, lr=999.0, **OTHER),
    ),
    "linear": (
        trial("linear", {}, 1, lr=1e-2, drop_path=0.3),
        trial("linear", {}, 2, weight_decay=0.5, drop_path=0.1, **OTHER),
        trial("linear", {}, 3, lr=1e-3, drop_path=0.2, schedule="timm_epoch"),
        trial("linear", {}, 4, lr=999.0, weight_decay=999.0, drop_path=0.1, epochs=30, **OTHER),
    ),
}  # fmt: skip
CROPPED = {"augment": "crop_flip"}
FAMILIES["lora, cropped"] = (
    trial("lora", {"rank": 2, "dropout": 0.3}, 1, drop_path=0.3, **CROPPED),
    trial("lora", {"rank": 6, "alpha": 24.0}, 1, weight_decay=0.1, **CROPPED, **OTHER),
    trial("lora", {"rank": 1}, 3, epochs=4, warmup_epochs=2, **CROPPED),
    trial("lora", {"rank": 3}, 4, lr=999.0, weight_decay=900.0, **CROPPED, **OTHER),
)


def data_of(one: Trial) -> SearchData:
    """Two tasks, of which one has fewer images and more classes."""
    view = "whole" if one.recipe.augment == "none" else "centre"
    classes, train = (4, 44) if one.task == "grey" else (7, 33)
    return search_data(one.task, classes, train, view)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_alone_equals_the_cobatched_trial(family: str) -> None:
    """The second trial joins when the others have made seven steps."""
    trials = FAMILIES[family]
    pairs = [(one, data_of(one)) for one in trials]
    together = run([pairs[0], *pairs[2:]], late={7: pairs[1]})
    for one, data in pairs:
        alone = run([(one, data)])
        assert_same(together, alone, one.key)
        assert together.results[one.key].parameters == alone.results[one.key].parameters
    *others, last = (together.results[one.key] for one in trials)
    assert [row.status for row in others] == ["finished"] * 3
    assert (last.status, last.value, last.eval_loss) == ("diverged", None, None)
    assert last.correct == b""
    assert re.fullmatch(r"diverged at step \d+: its (training|evaluation) loss .*", last.message)


@pytest.mark.parametrize("adapter", ["lora", "linear"])
def test_the_same_trial_twice_is_the_same(adapter: str) -> None:
    one = trial(adapter, {}, 3)
    first, second = run([(one, data_of(one))]), run([(one, data_of(one))])
    assert_same(first, second, one.key, to=0)


def test_different_seeds_differ() -> None:
    one, two = trial(seed=1), trial(seed=2)
    seen = run([(one, data_of(one)), (two, data_of(two))])
    assert not np.isclose(
        seen.results[one.key].curve[0].loss, seen.results[two.key].curve[0].loss, atol=1e-4
    )
