"""What a pool's groups say of themselves when their trials have ended."""

from __future__ import annotations

from orchestrator.backends.meter import uses
from orchestrator.engine.pool import Pool
from tests.engine.worlds import CPU, backbone, search_data, trial


def test_groups_without_trials_are_reported_like_others() -> None:
    pool = Pool(backbone(), CPU, width=3)
    assert pool.slots == 1, "nothing is known yet"
    for adapter in ("lora", "hta"):
        pool.add(trial(adapter, epochs=1, warmup_epochs=0), search_data())
    during = uses(pool.groups)
    while len(pool):
        pool.advance()
    assert pool.slots == 3
    lora, hta = uses(pool.groups)
    assert (lora.apart, hta.apart) == ("", "adapter (lora, hta)")
    assert [use.apart for use in during] == [lora.apart, hta.apart]
    assert (lora.trained, lora.width, lora.bound) == (40, 3, "as asked for")
