"""The sweep in this process: nothing to start, easy to step through with a debugger."""

from __future__ import annotations

from collections.abc import Callable

import torch

from orchestrator.backends.host import PoolHost
from orchestrator.backends.plan import HostPlan
from orchestrator.engine.pool import AtRung
from orchestrator.search.search import Done, Search
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.retry import RetryPolicy


def run(
    search: Search,
    plan: HostPlan,
    *,
    device: str = "cpu",
    observe: Callable[[], None] = lambda: None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Runs every trial that `search` asks for, as many at a time as the pool has slots for.

    `observe` is called after every step that changed something; `say` hears of storage that
    refuses.
    """
    patience = RetryPolicy(plan.storage_patience, say)
    host = PoolHost(plan, device, say=say)
    try:
        while not (_fill(host, search, patience) and len(host) == 0):
            for event in host.advance():
                _answer(host, search, event)
                observe()
    finally:
        host.close()


def pick_device(wanted: str) -> str:
    """`auto` is cuda where there is one, else cpu; anything else is taken as it is."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _fill(host: PoolHost, search: Search, patience: RetryPolicy) -> bool:
    """Adds trials until every slot is taken; True if the search has no more."""
    while len(host) < host.slots:
        asked = patience.call(search.ask)
        if not isinstance(asked, Trial):
            return isinstance(asked, Done)
        host.add(asked, search.rungs(asked))
    return False


def _answer(host: PoolHost, search: Search, event: AtRung | TrialResult) -> None:
    if isinstance(event, AtRung):
        result = host.answer(event.key, search.rung(event.key, event.epoch, event.value))
        if result is not None:
            search.tell(result)
    else:
        search.tell(event)
