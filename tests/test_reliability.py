"""docs/reliability.md has a line for each case that the tests declare, and each has passed."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests import test_kill
from tests.hosts import reliability
from tests.hosts.reliability import BEGIN, CASES, END, PASSED, line, lines
from tests.imports import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def _tested() -> list[str]:
    """The cases that the tests on clusters write, by their source: `line("…")`; and local ones."""
    found = list(test_kill.PROCESSES)
    for path in sorted((ROOT / "tests" / "hosts").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "line":
                found.append(ast.literal_eval(node.args[0]))
    return found


def test_every_case_has_one_test() -> None:
    assert Counter(_tested()) == Counter(list(CASES))


def test_the_table_has_these_cases_and_all_have_passed() -> None:
    table = lines(DOCUMENT.read_text())
    assert list(table) == [happens for happens, _ in CASES.values()]
    for happens, holds in CASES.values():
        assert table[happens].startswith(f"| {happens} | {holds} | ")
        assert table[happens].endswith(f" s | {PASSED} |")


def test_a_line_is_put_in_its_place_and_a_failure_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"# Page\n\n{BEGIN}\n{END}\n\nThe end.\n")
    monkeypatch.setenv(reliability.VARIABLE, str(document))
    with line("pool") as mine:
        mine.found = "two of 16"
    with pytest.raises(ZeroDivisionError), line("driver"):
        1 / 0  # noqa: B018
    with pytest.raises(AssertionError, match="says nothing"), line("node"):
        pass
    driver, pool = lines(document.read_text()).values()
    assert driver.endswith("| **failed** |")
    assert "| two of 16; 0 s | passed |" in pool
    assert document.read_text().startswith("# Page\n")
    assert document.read_text().endswith(f"{END}\n\nThe end.\n")
