"""Which prepared tasks a machine has."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator import tasks
from orchestrator.data.prepared.presence import presence
from orchestrator.data.prepared.store import identity

SUITE = tasks.suite("mini")


def _copied(mini_data: Path, tmp_path: Path) -> Path:
    shutil.copytree(mini_data, tmp_path / "data")
    return tmp_path / "data"


def test_prepared_tasks_have_the_fingerprint_that_pools_compare(mini_data: Path) -> None:
    found = presence(SUITE.store, SUITE.tasks, mini_data)
    assert {p.task: p.fingerprint for p in found} == {
        task.name: identity(SUITE.store, task, mini_data).final for task in SUITE.tasks
    }


def test_what_is_wrong_is_told_by_task(mini_data: Path, tmp_path: Path) -> None:
    root = _copied(mini_data, tmp_path)
    first, second, third, *_ = (task.name for task in SUITE.tasks)
    shutil.rmtree(root / SUITE.store / first)
    (root / SUITE.store / second / "manifest.json").unlink()
    (root / SUITE.store / third / "val.arrow").write_bytes(b"cut")
    problems = {p.task: p.problem for p in presence(SUITE.store, SUITE.tasks, root)}
    assert [problems[name] for name in (first, second, third)] == ["missing", "partial", "damaged"]
    assert set(problems.values()) == {"missing", "partial", "damaged", ""}


def test_an_empty_root_has_nothing(tmp_path: Path) -> None:
    found = presence(SUITE.store, SUITE.tasks, tmp_path / "none")
    assert {p.problem for p in found} == {"missing"}
