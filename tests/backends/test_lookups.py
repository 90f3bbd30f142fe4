"""What Tune asks the head about its trainable class is asked once for a sweep."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray import tune
from ray.tune import registry
from ray.tune.registry import TRAINABLE_CLASS

from orchestrator.backends.ray import lookups


class Head:
    """A key-value store that counts questions."""

    def __init__(self, **values: bytes) -> None:
        self.values = {name.encode(): value for name, value in values.items()}
        self.asked: list[bytes] = []

    def __call__(self, key: bytes, **_: Any) -> bytes | None:
        self.asked.append(key)
        return self.values.get(key)


def test_an_answer_is_remembered_and_no_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(known=b"class")
    monkeypatch.setattr(registry, "_internal_kv_get", head)
    with lookups.remembered():
        tunes: Any = registry
        for _ in range(3):
            assert tunes._internal_kv_get(b"known") == b"class"
            assert tunes._internal_kv_get(b"later") is None
        head.values[b"later"] = b"registered"
        assert tunes._internal_kv_get(b"later") == b"registered"
    assert head.asked == [b"known", *[b"later"] * 4]
    assert registry._internal_kv_get is head, "put back"


def test_it_is_put_back_after_an_error_and_tolerates_another_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = Head()
    monkeypatch.setattr(registry, "_internal_kv_get", head)
    with pytest.raises(ZeroDivisionError), lookups.remembered():
        _ = 1 / 0
    assert registry._internal_kv_get is head
    monkeypatch.delattr(registry, "_internal_kv_get")
    with lookups.remembered():
        assert not hasattr(registry, "_internal_kv_get")


def test_this_version_of_tune_asks_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another version asks in another way, remembering has no effect any more: look again."""
    monkeypatch.setattr(registry, "_internal_kv_initialized", lambda: True)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    head = Head()
    monkeypatch.setattr(registry, "_internal_kv_get", head)
    key = registry._make_key(registry._global_registry.prefix, TRAINABLE_CLASS, "ours")
    head.values[key] = ray.cloudpickle.dumps(tune.Trainable)
    with lookups.remembered():
        for _ in range(5):
            assert registry._has_trainable("ours")
            assert registry.get_trainable_cls("ours") is tune.Trainable
    assert head.asked == [key]
