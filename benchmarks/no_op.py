"""A pool whose training is nothing: every trial ends at once with a made-up result.

Everything around it is the sweep's own: `PoolHost` records the result, `PoolService` answers, the
directory starts it. `install` puts it in place in the process of the command; the directory's and
the pool's process do the same for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from made_up import made_up

from orchestrator.backends.plan import HostPlan
from orchestrator.backends.pool_actor import PoolService
from orchestrator.backends.ray import directory, tuner
from orchestrator.spec import Trial

WEIGHTS = "w" * 64
"""Fingerprint of the backbone that nobody loads."""


class NoOpPool:
    """What `PoolHost` asks of a pool, without a device."""

    def __init__(self) -> None:
        self._trials: dict[str, Trial] = {}

    def __len__(self) -> int:
        return len(self._trials)

    def __contains__(self, key: str) -> bool:
        return key in self._trials

    @property
    def running(self) -> int:
        return len(self)

    @property
    def slots(self) -> None:
        """Unknown: the number in flight stays what it is."""

    def at_rung(self, key: str) -> None:
        """No trial ever waits."""

    def epoch(self, key: str) -> int:
        """Nothing is taken up."""
        return 0

    def add(self, trial: Trial, data: Any, pauses: Sequence[int] = ()) -> None:
        self._trials[trial.key] = trial

    def advance(self) -> list[Any]:
        from orchestrator.engine.pool import Ended

        trials, self._trials = self._trials, {}
        return [Ended(made_up(trial), None) for trial in trials.values()]


def no_op_host() -> type:
    """`PoolHost` around a `NoOpPool`, with neither backbone nor data (importing it takes torch)."""
    from orchestrator.backends import host

    nothing = SimpleNamespace(begin=lambda: None, worked=lambda *_: None, write=lambda *_: None)
    module: Any = host
    module.Pool = lambda *_, **__: NoOpPool()
    module.Meter = lambda *_, **__: nothing
    module.load_backbone = lambda _: SimpleNamespace(fingerprint=WEIGHTS)

    class NoOpHost(host.PoolHost):
        def _open(self, trial: Trial) -> Any:
            return SimpleNamespace()

    return NoOpHost


class NoOpService(PoolService):
    """The pool's process."""

    def _serve(self) -> None:
        from orchestrator.backends import host

        host.PoolHost = no_op_host()  # type: ignore[misc]
        super()._serve()


class NoOpDirectory(directory.PoolDirectory):
    """The directory's process."""

    def __init__(self, plan: HostPlan) -> None:
        directory.PoolService = NoOpService  # type: ignore[misc]
        super().__init__(plan)


def install() -> None:
    """Sweeps of this process train nothing from now on."""
    tuner.PoolDirectory = NoOpDirectory  # type: ignore[misc]
