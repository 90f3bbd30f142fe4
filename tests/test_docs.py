"""What the documents say about the repository is true: links, files, commands, options."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import ROOT, modules

README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = [
    "pip install -e . && orchestrate sweep mini",
    'pip install -e ".[dev]" && pytest -n auto --dist worksteal',
]


def _without_comments(path: Path) -> str:
    return re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_resolves(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", _without_comments(path))
    broken = [
        link
        for link in links
        if "://" not in link
        and not link.startswith("#")
        and not (path.parent / link.split("#")[0]).exists()
    ]
    assert not broken


def test_the_readme_opens_with_two_commands_that_install_and_go() -> None:
    blocks = [block.strip() for block in _blocks(README.read_text(), "bash")]
    assert blocks[:2] == COMMANDS
    assert not any("pip install" in block for block in blocks[2:])


def test_the_sweep_that_the_design_begins_with_is_the_local_backend() -> None:
    block = _blocks((ROOT / "docs" / "design.md").read_text(), "python")[0]
    source = (ROOT / "orchestrator" / "backends" / "local.py").read_text()
    _, _, shown = block.partition("\n")  # the signature is shortened
    assert all(part.strip("\n") in source for part in shown.split("\n\n\n"))


def _tree() -> dict[str, str]:
    """Path → what the README's file tree says of it."""
    (block,) = _blocks(README.read_text().split("## Files")[1], "text")
    found: dict[str, str] = {}
    folder = ""
    for line in block.splitlines():
        name, text = line.split(maxsplit=1)
        folder = name if not line.startswith(" ") else folder
        found[name if not line.startswith(" ") else folder + name] = text
    return found


def test_the_file_tree_names_files_that_exist() -> None:
    missing = [path for path in _tree() if not (ROOT / path).exists()]
    assert not missing


def test_the_file_tree_names_every_room() -> None:
    named = {Path(path).stem for path in _tree()}
    assert {module.room for module in modules().values()} <= named


def test_python_in_the_readme_uses_names_that_exist() -> None:
    """`from package import name` of every snippet can be imported."""
    for block in _blocks(README.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                package = importlib.import_module(node.module)
                for alias in node.names:
                    submodule = importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert hasattr(package, alias.name) or submodule


def test_the_options_in_the_readme_are_those_of_the_command() -> None:
    listed = set(re.findall(r"`(--[a-z-]+)[ A-Z=]*`", README.read_text().split("Exit codes")[0]))
    run = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli.main import main; main()", "sweep", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    )
    offered = set(re.findall(r"--[a-z-]+", run.stdout)) - {"--help"}
    assert listed - {"--merged"} <= offered
    assert offered - listed <= {"--no-color"}, "options that the README does not list"
