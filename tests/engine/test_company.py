"""The company test: trials trained alone and together are the same trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from adapters.trial_axis import RandomMasks
from orchestrator.data.splits import SearchData
from orchestrator.spec import Trial
from tests.engine.worlds import assert_same, run, search_data, trial

OTHER = {"task": "other"}
FAMILIES: dict[str, Sequence[Trial]] = {
    "lora": (
        trial("lora", {"rank": 2, "alpha": 1.0, "dropout": 0.3}, 1, drop_path=0.3, lr=1e-3),
        trial("lora", {"rank": 6, "alpha": 24.0}, 2, weight_decay=0.1, **OTHER),
        trial("lora", {"rank": 1, "dropout": 0.1}, 1, drop_path=0.1, epochs=4, warmup_epochs=2),
        trial("lora", {"rank": 3}, 4, lr=999.0, weight_decay=900.0, **OTHER),
    ),
    "efft2": (
        trial("efft2", {"rank": 2, "scale": 0.1, "init": "uv", "dropout": 0.3}, 1, drop_path=0.3),
        trial("efft2", {"rank": 6, "scale": 5.0, "ffn_rank": 3, "dropout": 0.0}, 2, **OTHER),
        trial("efft2", {"rank": 3, "init": "uu"}, 3, lr=1e-3, weight_decay=0.1, drop_path=0.1),
        trial("efft2", {"rank": 4, "scale": 1e6}, 4, lr=999.0, **OTHER),
    ),
    "hta": (
        trial("hta", {"rank": 0, "dropout": 0.2}, 1, lr=1e-3, drop_path=0.3, head_init="zero"),
        trial("hta", {"rank": 3}, 2, weight_decay=0.1, lr=1e-3, **OTHER),
        trial("hta", {"rank": 1, "dropout": 0.5}, 3, drop_path=0.1, lr=2e-3),
        trial("hta", {"rank": 2}, 4, lr=999.0, **OTHER),
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
FAMILIES["linear, cropped"] = (
    trial("linear", {}, 1, lr=1e-2, **CROPPED),
    trial("linear", {}, 1, weight_decay=0.5, **CROPPED, **OTHER),
    trial("linear", {}, 3, lr=1e-3, schedule="timm_epoch", **CROPPED),
    trial("linear", {}, 4, lr=999.0, weight_decay=999.0, epochs=30, **CROPPED, **OTHER),
)


def data_of(one: Trial) -> SearchData:
    """Two tasks, of which one has fewer images and more classes."""
    view = "whole" if one.recipe.augment == "none" else "centre"
    classes, train = (4, 44) if one.task == "grey" else (7, 33)
    return search_data(one.task, classes, train, view)


def alone_and_together(trials: Sequence[Trial]) -> tuple[Any, Any]:
    """The second trial joins when the others have taken seven steps."""
    pairs = [(one, data_of(one)) for one in trials]
    together = run([pairs[0], *pairs[2:]], late={7: pairs[1]})
    return {one.key: run([pair]) for one, pair in zip(trials, pairs, strict=True)}, together


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_alone_equals_the_trial_in_company(family: str) -> None:
    trials = FAMILIES[family]
    alone, together = alone_and_together(trials)
    for one in trials:
        assert_same(together, alone[one.key], one.key)
        assert together.results[one.key].parameters == alone[one.key].results[one.key].parameters
    statuses = [together.results[one.key].status for one in trials]
    assert statuses == ["finished", "finished", "finished", "diverged"]


def test_the_company_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks from the global generator, as timm draws them, are found out."""
    torch.manual_seed(0)

    def careless(
        self: RandomMasks, index: int, shape: tuple[int, ...], rate: float
    ) -> torch.Tensor:
        return (torch.rand(shape) >= rate) / (1 - rate)

    monkeypatch.setattr(RandomMasks, "_keep", careless)
    trials = [FAMILIES["lora"][0], FAMILIES["lora"][2]]
    alone, together = alone_and_together(trials)
    with pytest.raises(AssertionError):
        assert_same(together, alone[trials[0].key], trials[0].key)


@pytest.mark.parametrize("adapter", ["lora", "linear"])
def test_cropped_trials_see_other_images_but_are_evaluated_alike(adapter: str) -> None:
    still = {"lr": 1e-9, "warmup_lr": 1e-9}
    plain, cropped = trial(adapter, {}, 1, **still), trial(adapter, {}, 1, **still, **CROPPED)
    seen = run([(one, data_of(one)) for one in (plain, cropped)])
    one, other = (seen.results[some.key].curve[0] for some in (plain, cropped))
    assert abs(one.loss - other.loss) > 1e-4 or adapter == "linear"  # whose head begins at 0
    assert one.eval_loss == pytest.approx(other.eval_loss, abs=1e-5)
    tensors = [seen.tensors[some.key]["head.weight"] for some in (plain, cropped)]
    assert not torch.equal(*tensors)


def test_divergence_names_the_step_and_is_the_record() -> None:
    trials = FAMILIES["efft2"]
    result = run([(one, data_of(one)) for one in trials]).results[trials[3].key]
    assert result.status == "diverged"
    assert result.message == "diverged at step 6: its training loss is not finite"
    assert result.value is None
    assert result.eval_loss is None
    assert result.correct == b""
    assert result.epochs_run == 2


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
