"""The count of a disturbed sweep's trials sees what was lost, repeated or rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.results.ledger import Ledger
from orchestrator.storage.files import write_whole
from orchestrator.storage.sweep_paths import SweepPaths
from tests.hosts.sweeps import Disturbed
from tests.rows import result

ROWS = [result(seed) for seed in range(3)]


def _note(folder: Path, event: str, key: str, when: int) -> None:
    log = SweepPaths(folder).trial_log
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file:
        file.write(f"{when}.000 {event} {key} 77 0\n")


@pytest.fixture
def disturbed(tmp_path: Path) -> Disturbed:
    """A folder in which three trials were recorded, one after the other."""
    watched = Disturbed(tmp_path)
    for when, row in enumerate(ROWS):
        _note(tmp_path, "started", row.key, 10 * when)
        Ledger(SweepPaths(tmp_path).ledger).append(row)
        _note(tmp_path, "recorded", row.key, 10 * when + 5)
    return watched


def test_a_whole_ledger_counts(disturbed: Disturbed) -> None:
    assert disturbed.recorded == 3
    assert disturbed.running == {}
    assert disturbed.taken_up == 0
    disturbed.check_counts(3)


def test_one_that_runs_and_one_that_was_taken_up(disturbed: Disturbed) -> None:
    for when in (50, 60):
        _note(disturbed.folder, "started", "f" * 32, when)
    assert disturbed.running == {"f" * 32: 77}
    assert disturbed.taken_up == 1
    disturbed.check_counts(3)


def _fragment(folder: Path) -> Path:
    return folder / "ledger" / "fragments" / f"{ROWS[0].key}.parquet"


def _rewrite(folder: Path) -> None:
    path = _fragment(folder)
    write_whole(path, path.read_bytes(), folder / "ledger" / "tmp")


TROUBLE: dict[str, Callable[[Path], object]] = {
    "lost": lambda folder: _fragment(folder).unlink(),
    "put in again": _rewrite,
    "recorded twice": lambda folder: _note(folder, "recorded", ROWS[0].key, 70),
    "trained again": lambda folder: _note(folder, "started", ROWS[0].key, 70),
    "one too many": lambda folder: Ledger(SweepPaths(folder).ledger).append(result(9)),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_seen(name: str, disturbed: Disturbed) -> None:
    TROUBLE[name](disturbed.folder)
    with pytest.raises(AssertionError):
        disturbed.check_counts(3)
