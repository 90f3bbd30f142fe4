"""docs/reliability.md has a line for each case that the tests declare, and each has passed."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.hosts import reliability
from tests.hosts.reliability import BEGIN, CASES, END, PASSED, line, lines
from tests.imports import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def _tested() -> list[str]:
    """The cases that the tests on clusters write, by their source: `line("…")` and parameters."""
    found = []
    for path in sorted((ROOT / "tests" / "cluster").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", "")
            if name == "line" and isinstance(node, ast.Call):
                (case,) = node.args
                found += [case.value] if isinstance(case, ast.Constant) else _parameters(path)
    return found


def _parameters(path: Path) -> list[str]:
    """First values of `@pytest.mark.parametrize(("case", …), [("…", …), …])`."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    (table,) = [c.args[1] for c in calls if getattr(c.func, "attr", "") == "parametrize"]
    assert isinstance(table, ast.List)
    return [row.elts[0].value for row in table.elts]  # type: ignore[attr-defined]


def test_every_case_has_one_test() -> None:
    assert Counter(_tested()) == Counter(list(CASES))


def test_the_table_has_these_cases_and_all_have_passed() -> None:
    table = lines(DOCUMENT.read_text())
    assert list(table) == [happens for happens, _ in CASES.values()]
    for happens, holds in CASES.values():
        assert table[happens].startswith(f"| {happens} | {holds} | ")
        assert table[happens].endswith(f" s | {PASSED} |")


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with an empty table, to which lines are written."""
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n{BEGIN}\n{END}\n\nThe end.\n")
    monkeypatch.setenv(reliability.VARIABLE, str(path))
    return path


def test_lines_are_put_in_the_order_of_the_cases(document: Path) -> None:
    for case in reversed(CASES):
        with line(case) as mine:
            mine.found = f"found {case}"
    text = document.read_text()
    assert list(lines(text)) == [happens for happens, _ in CASES.values()]
    assert text.startswith("# Page\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    before = text
    with line("pool") as mine:
        mine.found = "found pool"
    assert document.read_text() == before, "the same findings, the same page"


def test_a_failure_is_published_too(document: Path) -> None:
    with pytest.raises(ZeroDivisionError), line("pool"):
        1 / 0  # noqa: B018
    (row,) = lines(document.read_text()).values()
    assert row.endswith("| **failed** |")


def test_an_interrupted_test_says_nothing(document: Path) -> None:
    before = document.read_text()
    with pytest.raises(KeyboardInterrupt), line("pool"):
        raise KeyboardInterrupt
    assert document.read_text() == before


def test_a_test_that_found_nothing_has_not_passed(document: Path) -> None:
    with pytest.raises(AssertionError, match="says nothing"), line("pool"):
        pass
    assert lines(document.read_text()) == {}


def test_nothing_is_written_unasked(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reliability.VARIABLE)
    before = document.read_text()
    with line("pool") as mine:
        mine.found = "found"
    assert document.read_text() == before
