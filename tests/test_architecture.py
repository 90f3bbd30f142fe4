"""The arrows between the rooms of the house, statically and by what a subprocess has loaded.

The picture is in docs/design.md. A new room, or a new arrow, is a decision: it is made here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.imports import ROOT, Import, Module, loaded_by, modules, read

TABLE = modules()

FLOOR = {"spec", "errors", "provenance"}
"""Words as frozen records, errors, versions: open to all of `orchestrator`."""

ARROWS: dict[str, set[str]] = {
    "adapters": set(),
    "search_spaces": set(),
    "orchestrator": set(),  # the package's own __init__
    "errors": set(),
    "spec": {"errors"},
    "provenance": set(),
    "storage": set(),
    "tasks": {"storage"},
    "results": {"storage"},
    "backbones": {"storage"},
    "data": {"tasks", "storage"},
    "engine": {"data", "backbones", "adapters", "storage"},
    "search": {"results", "search_spaces", "storage"},
    "planning": {"tasks", "search", "search_spaces", "adapters", "backbones", "storage"},
    "backends": {"engine", "data", "backbones", "adapters", "results", "search", "storage"},
    "analysis": {"results", "storage"},
    "registry": {"analysis", "storage"},
    "tracking": {"results", "storage"},
    "cluster": {"data", "tasks", "planning", "tracking", "registry", "results", "storage"},
    "sweep": {
        "analysis", "backbones", "backends", "data", "planning", "registry", "results", "search",
        "storage", "tracking",
    },
    "cli": {
        "analysis", "cluster", "planning", "registry", "results", "search",
        "storage", "sweep", "tasks", "tracking",
    },
}  # fmt: skip

LATE: dict[str, set[str]] = {
    "registry": {"adapters", "backbones"},
    "cluster": {"backbones", "backends"},
    "cli": {"backbones", "backends", "data", "engine"},
}
"""Further arrows that hold only inside functions, because the other end loads torch."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "ray": ("orchestrator/backends/ray/",),
    "mlflow": ("orchestrator/tracking/mlflow.py",),
    "optuna": ("orchestrator/search/", "orchestrator/planning/resolve.py", "search_spaces/"),
    "pydantic": (
        "orchestrator/planning/",
        "orchestrator/registry",
        "orchestrator/results/sweep_file.py",
        "orchestrator/tasks/",
    ),
    "typer": ("orchestrator/cli/",),
    "huggingface_hub": ("orchestrator/data/download/hub.py", "orchestrator/backbones/hub.py"),
    "httpx2": ("orchestrator/data/download/hub.py",),
    "jinja2": ("orchestrator/analysis/",),
    "matplotlib": ("orchestrator/analysis/",),
}
"""Library → the only files (or folders) that import it."""

LIGHT = {
    "orchestrator", "errors", "spec", "provenance", "tasks", "results", "storage", "search_spaces",
    "search", "analysis", "registry", "tracking", "cli", "cluster",
}  # fmt: skip
"""Rooms that only read: importing them never loads what is in HEAVY."""

HEAVY = {"torch", "torchvision", "timm", "ray", "mlflow"}
EXEMPT = {"orchestrator.tracking.mlflow"}
"""The process that writes MLflow is light but for MLflow itself."""

HELP_LEAVES_OUT = HEAVY | {
    "optuna", "scipy", "matplotlib", "pandas", "sklearn", "pyarrow", "jinja2", "PIL",
}  # fmt: skip


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


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for module in TABLE.values():
        inside = module.name.startswith("orchestrator")
        own = {module.room, "orchestrator"} if inside else {module.room}
        floor = FLOOR if inside and module.room not in FLOOR else set()
        for entry in module.imports:
            room = _room_of(entry.target)
            allowed = ARROWS[module.room] | floor
            if entry.late:
                allowed = allowed | LATE.get(module.room, set())
            if room is not None and room not in own | allowed:
                wrong.append(f"{_where(module, entry.line)}: {module.room} → {room}")
    assert not wrong, "imports that follow no declared arrow:\n" + "\n".join(wrong)


def test_every_declared_arrow_is_used() -> None:
    used = {
        (module.room, _room_of(entry.target))
        for module in TABLE.values()
        for entry in module.imports
    }
    declared = {
        (room, other)
        for room in ARROWS
        for other in ARROWS[room] | LATE.get(room, set())
    }  # fmt: skip
    assert not declared - used, "declared, but nothing imports along them"


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


def test_no_file_can_be_reached_from_itself() -> None:
    """A circle of files cannot be read in any order; late imports count."""
    reach = {
        name: {entry.target for entry in module.imports if entry.target in TABLE} - {name}
        for name, module in TABLE.items()
    }
    while leaves := {name for name, targets in reach.items() if not targets & set(reach)}:
        reach = {name: targets for name, targets in reach.items() if name not in leaves}
    assert not reach, f"circles among: {sorted(reach)}"


def test_a_class_name_is_used_once() -> None:
    found: dict[str, list[str]] = {}
    for name, module in TABLE.items():
        for node in ast.walk(ast.parse(module.path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(name)
    assert not {name: where for name, where in found.items() if len(where) > 1}


def test_libraries_stay_in_their_files() -> None:
    wrong = []
    for module in TABLE.values():
        path = module.path.relative_to(ROOT).as_posix()
        for entry in module.imports:
            places = ONLY_IN.get(entry.target.split(".")[0])
            if places is not None and not path.startswith(places):
                wrong.append(f"{_where(module, entry.line)}: {entry.target} is for {places}")
    assert not wrong, "\n".join(wrong)


def test_light_modules_load_nothing_heavy() -> None:
    wrong = []
    for name, module in TABLE.items():
        if module.room in LIGHT and name not in EXEMPT:
            chains = loaded_by(name, TABLE)
            wrong += [" → ".join(chains[library]) for library in HEAVY & set(chains)]
    assert not wrong, "\n".join(wrong)


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
    assert {"orchestrator.cli.main", "orchestrator.results.ledger", "orchestrator.registry"} <= set(
        names
    )
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
from orchestrator.cli.main import main
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
        "from . import suggestions\n"
        "from ..results.ledger import Ledger\n"
        "if TYPE_CHECKING:\n    import ray\n"
        "def load():\n    import torch.nn\n"
    )
    known = frozenset({"orchestrator.spec", "orchestrator.search.suggestions"})
    found = {entry.target: entry.late for entry in read(path, "orchestrator.search.grid", known)}
    assert found == {
        "typing": False,
        "orchestrator.spec": False,
        "orchestrator.search.suggestions": False,
        "orchestrator.results.ledger": False,
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
