"""The command line: refusals, exit codes, resuming and extending a sweep."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import huggingface_hub
import pytest

from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import Here, check_once_each, events, refused, results, small_sweep, start


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["sweep", "vtabb"], ["'vtabb'", "vtab"]),
        (["sweep", "mini", "--protocol", "papers"], ["'papers'", "paper", "honest"]),
        (["sweep", "nowhere.yaml"], ["nowhere.yaml"]),
        (["sweep", "mini", "--backbone", "vit_bass_patch16_224"], ["vit_base_patch16_224"]),
        (["sweep", "mini", "--set", "lr=-1"], ["lr", "-1", "above 0"]),
        (["sweep", "mini", "--set", "lr"], ["FIELD=VALUE"]),
        (["sweep", "mini", "--trials", "0"], ["trials", "0"]),
        (["sweep", "mini", "--time-budget", "soon"], ["'soon'", "30m"]),
        (["sweep", "mini", "--backend", "slurm"], ["slurm"]),
        (["sweep", "mini", "--device", "tpu", "--backend", "local"], ["'tpu'", "cuda"]),
        (["sweep", "mini", "--device", "tpu", "--dry-run"], ["'tpu'", "cuda"]),
        (["sweep", "mini", "--device=+1", "--dry-run"], ["'+1'", "cuda"]),
        (["sweep", "mini", "--device", "1e3"], ["'1e3'", "cuda"]),
        (["doctor", "--device", "1e3"], ["'1e3'", "cuda"]),
        (["sweep", "mini", "--seeds", "1e3"], ["--seeds", "'1e3'"]),
        (["sweep", "mini", "--sampler", ""], ["'sampler' is ''", "leave it out"]),
        (["status", "id", "--address", "[/]"], ["--address '[/]'", "HOST:PORT"]),
        (["report", "x" * 300], ["xxx", "File name too long"]),
        (["data", "prepare", "vtab", "--suite-root", "x" * 300], ["xxx", "File name too long"]),
        (["sweep", "mini", "--address", "127.0.0.1:1"], ["127.0.0.1:1"]),
        (["sweep", "mini", "--backend", "local", "--address", "x"], ["--address"]),
        (["sweep", "mini", "--config", "missing.yaml"], ["missing.yaml"]),
        (["sweep", "mini", "--space", "missing.yaml"], ["missing.yaml"]),
        (["sweep", "mini", "--nonsense"], ["--nonsense"]),
        (["sweep"], ["SUITE"]),
        (["status", "nowhere"], ["nowhere"]),
        (["report", "nowhere"], ["nowhere"]),
        (["export", "nowhere"], ["nowhere"]),
        (["audit", "nowhere"], ["nowhere"]),
        (["data", "verify", "mini"], ["mini", "is generated"]),
        (["data", "prepare", "vtab", "--suite-root", "nowhere"], ["nowhere", "--suite-root"]),
        (["data", "show", "vtab", "--tasks", "cifarr"], ["'cifarr'", "cifar"]),
        (["data", "fetch", "vtab", "--from", "nowhere.zip"], ["nowhere.zip", "owner/name"]),
        (["track", "nowhere"], ["nowhere"]),
        (["replay", "nowhere", "--sampler", "tpe"], ["nowhere", ".parquet or .csv"]),
        (["replay", "nowhere", "--sampler", "tp"], ["'tp'", "tpe"]),
        (["replay", "nowhere", "--sampler", "tpe", "--stopping", "ash"], ["'ash'", "asha"]),
        (["replay", "nowhere", "--sampler", "tpe", "--prior", "swep"], ["'swep'", "sweep"]),
        (["sweep", "mini", "--prior", "nowhere/x", "--dry-run"], ["nowhere/x", "neither a sweep"]),
        (["replay", "nowhere", "--sampler", "tpe", "--budget", "2"], ["--budget 2", "at most 1"]),
        (["replay", "nowhere", "--sampler", "tpe", "--repeats", "0"], ["--repeats 0"]),
        (["ui", "nowhere"], ["nowhere"]),
        (["ui", "nowhere", "--port", "99999"], ["99999", "65535"]),
        (["sweep", "mini", "--tracking-uri", "./mlruns"], ["'./mlruns' is a folder", "http://"]),
        (["sweep", "[/x]"], ["'[/x]'"]),
        (["status", "[/red]x"], ["'[/red]x'"]),
        (["sweep", "mini", "--[/x]"], ["[/x]"]),
        (["[/x]"], ["[/x]"]),
        (["sweep", "mini", "--seeds", "1000000000"], ["'seeds' is 1000000000", "1000"]),
    ],
)
def test_wrong_input_is_refused_in_words(
    arguments: list[str], fragments: list[str], here: Here, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")] if arguments[:2] == ["sweep", "mini"] else []
    refused(here, [*arguments, *out], *fragments)


@pytest.mark.parametrize(
    "command", [["sweep", "vtab", "--tasks", "dtd"], ["data", "verify", "vtab"]]
)
def test_missing_images_and_missing_weights_are_reported_together_and_at_once(
    command: list[str], here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise ConnectionError("no connection")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "data"))
    began = time.monotonic()
    refused(here, command, "neither cached nor reachable", "--suite-root", "data fetch vtab")
    assert time.monotonic() - began < 15, "the hub is asked once"


def test_an_unwritable_folder_is_refused(tmp_path: Path, here: Here) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "out"
    refused(here, ["sweep", "mini", "--out", str(folder), "--backend", "local"], str(folder))


def test_the_plan_is_shown_and_nothing_is_run(tmp_path: Path, here: Here) -> None:
    out = tmp_path / "out"
    shown = here(small_sweep(out, "local", "--dry-run"))
    assert "4 studies, 32 trials, 64 trial-epochs" in shown
    assert not out.exists()


@pytest.mark.timeout(300)
def test_one_folder_from_first_run_to_extension(tmp_path: Path, here: Here) -> None:
    """Its name, and one group's, are text and nothing else to the console, SQL, URLs and globs."""
    out = tmp_path / "50%25 [red]? #1"
    command = small_sweep(out, "local", tasks="tulips")
    here(command)
    started = len(events(out))
    kept = {p.name: p.read_bytes() for p in (SweepPaths(out).ledger / "fragments").iterdir()}

    here(command)
    assert len(events(out)) == started, "nothing was run again"

    refused(here, [*command, "--set", "lr=0.1"], "another sweep", "lr=0.1")
    refused(here, [*command, "--seeds", "1"], "seeds")
    command[command.index("--seeds") + 1] = "3"
    shown = here([*command, "--tasks", "tulips,weeds"])
    assert f"report: {out}/report.html" in shown
    assert "mean of [/x]" in shown
    rows = results(out)
    assert {row.trial.task for row in rows.values()} == {"tulips", "weeds"}
    assert {row.trial.seed for row in rows.values() if row.trial.stage == "final"} == {1, 2, 3}
    for name, content in kept.items():
        assert (SweepPaths(out).ledger / "fragments" / name).read_bytes() == content

    assert "weeds/lora" in here(["status", str(out)])
    assert "report.html" in here(["report", str(out)])
    assert "4 entries" in here(["export", str(out), "--merged", str(tmp_path / "merged")])
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) == 4
    index = json.loads((SweepPaths(out).registry / "index.json").read_text())
    assert len(index["entries"]) == 4
    assert f"{len(rows)} trials" in here(["track", str(out)])
    assert (out / "mlflow.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "space.yaml", "merged"}

    derived = [*SweepPaths(out).pools.iterdir(), *SweepPaths(out).sheets.iterdir()]
    for file in derived:  # nothing depends on them
        file.unlink()
        file.mkdir()
    told = here(["report", str(out)])
    assert "device utilisation in" in told and "sheet of 'tulips' is left out" in told
    for file in derived:
        file.rmdir()
    whole = SweepPaths(out).sweep.read_bytes()
    content = json.loads(whole)
    content["sweep"]["tasks"] = ["weeds"]
    del content["checksum"]  # as a file of an earlier version
    SweepPaths(out).sweep.write_text(json.dumps(content))
    for name in ("report", "status", "audit", "track"):
        text = here([name, str(out)], code=int(name != "status"))
        assert "sweep.json does not know" in text and "task 'tulips': " in text, text
    SweepPaths(out).sweep.write_bytes(whole)
    here(["export", str(out)])
    lost = next(row for row in rows.values() if row.trial.stage == "final")
    (SweepPaths(out).ledger / "fragments" / f"{lost.key}.parquet").rename(tmp_path / "kept")
    text = here(["export", str(out)], code=1)
    assert f"no longer has 1 of the entries that it had: {lost.trial.study} (final seed" in text
    (tmp_path / "kept").rename(SweepPaths(out).ledger / "fragments" / f"{lost.key}.parquet")
    here(["export", str(out)])

    victim = next((SweepPaths(out).ledger / "fragments").iterdir())
    victim.write_bytes(victim.read_bytes()[:100])
    refused(here, command, victim.name)
    refused(here, ["status", str(out)], victim.name)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("backend", "number"),
    [("local", signal.SIGINT), pytest.param("ray", signal.SIGTERM, marks=pytest.mark.long)],
)
def test_ctrl_c_and_kill_stop_cleanly_and_say_how_to_go_on(
    backend: str, number: signal.Signals, tmp_path: Path, data_root: Path
) -> None:
    out = tmp_path / "out"
    process = start(small_sweep(out, backend), data_root)
    while len(events(out)) < 6 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "To go on: orchestrate" in " ".join(output.split())
    check_once_each(out)


@pytest.mark.timeout(120)
def test_a_second_command_on_the_same_folder_is_refused(
    tmp_path: Path, data_root: Path, here: Here
) -> None:
    out = tmp_path / "out"
    first = start(small_sweep(out, "local", "--epochs", "500"), data_root)
    try:
        while not events(out) and first.poll() is None:
            time.sleep(0.05)
        refused(here, small_sweep(out, "local"), str(first.pid), "--out")
    finally:
        first.kill()
        first.communicate()


@pytest.mark.timeout(120)
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(
    tmp_path: Path, data_root: Path, here: Here
) -> None:
    out = tmp_path / "out"
    command = small_sweep(out, "local", "--stopping", "asha", "--epochs", "30", tasks="tulips")
    process = start(command, data_root)
    checkpoints = SweepPaths(out).checkpoints
    while process.poll() is None and not list(checkpoints.glob("*.safetensors")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    victim = next(checkpoints.glob("*.safetensors"))
    victim.write_bytes(b"not a checkpoint")
    before = set(results(out))
    refused(here, command, victim.name)
    assert before <= set(results(out))
