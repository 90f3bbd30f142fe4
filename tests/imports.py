"""What every module of the three packages imports, read from its syntax tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("orchestrator", "adapters", "search_spaces")


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name.

    `late` marks what merely importing the file does not load: imports inside a function, and those
    for type checkers only.
    """

    target: str
    line: int
    late: bool


@dataclass(frozen=True)
class Module:
    """A source file as `orchestrator.search.grid`, with what it imports."""

    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """`adapters`, `search_spaces`, or the part directly below `orchestrator`."""
        parts = self.name.split(".")
        return parts[0] if len(parts) == 1 or parts[0] != "orchestrator" else parts[1]


def modules() -> dict[str, Module]:
    """Every module of the three packages by name."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = {path: _name(path.relative_to(ROOT)) for path in paths}
    known = frozenset(names.values())
    return {name: Module(name, path, read(path, name, known)) for path, name in names.items()}


def read(path: Path, name: str, known: frozenset[str]) -> tuple[Import, ...]:
    """The imports of one file; `from package import x` counts as `package.x` if that is known."""
    found: list[Import] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, is_package=path.name == "__init__.py")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append(Import(full if full in known else base, node.lineno, late))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, late)
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, inside)

    visit(ast.parse(path.read_text(), str(path)), False)
    return tuple(found)


def loaded_by(name: str, table: dict[str, Module]) -> dict[str, tuple[str, ...]]:
    """Everything that importing `name` loads → the chain of modules that leads there.

    Importing a module also runs the `__init__` of every package above it.
    """
    chains: dict[str, tuple[str, ...]] = {}
    todo = [(name, (name,))]
    while todo:
        target, chain = todo.pop()
        parts = target.split(".")
        for depth in range(1, len(parts) + 1):
            part = ".".join(parts[:depth])
            if part in chains:
                continue
            chains[part] = chain
            if part in table:
                now = (entry for entry in table[part].imports if not entry.late)
                todo.extend((entry.target, (*chain, entry.target)) for entry in now)
    return chains


def _name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _absolute(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)
