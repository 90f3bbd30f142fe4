"""Wrong input of every kind ends in words: code 0 or 2, no traceback, no hang, the value named.

Deterministic in the ordinary run; `ORCHESTRATE_FUZZ_SEED=7 pytest -m long tests/test_fuzz.py` tries
another thousand with another seed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from orchestrator import sweep
from orchestrator.cli import main as cli
from orchestrator.planning.config import SweepConfig, make_config
from orchestrator.planning.resolve import plan_sweep
from orchestrator.storage.sweep_storage import paths_of
from tests.commands import garden
from tests.conftest import Untracked

SEED = int(os.environ.get("ORCHESTRATE_FUZZ_SEED", "0"))
SECONDS = 60
"""The longest that a case may take: hundreds of times what it needs on a quiet machine."""

QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],  # explaining traces every line, which takes long
)
LONG = settings(QUICK, max_examples=200)
AMOUNTS = [
    pytest.param(QUICK, id="quick", marks=pytest.mark.timeout(300)),
    pytest.param(LONG, id="long", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
]

WORDS = [
    " ", "0", "-1", "+1", "1e3", "1e-3", "1e999", "nan", "inf", "-0.0", "0x10", "1_000", "１２",
    "9" * 400, "9" * 5000, "[/]", "[", "]", "{", "}", "tpu", "cuda:-1", "cuda:99999999999",
    "..", "%s", "%00", "é" * 300, "x" * 5000, "a/" * 3000, "[" * 2000, "null", "yes", "~", "*a",
    "&a [*a]", "!!int x", "!!timestamp x", "!!python/object:os.system []", "/dev/zero",
    "s3://[/]", "s3://", "http://[::1", "file://x", "://", "a@b", "vit_mini@",
    "vit_mini@x.pth#y", "hf-hub:timm/x", "timm/vit_mini", "0-99999999999", "2024-13-45",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
OPTIONS = [
    "adapter", "tasks", "backbone", "preset", "sampler", "prior", "stopping", "protocol",
    "recipe", "trials", "seeds", "replicate", "epochs", "set", "set=lr", "set=epochs",
    "set=precision", "space", "time-budget", "device", "precision", "backend", "address", "width",
    "tracking-uri", "out", "data-root", "suite-root", "config",
]  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 40),
        st.sampled_from([10**9, 10**18, 10**299, -(10**299), 1e-320, 1e308, -1e308]),
        st.floats(),
        st.dates(),
        st.binary(max_size=3),
        TEXTS,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["low", "high", "step", "log", "x"]), inner, max_size=4),
    ),
    max_leaves=6,
)  # fmt: skip
RANGES = st.fixed_dictionaries({"low": VALUES, "high": VALUES}, optional={"step": VALUES})


class Hang(BaseException):
    """Not an `Exception`, which the command might catch."""


class Command:
    """Runs `orchestrate` in this process, up to the point where images or weights are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = folder / "finished"
        self.suite = yaml.safe_load(Path(garden()).read_text())
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to(folder / "loop")

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output; a traceback or a hang fails the test."""
        output = io.StringIO()
        sys.argv = ["orchestrate", *arguments]
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return code, " ".join(output.getvalue().split())

    def sweep(self, *options: str, suite: str = "") -> tuple[int, str]:
        """A sweep with these options; the first of the required ones may be among them."""
        return self("sweep", suite or garden(), "--backbone=vit_mini", "--adapter=lora", *options)

    def file(self, content: str | bytes) -> str:
        """A file with this content."""
        path = self.folder / "input.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def copy(self) -> Path:
        """A copy of a finished sweep's folder, which is made once."""
        if not self.finished.exists():
            _train(self.finished)
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(self.finished, copy))


def _train(out: Path) -> None:
    """A whole sweep of three trials."""
    torch.set_num_threads(1)
    fields: dict[str, Any] = {
        "suite": garden(), "backbone": "vit_mini", "tasks": "tulips", "adapter": "linear",
        "trials": 1, "seeds": 1, "replicate": 1, "epochs": 1, "backend": "local", "device": "cpu",
        "out": str(out),
    }  # fmt: skip
    outcome = sweep.run(
        sweep.plan(make_config(fields, None), sweep.Observer()), "", sweep.Observer()
    )
    assert outcome.summaries["honest"].complete


def _hang(*_: object) -> NoReturn:
    raise Hang


def _plan(config: SweepConfig, _: bool) -> None:
    plan_sweep(config)
    paths_of(config.location)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[Command]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_sweep", _plan)
        patch.setattr(sweep, "TrackingProcess", Untracked)
        patch.setenv("ORCHESTRATE_DATA", str(data_root))
        patch.setattr(sys, "argv", sys.argv)
        patch.setenv("COLUMNS", "10000")
        handlers = {n: signal.getsignal(n) for n in (signal.SIGALRM, signal.SIGTERM)}
        plan_sweep(make_config({"suite": garden(), "backbone": "vit_mini"}, None))  # imports torch
        signal.signal(signal.SIGALRM, _hang)
        yield Command(tmp_path_factory.mktemp("fuzz"))
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check(found: tuple[int, str], *named: str) -> None:
    """Done, or refused with one of `named` in the message: a value, its field or its file."""
    code, text = found
    assert code in (0, 2), text
    assert "Traceback" not in text
    assert len(text) < 20_000, "a message for people"
    if code == 2:
        parts = {piece[:20] for word in named for piece in re.split(r"[\s,=]+", word)} - {""}
        plain = [repr(part)[1:-1] for part in parts]
        shown = [*parts, *plain, *(text[:9] for text in plain), *map(str, map(Path, parts))]
        assert not parts or any(form in text for form in shown), f"{sorted(parts)} not in: {text}"


def a_wrong_option(run: Command, case: tuple[str, str]) -> None:
    option, value = case
    # Some values are shown as what they are read as: [/] of --set as a list, 0-9 of --trials as -9.
    blank = not re.sub(r"[\s,=]+", "", value)
    check(run.sweep(f"--{option}={value}"), *(() if blank else (value, option.rpartition("=")[2])))


def a_wrong_field(run: Command, case: tuple[str, Any]) -> None:
    field, value = case
    inner = map(str, value) if isinstance(value, dict) else ()  # of `set` and `space`
    found = run.sweep(f"--config={run.file(yaml.safe_dump({field: value}))}")
    check(found, field.replace("_", " ").removesuffix("s"), *inner)  # "unknown task …"


def a_wrong_space(run: Command, case: tuple[str, Any]) -> None:
    field, form = case
    check(run.sweep(f"--space={run.file(yaml.safe_dump({'lora': {field: form}}))}"), field)


def a_wrong_suite(run: Command, case: tuple[list[int], Any]) -> None:
    """One value of the suite's file, at any depth, is replaced."""
    steps, value = case
    suite = yaml.safe_load(yaml.safe_dump(run.suite))
    inner, keys = suite, list(suite)
    for step in steps:
        key = keys[step % len(keys)]
        if isinstance(inner[key], dict) and inner[key] and step % 2:
            inner, keys = inner[key], list(inner[key])
    inner[key] = value
    check(run.sweep(suite=run.file(yaml.safe_dump(suite))), str(key), str(run.folder))


def a_damaged_text(run: Command, case: tuple[str, int, int, bytes]) -> None:
    """Bytes of a good file are replaced by others."""
    kind, start, length, other = case
    good = {
        "config": b"trials: 3\nset: {lr: 1e-3, epochs: 4}\nspace: {lora: {rank: [2, 4]}}\n",
        "space": b"lora:\n  rank: &r [2, 4]\n  lr: {low: 1e-4, high: 0.1, log: true}\n",
        "suite": Path(garden()).read_bytes(),
    }[kind]
    start %= len(good)
    path = run.file(good[:start] + other + good[start + length :])
    found = run.sweep(suite=path) if kind == "suite" else run.sweep(f"--{kind}={path}")
    check(found)


def a_damaged_folder(run: Command, case: tuple[str, int, str, int, bytes]) -> None:
    """One file of a finished sweep is not what it was; the command says so or does without."""
    name, index, damage, start, other = case
    folder = run.copy()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = files[index % len(files)]
    good = victim.read_bytes()
    start %= len(good) + 1
    victim.unlink()
    if damage == "bytes":
        victim.write_bytes(good[:start] + other + good[start + len(other) :])
    elif damage == "cut":
        victim.write_bytes(good[:start])
    elif damage == "pipe":
        os.mkfifo(victim)
    elif damage == "folder":
        victim.mkdir()
    elif damage == "loop":
        victim.symlink_to(victim)
    code, text = run(name, str(folder))
    # 1: parts that do not belong together, choices that cannot be checked
    assert code in ((0, 2) if name == "status" else (0, 1, 2)), text
    assert "Traceback" not in text


FIELDS = sorted({*SweepConfig.model_fields, "sede"} - {"suite"})
SPACE = ["rank", "alpha", "dropout", "layers", "sites", "lr", "epochs", "precision", "batch", "x"]
PIECES = st.one_of(
    st.binary(max_size=6),
    TEXTS.map(str.encode),
    st.sampled_from([b"\xff\xfe", b"\0", b"\t", b"- " * 50_000, b"{a: " * 20_000, b"---\n"]),
)
KINDS: dict[str, tuple[Callable[[Command, Any], None], st.SearchStrategy[Any]]] = {
    "options": (a_wrong_option, st.tuples(st.sampled_from(OPTIONS), TEXTS)),
    "fields": (a_wrong_field, st.tuples(st.sampled_from(FIELDS), VALUES)),
    "spaces": (a_wrong_space, st.tuples(st.sampled_from(SPACE), st.one_of(VALUES, RANGES))),
    "suites": (a_wrong_suite, st.tuples(st.lists(st.integers(0, 99), min_size=1), VALUES)),
    "texts": (
        a_damaged_text,
        st.tuples(
            st.sampled_from(["config", "space", "suite"]),
            st.integers(0, 999),
            st.integers(0, 9),
            PIECES,
        ),
    ),
    "folders": (
        a_damaged_folder,
        st.tuples(
            st.sampled_from([*["status", "audit"] * 4, "report"]),
            st.integers(0, 99),
            st.sampled_from(["bytes", "cut", "pipe", "folder", "loop", "gone"]),
            st.integers(0, 9_999),
            PIECES,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_is_refused_in_words(kind: str, amount: settings, command: Command) -> None:
    holds, cases = KINDS[kind]

    @seed(SEED)
    @amount
    @given(cases)
    def run(case: Any) -> None:
        holds(command, case)

    run()


def test_pipes_loops_and_devices_in_place_of_files_are_refused(command: Command) -> None:
    for name in ("pipe", "loop", "."):
        path = str(command.folder / name)
        for option in ("config", "space"):
            check(command.sweep(f"--{option}={path}"), path)
        check(command.sweep(f"--backbone=vit_mini@{path}"), path)
        code, text = command("sweep", f"{path}/" if name == "." else f"{path}.yaml")
        assert code == 2, text
