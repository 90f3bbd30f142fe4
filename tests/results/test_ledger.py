from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import LedgerError
from orchestrator.results import rows
from orchestrator.results.ledger import Ledger
from orchestrator.spec import PROTOCOLS, Point, Recipe, Trial, TrialResult, canonical
from orchestrator.storage.object_store import LocalFolder
from tests.imports import ROOT
from tests.object_stores import Memory
from tests.rows import RESULT, TRIAL, result

LATER = 1.9e9
"""After the row that is changed here began."""
PLACES = ("path", "file://", "bucket")


def ledger_at(place: str, folder: Path) -> Ledger:
    if place == "path":
        return Ledger(folder)
    if place == "file://":
        return Ledger(folder.as_uri())
    ledger = Ledger(folder)
    ledger._storage = Memory().store("bucket/ledger", "s3://bucket/ledger")
    return ledger


@pytest.fixture(params=PLACES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return ledger_at(request.param, tmp_path / "ledger")


def fragment(folder: Path, row: TrialResult) -> Path:
    return folder / "fragments" / f"{row.key}.parquet"


def files(folder: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (folder / kind).glob("*"))


def test_an_absent_ledger_is_empty_and_reading_makes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.keys() == frozenset()
    assert ledger.results() == []
    assert ledger.compact() == 0
    assert ledger.clean() == 0
    assert not (tmp_path / "ledger").exists()


def test_a_result_comes_back_exactly(ledger: Ledger) -> None:
    ledger.append(RESULT)
    assert ledger.keys() == {RESULT.key}
    assert ledger.results() == [RESULT]
    assert ledger.compact() == 1
    assert ledger.results() == [RESULT]


def test_a_diverged_result_comes_back_with_its_nan(ledger: Ledger) -> None:
    curve = (Point(1, 1e-6, 2.0), Point(2, 1.0, math.nan), Point(3, 1.0, math.inf))
    row = result(status="diverged", value=None, eval_loss=None, curve=curve, correct=b"")
    ledger.append(row)
    (found,) = ledger.results()
    assert (found.status, found.value, found.correct) == ("diverged", None, b"")
    assert math.isnan(found.curve[1].loss)
    assert math.isinf(found.curve[2].loss)
    assert found.trial == row.trial


COUNT = st.integers(0, 2**40)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | st.integers() | NUMBERS | st.text(max_size=5)
PARAMS = st.dictionaries(st.text(max_size=5), VALUES | st.lists(VALUES, max_size=3), max_size=4)
RECIPES = st.builds(Recipe, lr=st.floats(1e-9, 999), warmup_lr=st.floats(0, 1))
NAMES = dict.fromkeys(
    ("suite", "task", "backbone", "adapter", "data", "weights"), st.text(min_size=1)
)
TRIALS = st.builds(
    Trial, **NAMES, params=PARAMS, recipe=RECIPES, seed=COUNT, protocol=st.sampled_from(PROTOCOLS)
)
SHARES, LOSSES = st.floats(0, 1), st.floats(0, 1e38)
POINTS = st.tuples(st.floats(0, 999), LOSSES, st.none() | LOSSES, st.none() | SHARES)
CURVES = st.lists(POINTS, max_size=3).map(
    lambda points: tuple(Point(number, *point) for number, point in enumerate(points, 1))
)
RESULTS = st.builds(
    TrialResult,
    trial=TRIALS,
    status=st.just("stopped"),
    value=SHARES,
    eval_loss=st.none() | LOSSES,
    epochs_run=st.integers(0, 100),
    curve=CURVES,
    correct=st.just(b""),
    stopping=st.text(max_size=5),
    message=st.text(),
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    **dict.fromkeys(("parameters", "test_reads"), COUNT),
    seconds=st.floats(0, 1e9),
    started=st.floats(1.6e9, 1.7e9),
    finished=st.floats(1.7e9, 1.8e9),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=RESULTS)
def test_any_result_comes_back_exactly(row: TrialResult) -> None:
    (found,) = map(rows.result, rows.decode(rows.encode([row])))
    assert found == row
    assert canonical(found.trial.to_dict()) == canonical(row.trial.to_dict())  # 0 is not 0.0
    assert found.key == row.key


def test_keys_are_those_of_earlier_versions() -> None:
    """What a ledger has under a key of before is found again; recipe fields that came later change
    a key only where they are used."""
    one = Trial(
        suite="vtab", task="kitti", backbone="vit_base_patch16_224", adapter="lora",
        params={"rank": 8}, recipe=Recipe(lr=0.01), seed=1, stage="final", data="d", weights="w",
    )  # fmt: skip
    assert (one.key, one.config) == ("52318986790e98a06f30a8e84925a254", "fbf38c654257c99d")
    used = {"clip": 1.0, "cooldown_epochs": 2, "optimiser": "sgd", "last_batch": "keep"}
    others = [
        replace(one, recipe=one.recipe.with_values({name: value})) for name, value in used.items()
    ]
    assert len({trial.key for trial in (one, *others)}) == len(used) + 1
    assert len({trial.config for trial in (one, *others)}) == len(used) + 1
    seldom = replace(one, recipe=one.recipe.with_values({"evaluate_every": 0}))
    assert (seldom.key, seldom.config) == (one.key, one.config)


def test_a_row_of_an_earlier_version_without_checksums_is_read(tmp_path: Path) -> None:
    Ledger(tmp_path).append(RESULT)
    path = fragment(tmp_path, RESULT)
    pq.write_table(pq.read_table(path).drop_columns(["files"]), path)
    assert Ledger(tmp_path).results() == [RESULT]
    Ledger(tmp_path).append(result(1, files={"a": "b" * 64}))
    assert Ledger(tmp_path).compact(least=1) == 2
    found = {row.trial.seed: row.files for row in Ledger(tmp_path).results()}
    assert found == {0: {}, 1: {"a": "b" * 64}}


def test_columns_are_flat_and_readable_by_anything(tmp_path: Path) -> None:
    Ledger(tmp_path).append(RESULT)
    table = pq.read_table(fragment(tmp_path, RESULT))
    row = table.to_pylist()[0]
    assert table.schema.field("curve").type == pa.list_(rows.POINT)
    assert (row["key"], row["config"]) == (RESULT.key, TRIAL.config)
    assert (row["task"], row["adapter"], row["value"]) == ("digits", "efft2", 0.335)
    assert json.loads(row["params"])["scale"] == 10.0
    assert json.loads(row["recipe"])["lr"] == 5e-3
    assert json.loads(row["versions"]) == RESULT.versions


def test_the_first_row_of_a_key_stays(ledger: Ledger) -> None:
    ledger.append(result(host="first"))
    ledger.append(result(host="second"))
    assert [row.host for row in ledger.results()] == ["first"]
    ledger.compact()
    ledger.append(result(host="third"))
    assert [row.host for row in ledger.results()] == ["first"]
    assert ledger.compact() == 0


def test_results_are_in_order_of_finishing_then_key(ledger: Ledger) -> None:
    made = [result(seed, finished=LATER + seed % 3) for seed in range(9)]
    for row in made[:5]:
        ledger.append(row)
    ledger.compact()
    for row in made[5:]:
        ledger.append(row)
    assert ledger.results() == sorted(made, key=lambda row: (row.finished, row.key))


def test_new_results_are_those_not_seen(ledger: Ledger) -> None:
    made = [result(seed, finished=LATER + seed) for seed in range(6)]
    for row in made[:4]:
        ledger.append(row)
    ledger.compact()
    for row in made[4:]:
        ledger.append(row)
    assert ledger.new_results({made[0].key, made[5].key}) == made[1:5]
    assert ledger.new_results(ledger.keys()) == []


def test_a_row_in_several_files_counts_once_and_the_compacted_one(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "a"), Ledger(tmp_path / "b")
    for seed in range(4):
        first.append(result(seed, host="first", finished=LATER + seed))
    second.append(result(3, host="second", finished=LATER + 3))
    second.append(result(4, finished=LATER + 4))
    for ledger in (first, second):
        ledger.compact()
    copy = Path(next((tmp_path / "b" / "compacted").iterdir()))
    copy.rename(tmp_path / "a" / "compacted" / copy.name)
    fragment(tmp_path / "a", result(0)).write_bytes(rows.encode([result(0, host="third")]))
    for _ in range(2):
        assert [row.trial.seed for row in first.results()] == [0, 1, 2, 3, 4]
        assert first.results()[0].host == "first"
        first.compact()


def test_a_small_ledger_is_left_alone_and_some_fragments_may_stay(tmp_path: Path) -> None:
    ledger, made = Ledger(tmp_path), [result(seed, finished=LATER + seed) for seed in range(4)]
    for row in made:
        ledger.append(row)
    assert ledger.compact(least=5) == 0
    assert len(files(tmp_path, "fragments")) == 4
    assert ledger.compact(least=4, keep=lambda row: row.trial.seed == 2) == 3
    assert files(tmp_path, "fragments") == [f"{made[2].key}.parquet"]
    assert ledger.results() == made


def test_one_result_is_found_wherever_it_lies(ledger: Ledger) -> None:
    ledger.append(result(0))
    ledger.compact()
    ledger.append(result(1))
    for seed in (0, 1):
        assert result(seed).key in ledger
        assert ledger.result(result(seed).key) == result(seed)
    assert result(2).key not in ledger
    assert ledger.result(result(2).key) is None


class Crash(Exception):
    pass


@pytest.mark.parametrize("step", range(7))
def test_a_crash_anywhere_in_compaction_loses_and_doubles_nothing(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: one write, three fragments deleted, one old compacted file deleted, and none left."""
    ledger = Ledger(tmp_path)
    made = [result(seed, finished=LATER + seed) for seed in range(5)]
    for row in made[:2]:
        ledger.append(row)
    ledger.compact()
    for row in made[2:]:
        ledger.append(row)
    done = 0
    for name in ("write", "delete"):
        real = getattr(LocalFolder, name)

        def crashing(*args: object, real: object = real) -> None:
            nonlocal done
            if done == step:
                raise Crash
            done += 1
            real(*args)  # type: ignore[operator]

        monkeypatch.setattr(LocalFolder, name, crashing)
    crashed = False
    try:
        ledger.compact()
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed == (step < 5)
    assert Ledger(tmp_path).results() == made
    assert Ledger(tmp_path).keys() == {row.key for row in made}
    Ledger(tmp_path).compact()
    assert Ledger(tmp_path).results() == made
    assert (len(files(tmp_path, "fragments")), len(files(tmp_path, "compacted"))) == (0, 1)


def test_readers_follow_a_compaction_that_happens_under_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [result(seed, finished=LATER + seed) for seed in range(4)]
    for row in made:
        Ledger(tmp_path).append(row)
    real, first = LocalFolder.read, True

    def read(self: LocalFolder, folder: str, name: str) -> bytes:
        nonlocal first
        if first:
            first = False
            Ledger(tmp_path).compact()
        return real(self, folder, name)

    monkeypatch.setattr(LocalFolder, "read", read)
    assert Ledger(tmp_path).results() == made
    assert not first


def test_one_process_reads_while_another_writes_and_compacts(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom orchestrator.results.ledger import Ledger\n"
        "from tests.rows import result\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for seed in range(60):\n"
        "    ledger.append(result(seed, finished=1.9e9 + seed))\n"
        "    if seed % 10 == 9: ledger.compact()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    ledger, seen, turns = Ledger(tmp_path), 0, 0
    while writer.poll() is None:
        keys, found = ledger.keys(), ledger.results()
        assert [row.trial.seed for row in found] == list(range(len(found)))
        assert seen <= len(keys) <= len(found)
        seen, turns = len(found), turns + 1
    assert writer.returncode == 0
    assert turns > 1
    assert len(ledger.results()) == 60


DAMAGE = {
    "empty": lambda data: b"",
    "garbage": lambda data: b"PAR1 is not enough",
    "torn": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "another key's row": lambda data: rows.encode([result(99)]),
    "two rows": lambda data: rows.encode([RESULT, result(99)]),
    "no rows": lambda data: rows.encode([]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_fragment_is_named_with_what_to_do(damage: object, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(RESULT)
    ledger.append(result(1))
    path = fragment(tmp_path, RESULT)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(LedgerError, match=rf"{path}.*Move it out.*run the same command again"):
        ledger.results()
    with pytest.raises(LedgerError, match=path.name):
        ledger.compact()
    assert len(files(tmp_path, "fragments")) == 2
    path.unlink()
    assert ledger.results() == [result(1)]


def test_an_empty_fragment_does_not_count_as_finished(tmp_path: Path) -> None:
    Ledger(tmp_path).append(RESULT)
    fragment(tmp_path, RESULT).write_bytes(b"")
    with pytest.raises(LedgerError, match="it is empty"):
        Ledger(tmp_path).keys()


def edited(column: str, value: object) -> bytes:
    """The fragment of RESULT with one cell changed, as by an editor of Parquet files."""
    table = pq.read_table(pa.BufferReader(rows.encode([RESULT])))
    place = table.schema.get_field_index(column)
    cell = pa.array([value], table.schema.field(column).type)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(place, column, cell), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", 0.99), ("seed", 7), ("params", '{"rank":9}'), ("params", "{"), ("key", None)],
)
def test_a_row_edited_by_hand_is_refused(column: str, value: object, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(RESULT)
    fragment(tmp_path, RESULT).write_bytes(edited(column, value))
    for read in (ledger.results, ledger.compact):
        with pytest.raises(LedgerError, match="edited by hand"):
            read()


TURN = Point(1, 1e-3, 2.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": -1.0}, "value is -1.0; allowed: an accuracy from 0 to 1"),
        ({"value": 1e308}, "value is 1e.308"),
        ({"value": 61.5}, "value is 61.5"),
        ({"value": math.nan}, "value is nan"),
        ({"value": None}, "value is None"),
        ({"value": 0.9}, "value is 0.9; allowed: 0.3350, by its images"),
        ({"status": "won"}, "status is 'won'; allowed: finished, stopped, diverged"),
        ({"status": "diverged"}, "allowed: none, for the trial diverged"),
        ({"eval_loss": -0.5}, "eval_loss is -0.5"),
        ({"eval_loss": 1e308}, "eval_loss is 1e.308"),
        ({"epochs_run": 11}, "epochs_run is 11; allowed: 0 to 10, as planned"),
        ({"epochs_run": 9}, "epochs_run is 9; allowed: 10, for the trial finished"),
        ({"epochs_run": -1}, "epochs_run is -1"),
        ({"parameters": -1}, "parameters is -1; allowed: a count"),
        ({"test_reads": -1}, "test_reads is -1"),
        ({"correct": bytes([2, 0, 1])}, "correct is .* one byte of 0 or 1 per image"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": math.inf}, "seconds is inf"),
        ({"started": 0.0}, "started is 0.0; allowed: a Unix time from 2020"),
        ({"finished": 12.0}, "finished is 12.0; .*clock"),
        ({"finished": 1e308}, "finished is 1e.308"),
        ({"finished": 1_799_990_000.0}, "not before it started"),
        ({"curve": (TURN, TURN)}, "curve .*epochs that rise to 10"),
        ({"curve": (replace(TURN, epoch=11),)}, "curve has a point that is {'epoch': 11"),
        ({"curve": (replace(TURN, eval_accuracy=1.5),)}, "'eval_accuracy': 1.5"),
        ({"curve": (replace(TURN, eval_accuracy=math.nan),)}, "'eval_accuracy': nan"),
        ({"curve": (replace(TURN, loss=-2.0),)}, "'loss': -2.0"),
        ({"curve": (replace(TURN, loss=None),)}, "'loss': None"),  # type: ignore[arg-type]
        ({"curve": (replace(TURN, lr=math.inf),)}, "'lr': inf"),
        ({"host": None}, "host is None"),
        ({"trial": replace(TRIAL, stage="finale")}, "stage is 'finale'"),  # type: ignore[arg-type]
        ({"trial": replace(TRIAL, protocol="p")}, "protocol is 'p'; allowed: honest, paper"),
        ({"trial": replace(TRIAL, seed=-1)}, "seed is -1"),
        ({"trial": replace(TRIAL, task="")}, "task is ''"),
    ],
)
def test_a_row_that_cannot_be_true_is_refused_whatever_its_seal_says(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    Ledger(tmp_path).append(replace(RESULT, **changes))
    Ledger(tmp_path).append(result(1, value=2.0))
    with pytest.raises(LedgerError, match=rf"(?s)2 files of the ledger .*{told}.*Move them out"):
        Ledger(tmp_path).results()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path).compact()


def test_a_row_with_strange_json_is_refused(tmp_path: Path) -> None:
    for params in ("[" * 9999, "[]", "9" * 5000, "null"):
        table = pa.Table.from_pylist([{**rows._row(RESULT), "params": params}], rows.SCHEMA)
        seals = pa.array([rows._seal(row) for row in table.to_pylist()], pa.string())
        path = fragment(tmp_path, RESULT)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.append_column("seal", seals), path)
        with pytest.raises(LedgerError, match="Move it out"):
            Ledger(tmp_path).results()


def test_what_is_no_file_is_no_finished_trial(tmp_path: Path) -> None:
    Ledger(tmp_path).append(RESULT)
    keys = [result(seed).key for seed in range(1, 5)]
    folder, pipe, broken, loop = (tmp_path / "fragments" / f"{key}.parquet" for key in keys)
    folder.mkdir()
    os.mkfifo(pipe)
    broken.symlink_to(tmp_path / "nowhere")
    loop.symlink_to(loop)
    for read in (Ledger(tmp_path).keys, Ledger(tmp_path).results, Ledger(tmp_path).compact):
        with pytest.raises(LedgerError, match=r"4 files of the ledger .*it is no regular file"):
            read()
    (tmp_path / "fragments" / "notes").mkdir()
    (tmp_path / "tmp" / "notes").mkdir()
    assert Ledger(tmp_path).clean() == 0


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(RESULT)
    path = fragment(tmp_path, RESULT)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 300):
        torn = bytearray(whole)
        torn[place] ^= 0x55
        path.write_bytes(bytes(torn))
        try:
            found = ledger.results()
        except LedgerError:
            continue
        assert found == [RESULT]  # a byte of the file that says nothing about the row


def test_a_damaged_compacted_file_is_named(tmp_path: Path) -> None:
    Ledger(tmp_path).append(RESULT)
    Ledger(tmp_path).compact()
    (path,) = (tmp_path / "compacted").iterdir()
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:40] + b"?" + whole[41:], b""):
        path.write_bytes(data)
        for read in (
            Ledger(tmp_path).keys,
            Ledger(tmp_path).results,
            lambda: Ledger(tmp_path).result(RESULT.key),
        ):
            with pytest.raises(LedgerError, match=path.name):
                read()


def test_strange_parquet_names_are_refused_and_other_files_ignored(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(RESULT)
    (tmp_path / "fragments" / ".nfs0001").write_text("x")
    (tmp_path / "fragments" / "notes.txt").write_text("x")
    assert ledger.results() == [RESULT]
    copy = fragment(tmp_path, RESULT).with_name("copy of a fragment.parquet")
    copy.write_bytes(fragment(tmp_path, RESULT).read_bytes())
    with pytest.raises(LedgerError, match="copy of a fragment"):
        ledger.keys()


def test_unfinished_writes_are_ignored_and_cleaned(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(RESULT)
    (tmp_path / "tmp" / f"{RESULT.key}.1.abcd").write_bytes(b"half")
    assert ledger.results() == [RESULT]
    assert ledger.clean() == 1
    assert files(tmp_path, "tmp") == []


def test_a_writer_killed_at_any_moment_leaves_whole_rows(tmp_path: Path) -> None:
    """One of the three only appends, the others compact after every row."""
    code = (
        "import sys\nfrom orchestrator.results.ledger import Ledger\n"
        "from tests.rows import result\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for seed in range(10_000):\n"
        "    ledger.append(result(seed))\n"
        "    print(seed, flush=True)\n"
        "    ledger.compact(least=int(sys.argv[2]))\n"
    )
    for rows_more, least in ((1, 2), (4, 10_000), (9, 2)):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(least)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rows_more):
                done = int(writer.stdout.readline())
            time.sleep(rows_more / 1000)
            writer.kill()
        assert len(Ledger(tmp_path).keys()) > done
    ledger = Ledger(tmp_path)
    found = ledger.results()
    assert sorted(row.trial.seed for row in found) == list(range(len(found)))
    ledger.clean()
    assert files(tmp_path, "tmp") == []


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot .*file/ledger.*permissions"):
        Ledger(tmp_path / "file" / "ledger").append(RESULT)


def test_a_full_disk_leaves_nothing_visible(tmp_path: Path) -> None:
    """A file size limit of 1,000 bytes stands in for the disk: write(2) itself fails."""
    code = (
        "import resource, signal, sys\n"
        "from orchestrator.errors import LedgerError\n"
        "from orchestrator.results.ledger import Ledger\n"
        "from tests.rows import result\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: Ledger(sys.argv[1]).append(result())\n"
        "except LedgerError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "cannot write" in run.stdout
    assert "free space" in run.stdout
    assert files(tmp_path, "fragments") == files(tmp_path, "tmp") == []


@pytest.mark.parametrize("uri", ["ftp://host/ledger", "nonsense://"])
def test_an_address_of_no_known_kind_is_refused(uri: str) -> None:
    with pytest.raises(LedgerError, match=r"Allowed: a folder, file://, s3://, gs:// or az://"):
        Ledger(uri)


def test_messages_do_not_repeat_credentials() -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger("ftp://name:secret@host/ledger?token=hidden")
    assert "'ftp://host/ledger'" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("secret", "hidden"))


def test_the_row_is_on_the_disk_before_it_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def fsync(handle: int) -> None:
        calls.append("sync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "sync file")
        sync(handle)

    def linked(source: Path, target: Path) -> None:
        calls.append("link")
        link(source, target)

    Ledger(tmp_path).append(result(1))  # makes the folders
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    Ledger(tmp_path).append(result(2))
    assert calls == ["sync file", "link", "sync folder"]
