"""A whole sweep in this process: nothing to start, and easy to step through with a debugger.

Ask the search for trials until the pool is full, train one step, answer the trials that reached a
rung, tell the search the results; again until the search has no more. The Ray backend does the same
with many pools (`ray/dispatcher.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.engine.pool import AtRung
from orchestrator.search.search import Done, Search
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.retry import RetryPolicy


def run(
    search: Search,
    config: PoolConfig,
    *,
    device: str = "cpu",
    observe: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Run every trial that `search` asks for, as many at a time as the pool has slots.

    Args:
        search: gives trials, decides at rungs, hears results.
        config: the pool's settings.
        device: as torch names it, see `pick_device`.
        observe: called after every event, for progress displays and time budgets.
        notify: called with a sentence when storage fails and is retried, and when it works again.
    """
    retry = RetryPolicy(config.storage_timeout, notify)
    worker = PoolWorker(config, device, notify=notify)
    try:
        while _fill(worker, search, retry) or len(worker.pool):
            for event in worker.advance():
                result: TrialResult | None
                if isinstance(event, AtRung):
                    decision = search.rung(event.key, event.epoch, event.value)
                    result = worker.answer(event.key, decision)
                else:
                    result = event
                if result is not None:
                    search.tell(result)
                observe()
    finally:
        worker.close()


def _fill(worker: PoolWorker, search: Search, retry: RetryPolicy) -> bool:
    """Add trials until every slot is taken; False once the search has no more."""
    while len(worker.pool) < worker.pool.slots:
        asked = retry.call(search.ask)
        if not isinstance(asked, Trial):
            return not isinstance(asked, Done)
        worker.add(asked, search.rungs(asked))
    return True


def pick_device(wanted: str) -> str:
    """`auto` is cuda where there is one, else cpu; any other name is returned as it is."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
