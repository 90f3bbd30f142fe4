"""A training step asks the device nothing: no value of a tensor is needed on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.engine.pool import Pool
from tests.engine.worlds import CPU, backbone, search_data, trial

WAITS = {
    "_local_scalar_dense": "item, float, int, bool or tolist",
    "nonzero": "indices of a condition",
    "masked_select": "a size that depends on values",
    "equal": "one answer for two tensors",
    "lift_fresh": "a tensor made of numbers of the host",
    "_to_copy": "a copy, if it changes the device",
}


class Waits(TorchDispatchMode):
    """Notes every operation for which the host would wait, or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS and (name != "_to_copy" or (kwargs or {}).get("device") is not None):
            self.found.append(f"{name}: {WAITS[name]}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("adapter", ["efft2", "lora", "hta", "vpt_deep", "adaptformer", "linear"])
def test_a_step_in_the_middle_of_an_epoch_waits_for_nothing(adapter: str, augment: str) -> None:
    pool = Pool(backbone(), CPU, width=3)
    data = search_data(view="centre")
    for seed in (1, 2, 3):
        dropout = {"dropout": 0.1 * seed} if adapter != "linear" else {}
        one = trial(adapter, dropout, seed, augment=augment, drop_path=0.1 * seed)
        pool.add(one, data)
    pool.advance()
    with Waits() as waits:
        assert pool.advance() == []
    assert waits.found == []


def test_and_the_test_can_fail() -> None:
    with Waits() as waits:
        float(torch.ones(2).sum())
        torch.tensor([1.0])
    assert [found.partition(":")[0] for found in waits.found] == [
        "_local_scalar_dense", "lift_fresh",
    ]  # fmt: skip
