"""A light process without torch that holds a fraction of a device and waits for its trial."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnschedulableError, RayActorError

from orchestrator.backends.pool_actor import Report
from orchestrator.backends.ray.cluster import NAMESPACE, cores_on

_POOL_RETRIES = 5


class PoolTrainable(tune.Trainable):
    """One Tune trial: forwards its trial to the pool of the device it was given, and waits."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins with the first trial."""
        self._pool: Any = None
        self._known: dict[str, Any] = {}
        self._directory = ray.get_actor(config["directory"], namespace=NAMESPACE)
        self._place, self._at_rung = "", False
        self._node = ray.get_runtime_context().get_node_id()
        self._cores = cores_on(self._node)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial over in the same process."""
        self._place, self._pool, self._at_rung = "", None, False
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next rung or its end."""
        report = self._report()
        self._at_rung = report["status"] == "rung"
        if not self._at_rung:
            self._directory.leave.remote(self.config["key"])
        return {**report, "pool": self._place, "done": not self._at_rung}

    def _report(self) -> Report:
        for _ in range(_POOL_RETRIES):
            if self._pool is None:
                self._enter()
            try:
                if self._at_rung:
                    answer = self._pool.proceed.remote(self.config["key"])
                else:
                    answer = self._pool.train.remote(self.config["trial"], self.config["rungs"])
                report: Report = ray.get(answer)
                return report
            except (RayActorError, ActorUnschedulableError):
                # The pool died: the next one takes the trial up at its checkpoint.
                ray.get(self._directory.lost.remote(self._place, self._pool._actor_id.hex()))
                self._pool, self._at_rung = None, False
        return {
            "status": "broken",
            "epoch": 0,
            "value": -1.0,
            "message": "its pool died repeatedly",
        }

    def _enter(self) -> None:
        device = own_device(self.config["device"])
        place = (self._node, device, self._cores)
        entered: Any = self._directory.enter.remote(self.config["key"], *place)
        self._place, self._pool = ray.get(entered)
        # Kept from trial to trial: Ray forgets where an actor is with the last handle to it.
        self._known[self._place] = self._pool


def own_device(wanted: str) -> str:
    """The device that this process was given, as torch names it."""
    if wanted not in ("auto", "cuda"):
        return wanted
    gpus = ray.get_gpu_ids()
    return f"cuda:{gpus[0]}" if gpus else "cpu"
