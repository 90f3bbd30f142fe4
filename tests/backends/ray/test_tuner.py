"""What a trainable does when its pool dies, and which device it uses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from orchestrator.backends import ray_settings
from orchestrator.backends.pool_service import Report
from orchestrator.backends.ray.tuner import PoolTrainable, own_device
from tests.rows import TRIAL

RUNG = Report(TRIAL.key, "rung", 3, 0.5)
ENDED = Report(TRIAL.key, "ended")


def _method(answer: Any) -> Any:
    return SimpleNamespace(remote=lambda *_: answer)


def _pool(name: str, train: Any, proceed: Any = None) -> Any:
    actor_id = SimpleNamespace(hex=lambda: name)
    return SimpleNamespace(_actor_id=actor_id, train=_method(train), proceed=_method(proceed))


class Manager:
    """Gives out pools in order, the last one for ever; notes which were found dead."""

    def __init__(self, *pools: Any) -> None:
        self.pools, self.dead = list(pools), list[str]()
        self.enter = SimpleNamespace(remote=self._enter)
        self.lost = SimpleNamespace(remote=self.dead.append)
        self.leave = _method(None)

    def _enter(self, *_: Any) -> Any:
        return self.pools.pop(0) if len(self.pools) > 1 else self.pools[0]


def _trainable(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> PoolTrainable:
    def get(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    context = SimpleNamespace(get_node_id=lambda: "node")
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "get_actor", lambda *_, **__: manager)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    one = object.__new__(PoolTrainable)
    values = {"key": TRIAL.key, "trial": TRIAL.to_dict(), "rungs": [3]}
    one.config = {**values, "manager": "m", "device": "cpu"}
    one.setup(one.config)
    return one


def test_a_trial_whose_pool_died_at_its_rung_enters_the_next_and_reports_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = Manager(_pool("old", RUNG, ActorDiedError()), _pool("new", RUNG, ENDED))
    one = _trainable(manager, monkeypatch)
    for report in (RUNG, RUNG, ENDED):
        assert one.step() == {"report": report, "done": report is ENDED}
    assert manager.dead == ["old"]


def test_pools_that_keep_dying_break_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    one = _trainable(Manager(_pool("a", ActorDiedError())), monkeypatch)
    said = one.step()
    assert (said["report"].status, said["done"]) == ("broken", True)


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [("auto", [], "cpu"), ("auto", ["3"], "cuda:3"), ("cuda", [1], "cuda:1"), ("cpu", [1], "cpu")],
)
def test_a_trainable_uses_the_device_it_was_given(
    wanted: str, gpus: list[Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: gpus)
    assert own_device(wanted) == expected


def test_only_a_cluster_of_one_machine_is_kept_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    ray_settings.apply("10.0.0.1:6379")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    ray_settings.apply(None)
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
