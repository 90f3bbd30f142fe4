from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import read_sweep
from orchestrator.results.throughput import GroupUse, Window
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tracking import locations, mlflow
from orchestrator.tracking.mlflow import (
    MlflowStore,
    TrackCounts,
    check_database,
    open_tracker,
    track,
)
from orchestrator.tracking.tracker import LOCK, Tracker, only_writer
from tests.tracking.database import check_agrees, content, count, stored
from tests.tracking.synthetic import append, make_sweep, result, results, sweep_of

NOBODY = "http://user:hunter2@127.0.0.1:9"
"""The port of `discard`, which nothing serves."""


def uri(out: Path) -> str:
    return f"sqlite:///{out / 'mlflow.db'}"


def test_every_row_becomes_one_run_and_a_second_call_changes_nothing(sweep: Path) -> None:
    rows = append(sweep, results(12))
    assert {row.status for row in rows} == {"finished", "stopped", "diverged"}
    progress: list[tuple[int, int]] = []
    assert track(sweep, on_progress=lambda *done: progress.append(done)) == TrackCounts(12, 12)
    assert progress[-1] == (12, 12)
    runs = check_agrees(sweep, rows)
    assert runs["sweep"].status == "FINISHED"
    before = content(sweep)
    assert track(sweep) == TrackCounts(12, 0)
    assert content(sweep) == before


def test_what_pools_note_is_added_as_it_comes_and_never_twice(sweep: Path) -> None:
    group = GroupUse("lora, batch 8", 2, 4, "throughput", 0, 800, 0, "")
    window = Window("n cpu", "CPU", 100.0, 10.0, 800, 200, 2e9, 1e9, 10**9, (group,))
    rows = append(sweep, results(2))
    throughput.append(SweepPaths(sweep).pools, window)
    track(sweep)
    tracker = open_tracker(sweep, uri(sweep))
    for second in (1, 2):
        throughput.append(SweepPaths(sweep).pools, replace(window, time=100.0 + second, trained=0))
        tracker.note(throughput.read(SweepPaths(sweep).pools))
    points = check_agrees(sweep, rows)["sweep"].points
    assert points["system/n cpu/images_per_second"] == [(0, 100.0), (1, 20.0), (2, 20.0)]
    assert points["system/n cpu/memory_megabytes"] == [(n, 1000.0) for n in range(3)]
    before = content(sweep)
    assert track(sweep) == TrackCounts(2, 0)
    assert content(sweep) == before


def test_a_trial_shows_its_tags_and_params(sweep: Path) -> None:
    (row,) = append(sweep, [result(random.Random(0), 0, stage="final")])
    track(sweep)
    run = stored(sweep)[row.key]
    expected = {
        "key": row.key, "task": "digits", "adapter": "lora", "seed": "0", "stage": "final",
        "status": "finished", "suite": "mini", "backbone": "vit_mini", "protocol": "honest",
        "config": row.trial.config, "host": "node1", "device": "cpu", "code": "0.1.0",
    }  # fmt: skip
    assert expected.items() <= run.tags.items()
    assert run.params["rank"] == "4"
    assert json.loads(run.params["sites"]) == ["q", "v"]
    assert run.params["epochs"] == "10"
    assert float(run.params["lr"]) == row.trial.recipe.lr
    assert run.params["adapter.lr"] == "0", "an adapter's field never hides the recipe's"


def test_studies_and_sweep_show_totals(sweep: Path) -> None:
    rows = append(sweep, results(12))
    track(sweep)
    runs = stored(sweep)
    assert runs["sweep"].points["trials"] == [(12, 12.0)]
    mine = [row for row in rows if row.trial.study == "digits/lora"]
    best = max(row.value or 0 for row in mine if row.trial.stage != "final")
    study = runs["study:digits/lora"]
    assert study.points["trials"] == [(len(mine), float(len(mine)))]
    if any(row.status == "finished" and row.value == best for row in mine):
        assert study.points["val/best_accuracy"][-1][1] == best
    assert study.tags["task"] == "digits"


@pytest.mark.parametrize("killed", [False, True])
def test_a_sweep_that_is_extended_keeps_its_runs(sweep: Path, killed: bool) -> None:
    """Its run shows the present command, even if the writer before was killed."""
    rows = list(results(10))
    append(sweep, rows[:6])
    if killed:
        open_tracker(sweep, uri(sweep)).update(rows[:6])
    else:
        track(sweep)
    before = stored(sweep)
    append(sweep, rows[6:])
    paths = SweepPaths(sweep)
    replace(read_sweep(paths), command="orchestrate sweep mini --seeds 5").write(paths)
    assert track(sweep) == TrackCounts(10, 4)
    after = check_agrees(sweep, rows)
    assert all(after[key].id == run.id for key, run in before.items())
    assert after["sweep"].tags["command"] == "orchestrate sweep mini --seeds 5"
    assert after["sweep"].points["trials"] == [(6, 6.0), (10, 10.0)]


class Cut(Exception):
    """Stands for the moment at which the writer was killed."""


class CutStore:
    """MLflow, until one call too many: that one is cut off before or after its effect."""

    def __init__(self, store: MlflowStore, calls: int, after: bool) -> None:
        self._store, self._left, self._after = store, calls, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._store, name)

        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise Cut
            answer = call(*arguments)
            if self._left < 0:
                raise Cut
            return answer

        return counted


@pytest.mark.parametrize("after", [False, True])
def test_a_writer_cut_off_at_any_call_is_completed(sweep: Path, after: bool) -> None:
    """One database throughout: what one cut leaves, the next writer meets."""
    rows, cuts = append(sweep, results(5)), 0
    (sweep / "report.html").write_text("<html>")
    store = MlflowStore(sweep, uri(sweep), sweep_of(sweep))
    while True:
        try:
            tracker = Tracker(CutStore(store, 1 + cuts % 7, after), sweep_of(sweep))
            tracker.update(rows)
            tracker.upload(sweep)
            tracker.close("FINISHED")
            break
        except Cut:
            cuts += 1
            stored(sweep)
        assert cuts < 100
    assert cuts >= 5
    runs = check_agrees(sweep, rows)
    assert {run.status for run in runs.values()} <= {"FINISHED", "FAILED"}


def test_a_row_cut_off_between_its_points_gets_each_point_once(sweep: Path) -> None:
    rows = append(sweep, results(3))
    store = MlflowStore(sweep, uri(sweep), sweep_of(sweep))
    tracker = Tracker(store, sweep_of(sweep))
    tracker.update([])
    client = store._client
    log_batch, calls = client.log_batch, 0

    def cut(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if "metrics" in named and calls > 1:
            named["metrics"] = named["metrics"][: len(named["metrics"]) // 2]
            log_batch(*arguments, **named)
            raise Cut
        return log_batch(*arguments, **named)

    client.log_batch = cut  # type: ignore[method-assign]
    with pytest.raises(TrackingError):
        tracker.update(rows)
    assert 0 < sum(len(run.points["lr"]) for run in stored(sweep).values()) < 30
    track(sweep)
    check_agrees(sweep, rows)


def test_two_runs_of_one_key_become_one(sweep: Path) -> None:
    """A server may have done what it never answered."""
    rows = append(sweep, results(6))
    track(sweep)
    store = MlflowStore(sweep, uri(sweep), sweep_of(sweep))
    tracker = Tracker(CutStore(store, 99, False), sweep_of(sweep))
    tracker._runs = {}
    tracker.update(rows)
    assert count(sweep) > 2 * 6
    track(sweep)
    check_agrees(sweep, rows)


def test_a_trial_that_was_trained_again_replaces_its_run(sweep: Path) -> None:
    rows = append(sweep, results(4))
    track(sweep)
    (sweep / "ledger" / "fragments" / f"{rows[1].key}.parquet").unlink()
    rows[1] = replace(rows[1], value=0.125, finished=rows[1].finished + 60)
    append(sweep, rows)
    assert track(sweep) == TrackCounts(4, 1)
    check_agrees(sweep, rows)


@pytest.mark.parametrize("key", ["sweep", "study:digits/linear"])
def test_a_run_that_a_person_deleted_comes_back_with_all_below_it(sweep: Path, key: str) -> None:
    rows = append(sweep, results(8))
    track(sweep)
    MlflowStore(sweep, uri(sweep), sweep_of(sweep)).delete(stored(sweep)[key].id)
    track(sweep)
    check_agrees(sweep, rows)


def test_an_interrupted_sweep_is_killed_until_it_has_gone_on(sweep: Path) -> None:
    rows = list(results(8))
    append(sweep, rows[:6])
    parents = {"sweep", *(f"study:{row.trial.study}" for row in rows)}
    tracker = open_tracker(sweep, uri(sweep))
    tracker.update(rows[:6])
    tracker.close("KILLED")
    assert {stored(sweep)[key].status for key in parents} == {"KILLED"}
    track(sweep)
    assert {stored(sweep)[key].status for key in parents} == {"KILLED"}, "nothing new has come"
    append(sweep, rows[6:])
    track(sweep)
    assert {stored(sweep)[key].status for key in parents} == {"FINISHED"}
    check_agrees(sweep, rows)


def test_report_and_registry_are_files_of_the_sweeps_run(sweep: Path) -> None:
    append(sweep, results(2))
    (sweep / "registry" / "digits").mkdir(parents=True)
    (sweep / "registry" / "digits" / "index.json").write_text("{}")
    track(sweep)
    (sweep / "report.html").write_text("<html>new")
    track(sweep)
    # The shelf is the template's, and with it the folder for artifacts.
    (artifacts,) = sweep.parent.parent.rglob(f"{stored(sweep)['sweep'].id}/artifacts")
    assert (artifacts / "report.html").read_text() == "<html>new"
    assert (artifacts / "registry" / "digits" / "index.json").read_text() == "{}"


def test_two_sweeps_share_a_database(sweep: Path, tmp_path: Path) -> None:
    other = make_sweep(tmp_path / "other", "0ther")
    rows = append(sweep, results(4))
    append(other, rows)
    track(sweep)
    assert track(other, uri(sweep)) == TrackCounts(4, 4)
    check_agrees(sweep, rows)
    check_agrees(sweep, rows, "0ther")
    assert not (other / "mlflow.db").exists()


def test_a_tracker_that_is_down_is_named_without_its_password(sweep: Path) -> None:
    rows = append(sweep, results(4))
    with pytest.raises(TrackingError) as caught:
        track(sweep, NOBODY)
    message = str(caught.value)
    assert "127.0.0.1:9" in message
    assert f"orchestrate track {sweep} --tracking-uri http://***@127.0.0.1:9" in message
    assert "hunter2" not in message
    assert len(Ledger(sweep / "ledger").keys()) == 4
    track(sweep)
    check_agrees(sweep, rows)


@pytest.mark.parametrize(
    ("address", "error"),
    [("./mlruns", InvalidInput), ("sqlite:////proc/nowhere/mlflow.db", TrackingError)],
)
def test_an_address_that_cannot_be_used_is_named(
    sweep: Path, address: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=address.split("/")[-1]):
        track(sweep, address)


def test_an_experiment_that_a_person_deleted_comes_back_with_its_runs(sweep: Path) -> None:
    rows = append(sweep, results(3))
    track(sweep)
    store = MlflowStore(sweep, uri(sweep), sweep_of(sweep))
    store._client.delete_experiment(store._experiment)
    rows = append(sweep, results(5))
    assert track(sweep) == TrackCounts(5, 2)
    check_agrees(sweep, rows)


@pytest.mark.parametrize("copied", [False, True])
def test_artifacts_of_a_moved_or_copied_folder_lie_in_it(
    sweep: Path, tmp_path: Path, copied: bool
) -> None:
    append(sweep, results(2))
    track(sweep)
    other = tmp_path / "50% [other]?"
    if copied:
        shutil.copytree(sweep, other)
    else:
        sweep.rename(other)
    (other / "report.html").write_text("<html>")
    track(other)
    (report,) = tmp_path.rglob("artifacts/report.html")
    assert report.is_relative_to(other / "mlartifacts")
    assert sweep.exists() == copied
    with closing(sqlite3.connect(other / "mlflow.db")) as database:
        places = {place for (place,) in database.execute("SELECT artifact_uri FROM runs")}
    assert all(place.startswith((other / "mlartifacts").as_uri()) for place in places), places


def test_a_database_of_another_mlflow_is_named_with_the_ways_out(sweep: Path) -> None:
    with closing(sqlite3.connect(sweep / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'other'")
    message = rf"another version of MLflow .*`mlflow db upgrade {uri(sweep)}`.*`orchestrate track"
    with pytest.raises(TrackingError, match=message):
        check_database(sweep, uri(sweep))
    with pytest.raises(TrackingError, match=message) as caught:
        track(sweep)
    assert "<database_uri>" not in str(caught.value)


def test_a_file_system_without_hard_links_has_a_database(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = sweep / "mlflow.db", sweep / "made.db"
    draft = sweep / f"mlflow.db.new-{'0' * 8}"
    file.rename(made)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    def client(tracking_uri: str) -> Any:
        assert locations.sqlite_file(tracking_uri) == draft
        return SimpleNamespace(search_experiments=lambda **_: shutil.copy(made, draft))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(mlflow, "MlflowClient", client)
    mlflow._create_sqlite(file, "0" * 32)
    assert file.stat().st_size == made.stat().st_size
    assert not draft.exists()


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (errno.ENOLCK, InvalidInput, "cannot lock files: No locks available"),
        (errno.ENOSYS, InvalidInput, "cannot lock files: Function not implemented"),
        (errno.EROFS, TrackingError, "cannot be tracked: Read-only file system.*track COPY"),
    ],
)
def test_a_folder_without_locks_or_rights_is_named(
    number: int, error: type[Exception], text: str, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(error, match=f"{sweep}.*{text}"):
        track(sweep)


def test_a_second_writer_is_locked_out(sweep: Path) -> None:
    with only_writer(sweep, 0.0), pytest.raises(TrackingError, match="another command"):
        track(sweep, timeout=0.2)
    track(sweep)


def test_a_folder_that_cannot_be_written_is_named(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(sweep)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(TrackingError, match=r"mlflow\.db' or its folder cannot be written"):
        track(sweep)
    monkeypatch.undo()
    (sweep / "mlflow.db").unlink()
    (sweep / "mlflow.db").mkdir()
    with pytest.raises(TrackingError, match=r"it is no regular file: '.*mlflow\.db'"):
        track(sweep)
    (sweep / LOCK).unlink()
    (sweep / LOCK).mkdir()
    with pytest.raises(TrackingError, match=r"cannot be tracked: Is a directory\. .*writable"):
        track(sweep)


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.*holds no sweep"):
        track(tmp_path / "nowhere")
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"sweep\.json' is damaged"):
        track(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep.json"]


def test_the_counts_are_a_sentence() -> None:
    assert str(TrackCounts(1, 1)) == "1 trial, 1 of them written now"
    assert str(TrackCounts(130, 0)) == "130 trials, none of them written now"
