"""Mutation check: which small faults in the product do its tests notice?

`python tools/mutants.py > before.json` plants a reproducible sample of faults, one at a time, in a
copy of the tree, runs the tests of their room against it, and prints what became of each fault.
After a refactoring, `--again before.json` plants those that still exist, wherever their code is
now: a mutant is known by its function, its expression and its change, not by file and line.
`--renamed FILE` ("old new" on each line) follows names that the refactoring changed.

A mutant that survives is a fault that no test of its room notices, or one that changes nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("adapters", "orchestrator", "search_spaces", "tests", "clusters", "tools", "docs")
ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "adapters": (["adapters"], ["tests/adapters/test_contract.py"]),
    "search": (["orchestrator/search"], ["tests/search"]),
    "results": (
        ["orchestrator/results", "orchestrator/analysis/statistics.py"],
        ["tests/results", "tests/analysis/test_statistics.py"],
    ),
}
"""Name → (what is mutated, the tests that are run). For an adapter: its own tests too."""
LOADED = (
    "torch",
    "timm",
    "torchvision",
    "optuna",
    "scipy.stats",
    "pyarrow.parquet",
    "pydantic",
    "typer",
    "rich.table",
)
"""Imported once; every mutant's process is forked afterwards."""
PER_FUNCTION = 2
"""At most so many of the sample are in one function."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A fault; `nth` counts the equal ones of the function that come before it.

    `within` is the expression or statement around a number, which says little by itself.
    """

    function: str
    within: str
    expression: str
    becomes: str
    nth: int


@dataclass(frozen=True)
class Site:
    """Where a mutant is planted: a span of a file, in bytes."""

    file: Path
    begin: int
    end: int
    text: str


def changes(node: ast.AST) -> Iterator[str]:
    """What an expression may be replaced by."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield _with(node, op=SWAPS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield _with(node, ops=[SWAPS[type(op)]()])
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield ast.unparse(operand)
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield str(value + 1)
            yield str(value - 1)
        case ast.keyword(arg="dim" | "axis", value=value):
            axis = ast.literal_eval(value) if isinstance(value, ast.Constant | ast.UnaryOp) else 0
            yield "0" if axis else "1"


def _with(node: ast.AST, **fields: object) -> str:
    kept = {name: getattr(node, name) for name in node._fields}
    return ast.unparse(type(node)(**{**kept, **fields}))


def mutants(file: Path) -> Iterator[tuple[Mutant, Site]]:
    """Every mutant of a file, in the order of its text."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    seen: Counter[tuple[str, str, str, str]] = Counter()

    def visit(
        node: ast.AST, names: tuple[str, ...], inside: bool, within: str
    ) -> Iterator[tuple[Mutant, Site]]:
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            return  # the words of a message are no behaviour
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names, inside = (*names, node.name), inside or isinstance(node, ast.FunctionDef)
        target = node.value if isinstance(node, ast.keyword | ast.Return) else node
        found = list(changes(node))
        if isinstance(node, ast.Return) and not isinstance(node.value, ast.Constant | None):
            found = ["None"]
        number = isinstance(node, ast.Constant | ast.UnaryOp)
        if inside and isinstance(target, ast.expr):
            for becomes in found:
                shown = ast.unparse(node)
                kind = (".".join(names), within if number else "", shown, becomes)
                span = (
                    starts[target.lineno - 1] + target.col_offset,
                    starts[(target.end_lineno or 0) - 1] + (target.end_col_offset or 0),
                )
                yield Mutant(*kind, seen[kind]), Site(file, *span, f"({becomes})")
                seen[kind] += 1
        if isinstance(node, ast.expr | ast.stmt) and not number:
            within = ast.unparse(node).partition("\n")[0]
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, names, inside, within)

    yield from visit(ast.parse(source), (), False, "")


def all_mutants(room: str) -> dict[Mutant, Site]:
    """Every mutant of a room; where two are equal, the first."""
    found: dict[Mutant, Site] = {}
    for path in ROOMS[room][0]:
        at = ROOT / path
        for file in sorted(at.rglob("*.py")) if at.is_dir() else [at]:
            for mutant, site in mutants(file):
                found.setdefault(mutant, site)
    return found


def sample(room: str, count: int, seed: int) -> list[Mutant]:
    """Some mutants of a room, spread over its functions."""
    candidates = list(all_mutants(room))
    random.Random(f"{room} {seed}").shuffle(candidates)
    chosen: list[Mutant] = []
    used: Counter[str] = Counter()
    for mutant in candidates:
        if len(chosen) < count and used[mutant.function] < PER_FUNCTION:
            chosen.append(mutant)
            used[mutant.function] += 1
    return chosen


def find(mutant: Mutant, known: dict[Mutant, Site], rename: Callable[[str], str]) -> Site | None:
    """Where a mutant is now; None where its function or expression no longer exists.

    A method that became a function, or moved to another class, is found by its own name as long as
    that is unambiguous.
    """
    now = Mutant(*(rename(part) for part in list(asdict(mutant).values())[:-1]), mutant.nth)
    if now in known:
        return known[now]
    short = replace(now, function=now.function.rpartition(".")[2])
    alike = [
        site
        for other, site in known.items()
        if replace(other, function=other.function.rpartition(".")[2]) == short
    ]
    return alike[0] if len(alike) == 1 else None


def tests_of(room: str, file: Path) -> list[str]:
    """The tests that should notice a fault in a file, the most specific first."""
    own: list[str] = []
    if room == "adapters":
        for path in sorted((ROOT / "tests/adapters").glob("test_*.py")):
            imported = re.search(rf"adapters\.{file.stem}\b", path.read_text())
            if file.stem in path.stem or imported:
                own.append(f"tests/adapters/{path.name}")
    return own + [test for test in ROOMS[room][1] if (ROOT / test).exists() and test not in own]


def copy_tree(to: Path) -> None:
    """What the tests need of the working tree."""
    for name in COPIED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, to)


class FirstFailure:
    """A pytest plugin: the test that failed first."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test."""
        self.name = self.name or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called for each module."""
        self.name = self.name or (report.nodeid if report.failed else "")


def _child(copy: Path, tests: list[str], results: Connection) -> None:
    os.chdir(copy)
    sys.path[:0] = [str(copy)]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    first = FirstFailure()
    options = ["-x", "-q", "-n", "0", "--tb=no", "-p", "no:cacheprovider"]
    options += ["-k", "not take_seconds"]  # which fail on a busy machine
    code = pytest.main([*options, *tests], plugins=[first])
    results.send(
        "survived" if code == 0 else f"killed: {first.name or f'pytest ended with {code}'}"
    )


def run_tests(copy: Path, tests: list[str], seconds: float) -> str:
    """`survived`, or the test that failed first; in a process that has torch already loaded."""
    processes = multiprocessing.get_context("fork")
    theirs, ours = processes.Pipe(duplex=False)
    child = processes.Process(target=_child, args=(copy, tests, ours))
    child.start()
    ours.close()
    try:
        return str(theirs.recv()) if theirs.poll(seconds) else "killed: the tests do not end"
    except EOFError:
        return "killed: the process died"
    finally:
        child.kill()
        child.join()


def check(copy: Path, room: str, site: Site, seconds: float) -> str:
    """What becomes of a fault."""
    file = copy / site.file.relative_to(ROOT)
    source = file.read_bytes()
    try:
        file.write_bytes(source[: site.begin] + site.text.encode() + source[site.end :])
        return run_tests(copy, tests_of(room, site.file), seconds)
    finally:
        file.write_bytes(source)


def renaming(files: list[Path]) -> Callable[[str], str]:
    """Replaces whole words by the files' pairs; dotted names by their last parts."""
    pairs = [line.split() for file in files for line in file.read_text().splitlines()]
    table = {p[0].rpartition(".")[2]: p[1].rpartition(".")[2] for p in pairs if len(p) == 2}
    return lambda text: re.sub(r"\w+", lambda word: table.get(word[0], word[0]), text)


def main() -> None:
    """Prints JSON: room → mutants with their outcomes; progress goes to the standard error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=25, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", choices=ROOMS, help="default: all")
    parser.add_argument("--again", type=Path, help="the output of an earlier run")
    parser.add_argument("--renamed", type=Path, action="append", default=[])
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one mutant")
    options = parser.parse_args()
    earlier = json.loads(options.again.read_text()) if options.again else None
    rename = renaming(options.renamed)
    report: dict[str, list[dict[str, object]]] = {}
    sys.dont_write_bytecode = True  # two versions of a file may have the same time and size
    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        copy_tree(copy)
        plan: list[list[tuple[str, Mutant, Site | None]]] = []
        for room in options.room or ROOMS:
            if (outcome := run_tests(copy, ROOMS[room][1], options.timeout)) != "survived":
                sys.exit(f"The tests of {room} fail without any mutant: {outcome}")
            known = all_mutants(room)
            if earlier:
                fields = ("function", "within", "expression", "becomes", "nth")
                chosen = [Mutant(*(row[name] for name in fields)) for row in earlier[room]]
            else:
                chosen = sample(room, options.sample, options.seed)
            plan.append([(room, mutant, find(mutant, known, rename)) for mutant in chosen])
            report[room] = []
        with suppress(KeyboardInterrupt):  # Ctrl-C prints what there is
            for room, mutant, site in filter(None, chain(*zip_longest(*plan))):
                began = time.monotonic()
                outcome = check(copy, room, site, options.timeout) if site else "absent"
                file = str(site.file.relative_to(ROOT)) if site else None
                report[room].append({**asdict(mutant), "file": file, "outcome": outcome})
                taken = time.monotonic() - began
                print(f"{taken:4.0f} s  {room}  {mutant}  {outcome}", file=sys.stderr, flush=True)
    for room, rows in report.items():
        counts = Counter(str(row["outcome"]).partition(":")[0] for row in rows)
        print(f"{room}: {dict(counts)}", file=sys.stderr)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
