"""The arrows between the rooms of the house, statically and by what a subprocess has loaded.

The picture is in docs/design.md. A new room, or a new arrow, is a decision: it is made here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import ROOT, Import, Module, loaded_by, modules, read

TABLE = modules()

FLOOR = {"spec", "errors", "files", "places", "provenance"}
"""Words, errors, writing files whole, where they lie, versions: open to all of `orchestrator`."""

ARROWS: dict[str, set[str]] = {
    "adapters": set(),
    "search_spaces": set(),
    "orchestrator": set(),  # the package's own __init__
    "errors": set(),
    "spec": {"errors"},
    "files": {"errors"},
    "places": set(),
    "provenance": set(),
    "tasks": {"config"},  # a person's own suite is a YAML file, as their options are
    "selection": set(),
    "rows": set(),
    "storage": set(),
    "patience": set(),
    "throughput": set(),
    "lease": {"storage"},
    "home": {"storage"},
    "claim": {"storage", "patience"},
    "holding": {"home", "lease", "claim"},
    "ledger": {"rows", "storage"},
    "data": {"tasks", "home"},
    "weights": {"data"},  # its figures are measured on the suite mini
    "backbones": {"weights"},
    "engine": {"data", "backbones", "adapters", "patience"},
    "search": {"ledger", "selection", "search_spaces"},
    "backends": {
        "engine", "data", "backbones", "adapters", "ledger", "home", "holding", "patience",
        "search", "sharing", "throughput",
    },
    "analysis": {"ledger", "selection", "tasks", "throughput"},
    "registry": {"analysis", "home", "ledger", "selection", "storage"},
    "tracking": {"home", "ledger", "lease", "selection", "throughput"},
    "config": set(),
    "extension": {"tasks"},
    "planning": {"config", "tasks", "search", "search_spaces", "adapters", "backbones"},
    "sweepfile": set(),
    "sweep": {
        "search", "backends", "tracking", "registry", "analysis",
        "config", "planning", "extension", "sweepfile",
        "ledger", "home", "holding", "patience", "selection", "storage", "tasks", "search_spaces",
        "data", "backbones", "throughput",
    },
    "display": {"search"},
    "estimate": {"ledger"},
    "overview": {
        "analysis", "display", "home", "ledger", "search", "search_spaces", "sweepfile", "tasks",
    },
    "sharing": set(),
    "doctor": {"data", "sharing", "tracking"},
    "cli_data": set(),
    "submission": {"config"},
    "parcel": {"data", "home", "registry", "sweepfile"},  # of data: what unpacks archives
    "submitted": {"parcel", "submission"},
    "cli_cluster": set(),
    "cli_doctor": {"cli_data"},
    "cli": {
        "sweep", "config", "home", "overview", "display", "tracking", "registry", "analysis",
        "tasks", "cli_data", "cli_cluster", "cli_doctor",
    },
}  # fmt: skip

LATE: dict[str, set[str]] = {
    "registry": {"adapters", "backbones", "data", "engine"},
    "estimate": {"sweep", "search", "backends", "backbones", "data", "engine"},
    "overview": {"sweep", "estimate", "registry", "planning"},
    "doctor": {"backbones", "backends"},
    "cli_data": {"data", "tasks", "display"},
    "submission": {"backbones", "home", "planning", "tasks"},
    "submitted": {"backends"},
    "cli_cluster": {
        "backends",
        "config",
        "display",
        "lease",
        "overview",
        "parcel",
        "submission",
        "submitted",
    },
    "cli_doctor": {"doctor", "data", "home", "tasks", "tracking"},
}
"""Further arrows that hold only inside functions, because the other end loads torch."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "ray": ("orchestrator/backends/ray/",),
    "mlflow": ("orchestrator/tracking/mlflow.py",),
    "optuna": ("orchestrator/search/", "orchestrator/planning.py", "search_spaces/"),
    "pydantic": (
        "orchestrator/config.py",
        "orchestrator/registry.py",
        "orchestrator/sweepfile.py",
        "orchestrator/tasks/",
    ),
    "typer": (
        "orchestrator/cli.py",
        "orchestrator/cli_cluster.py",
        "orchestrator/cli_data.py",
        "orchestrator/cli_doctor.py",
    ),
    "huggingface_hub": ("orchestrator/data/hub.py", "orchestrator/backbones/hub.py"),
    "httpx2": ("orchestrator/data/hub.py",),
    "jinja2": ("orchestrator/analysis/",),
    "matplotlib": ("orchestrator/analysis/",),
}
"""Library → the only files (or folders) that import it."""

LIGHT = {
    "orchestrator", "errors", "spec", "files", "places", "provenance", "tasks", "selection", "rows",
    "storage", "patience", "home", "claim", "holding", "lease", "ledger", "throughput",
    "search_spaces", "search", "analysis", "registry", "tracking", "config", "extension",
    "sweepfile", "display", "estimate", "overview", "cli", "cli_data",
    "cli_cluster", "submission", "submitted", "parcel", "cli_doctor", "doctor", "sharing",
}  # fmt: skip
"""Rooms that only read: importing them never loads what is in HEAVY."""

HEAVY = {"torch", "torchvision", "timm", "ray", "mlflow"}
EXEMPT = {"orchestrator.tracking.mlflow"}
"""The process that writes MLflow is light but for MLflow itself."""

HELP_LEAVES_OUT = HEAVY | {
    "optuna", "scipy", "matplotlib", "pandas", "sklearn", "pyarrow", "jinja2", "PIL",
}  # fmt: skip


def _by_name(module: Module) -> str:
    return module.name


def _where(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def _room_of(target: str) -> str | None:
    """The room that an import lands in; None for other people's packages."""
    parts = target.split(".")
    if parts[0] in ("adapters", "search_spaces"):
        return parts[0]
    if parts[0] == "orchestrator":
        return parts[1] if len(parts) > 1 else "orchestrator"
    return None


def test_every_file_is_in_a_declared_room() -> None:
    strangers = sorted(name for name, module in TABLE.items() if module.room not in ARROWS)
    assert not strangers, f"declare the room and its arrows in {Path(__file__).name}: {strangers}"


def test_no_arrow_is_declared_for_a_room_that_is_gone() -> None:
    assert set(ARROWS) - {"orchestrator"} <= {module.room for module in TABLE.values()}


@pytest.mark.parametrize("module", TABLE.values(), ids=_by_name)
def test_imports_follow_the_arrows(module: Module) -> None:
    own = {module.room, "orchestrator"} if module.name.startswith("orchestrator") else {module.room}
    floor = FLOOR if module.name.startswith("orchestrator") else set()
    for entry in module.imports:
        room = _room_of(entry.target)
        if room is None or room in own:
            continue
        allowed = ARROWS.get(module.room, set()) | (floor if module.room not in FLOOR else set())
        if entry.late:
            allowed |= LATE.get(module.room, set())
        assert room in allowed, (
            f"{_where(module, entry.line)}: {module.room} → {room} is no arrow "
            f"({module.room} may import {', '.join(sorted(allowed)) or 'no other room'})"
        )


def test_the_arrows_point_one_way() -> None:
    """No room can be reached from itself, late imports included."""
    arrows = {room: ARROWS[room] | LATE.get(room, set()) for room in ARROWS}
    for room in arrows:
        seen: set[str] = set()
        todo = set(arrows[room])
        while todo:
            seen |= todo
            todo = set().union(*(arrows[other] for other in todo)) - seen
        assert room not in seen, f"{room} reaches itself"


@pytest.mark.parametrize("module", TABLE.values(), ids=_by_name)
def test_libraries_stay_in_their_files(module: Module) -> None:
    path = module.path.relative_to(ROOT).as_posix()
    for entry in module.imports:
        places = ONLY_IN.get(entry.target.split(".")[0])
        assert places is None or path.startswith(places), (
            f"{_where(module, entry.line)}: {entry.target} belongs in {' or '.join(places)}"
        )


@pytest.mark.parametrize(
    "module", [m for m in TABLE.values() if m.room in LIGHT and m.name not in EXEMPT], ids=_by_name
)
def test_light_modules_load_nothing_heavy(module: Module) -> None:
    chains = loaded_by(module.name, TABLE)
    for library in HEAVY & set(chains):
        pytest.fail(f"{' → '.join(chains[library])}")


def _modules_after(code: str) -> set[str]:
    """The top-level packages in `sys.modules` of a fresh interpreter that ran `code`."""
    report = "import json, sys; print(); print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    loaded: list[str] = json.loads(run.stdout.splitlines()[-1])
    return set(loaded)


def test_all_light_modules_together_leave_the_heavy_ones_unloaded() -> None:
    names = [name for name, m in TABLE.items() if m.room in LIGHT and name not in EXEMPT]
    assert {"orchestrator.cli", "orchestrator.ledger", "orchestrator.registry"} <= set(names)
    assert not _modules_after("\n".join(f"import {name}" for name in names)) & HEAVY


def test_the_mlflow_writer_loads_no_torch_and_no_ray() -> None:
    loaded = _modules_after("import orchestrator.tracking.mlflow")
    assert not loaded & {"torch", "torchvision", "timm", "ray"}


def test_the_ray_backend_leaves_torch_to_the_pools() -> None:
    """Trainables import this file in every worker process, and the driver imports it too."""
    loaded = _modules_after("import orchestrator.backends.ray")
    assert "ray" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "mlflow"}


def test_help_loads_almost_nothing() -> None:
    code = """
import sys
sys.argv = ["orchestrate", "--help"]
from orchestrator.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert not _modules_after(code) & HELP_LEAVES_OUT


def test_adapters_stand_alone() -> None:
    loaded = _modules_after("import adapters; adapters.names()")
    assert "torch" in loaded
    assert not loaded & {"orchestrator", "search_spaces", "ray", "mlflow", "optuna", "pyarrow"}


def test_search_spaces_stand_alone() -> None:
    loaded = _modules_after("import search_spaces")
    assert not loaded & {"orchestrator", "adapters", "torch", "timm", "ray", "mlflow"}


def test_the_reader_of_imports_sees_what_it_should(tmp_path: Path) -> None:
    """The tests above can fail: late, relative and submodule imports are told apart."""
    path = tmp_path / "grid.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from orchestrator import spec\n"
        "from . import asks\n"
        "from ..ledger import Ledger\n"
        "if TYPE_CHECKING:\n    import ray\n"
        "def load():\n    import torch.nn\n"
    )
    known = frozenset({"orchestrator.spec", "orchestrator.search.asks"})
    found = {entry.target: entry.late for entry in read(path, "orchestrator.search.grid", known)}
    assert found == {
        "typing": False,
        "orchestrator.spec": False,
        "orchestrator.search.asks": False,
        "orchestrator.ledger": False,
        "ray": True,
        "torch.nn": True,
    }


def test_a_chain_to_a_heavy_module_is_found_through_packages() -> None:
    def module(name: str, target: str) -> Module:
        return Module(name, Path(f"{name}.py"), (Import(target, 1, False),))

    table = {
        "a": module("a", "b.c"),
        "b": module("b", "torch"),  # b/__init__.py
        "b.c": module("b.c", "json"),
    }
    assert loaded_by("a", table)["torch"] == ("a", "b.c", "torch")
