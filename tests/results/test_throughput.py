"""What pools note of their devices: written line by line, read back, summed."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results import throughput
from orchestrator.results.throughput import GroupUse, Window, device_use
from orchestrator.tracking.records import system_measures

GROUP = GroupUse("lora, batch 8", 2, 4, "throughput", 2**20, 800, 1, "")
WINDOW = Window("a cpu", "CPU", 100.0, 10.0, 800, 200, 2e9, 1e9, 3 * 2**30, (GROUP,))


def test_windows_come_back_in_order_of_time(tmp_path: Path) -> None:
    written = [replace(WINDOW, pool=p, time=t) for p, t in (("b cuda:0", 3.0), ("a/b", 1.0))]
    for window in (*written, replace(WINDOW, pool="b cuda:0", time=0.5)):
        throughput.append(tmp_path / "pools", window)
    found = throughput.read(tmp_path / "pools")
    assert [window.time for window in found] == [0.5, 1.0, 3.0]
    assert set(written) < set(found)
    assert sorted(path.name for path in (tmp_path / "pools").iterdir()) == [
        "a-b.jsonl", "b-cuda-0.jsonl",
    ]  # fmt: skip


CHANGES: tuple[dict[str, Any], ...] = (
    {"time": math.nan},
    {"seconds": -1.0},
    {"trained": "many"},
    {"pool": None},
    {"memory": 1e400},
    {"groups": (replace(GROUP, width=-1),)},
)
IMPOSSIBLE = [json.dumps(asdict(replace(WINDOW, **change))) for change in CHANGES]


@pytest.mark.parametrize(
    "torn",
    ['{"pool": "a", "ti', "", "[1]", "null", '{"pool": 1}', "\x00", "[" * 99_999, *IMPOSSIBLE],
    ids=lambda line: line[:12],
)
def test_a_torn_line_is_left_out(torn: str, tmp_path: Path) -> None:
    throughput.append(tmp_path, WINDOW)
    file = next(tmp_path.iterdir())
    file.write_text(torn + "\n" + file.read_text() + torn)
    assert throughput.read(tmp_path) == [WINDOW]


def test_a_file_that_cannot_be_read_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    throughput.append(tmp_path / "pools", WINDOW)
    (tmp_path / "pools" / "b.jsonl").mkdir()
    os.mkfifo(tmp_path / "pools" / "c.jsonl")
    (tmp_path / "pools" / "d.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "pools" / "notes.txt").write_text("no window")
    told: list[str] = []
    assert throughput.read(tmp_path / "pools", told.append) == [WINDOW]
    assert [sentence.rpartition(": ")[2] for sentence in told] == [
        "it is no regular file", "it is no regular file", "no line of it can be used",
    ]  # fmt: skip
    (tmp_path / "file").write_text("x")
    assert throughput.read(tmp_path / "file", told.append) == []
    assert "file' is left out: Not a directory" in told[-1]


def test_no_folder_is_no_windows(tmp_path: Path) -> None:
    assert throughput.read(tmp_path / "none") == []
    assert device_use([]) is None


def test_rates_are_of_the_time_at_work() -> None:
    assert WINDOW.images_per_second == 100.0
    assert WINDOW.share == pytest.approx(0.2)
    other = replace(WINDOW, seconds=30.0, trained=0, flops=0.0, memory=1, time=200.0, waited=6.0)
    both = throughput.total([WINDOW, other])
    assert both.waited == 6.0
    assert (both.seconds, both.trained, both.evaluated, both.memory) == (40.0, 800, 400, 3 * 2**30)
    assert both.images_per_second == 30.0
    assert both.share == pytest.approx(0.05)
    idle = replace(WINDOW, seconds=0.0)
    assert (idle.images_per_second, idle.share) == (0.0, 0.0)


def test_groups_of_all_pools_are_summed() -> None:
    second = GroupUse("hta, batch 8", 1, 1, "memory", 0, 80, 0, "adapter (lora, hta)")
    first = replace(WINDOW, groups=(GROUP,))
    later = replace(WINDOW, time=200.0, groups=(replace(GROUP, trained=1600), second))
    other = replace(WINDOW, pool="b cpu", groups=(replace(GROUP, planned=8, halved=0),))
    found = device_use([first, later, other])
    assert found is not None
    assert [pool.pool for pool in found.pools] == ["a cpu", "b cpu"]
    lora, hta = found.stacks
    assert (lora.widths, lora.trained, lora.halved) == ((4, 8), 2400, 1)
    assert (hta.bounds, hta.apart) == (("memory",), "adapter (lora, hta)")


def test_mlflow_has_them_as_system_metrics() -> None:
    windows = [WINDOW, replace(WINDOW, pool="b cuda:0", time=150.0), replace(WINDOW, time=200.0)]
    found = {(m.name, m.step): (m.value, m.time) for m in system_measures(windows)}
    assert found["system/a cpu/images_per_second", 1] == (100.0, 200_000)
    assert found["system/b cuda-0/share_of_roofline", 0] == (pytest.approx(0.2), 150_000)
    assert found["system/a cpu/width", 0][0] == 2.0
    assert len(found) == 12
