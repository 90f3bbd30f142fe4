"""Where the images of a suite are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.data.suite_root import default_folder, fetch_target, suite_root, tasks_in
from orchestrator.errors import InvalidInput
from orchestrator.spec import Recipe, Suite, Task

TOY = Suite(
    "toy",
    (Task("cifar", "natural", 100, aliases=("cifar100",)), Task("dtd", "natural", 47)),
    backbone="vit",
    recipe=Recipe(),
    default_tasks=(),
    default_adapters=(),
    layout="lists",
    variable="TOY_ROOT",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own folders: the default folder lies in the returned folder."""
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "cache" / "data"))
    monkeypatch.delenv("TOY_ROOT", raising=False)
    return tmp_path / "cache" / "suites" / "toy"


def test_the_option_comes_before_the_variable_and_that_before_the_default_folder(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert suite_root(TOY, None) is None
    home.mkdir(parents=True)
    assert suite_root(TOY, None) == fetch_target(TOY, None) == home
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("TOY_ROOT", str(tmp_path / "named"))
    assert suite_root(TOY, None) == fetch_target(TOY, None) == tmp_path / "named"
    (tmp_path / "given").mkdir()
    assert suite_root(TOY, tmp_path / "given") == tmp_path / "given"
    assert fetch_target(TOY, tmp_path / "given") == tmp_path / "given"


def test_the_default_folder_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORCHESTRATE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder(TOY) == tmp_path / ".cache" / "orchestrate" / "suites" / "toy"


def test_a_named_folder_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"--suite-root is '.*file', which is no folder"):
        suite_root(TOY, tmp_path / "file")
    monkeypatch.setenv("TOY_ROOT", str(tmp_path / "gone"))
    with pytest.raises(InvalidInput, match=r"\$TOY_ROOT is '.*gone', which does not exist"):
        suite_root(TOY, None)
    assert fetch_target(TOY, None) == tmp_path / "gone", "fetch makes it"


def test_task_folders_are_found_by_alias_in_any_case_and_two_levels_down(tmp_path: Path) -> None:
    inner = tmp_path / "data" / "vtab-1k"
    for folder in (inner, tmp_path / "__MACOSX" / "vtab-1k"):
        (folder / "CIFAR100").mkdir(parents=True)
        (folder / "dtd").mkdir()
    assert suite_root(TOY, tmp_path) == inner
    assert tasks_in(TOY, inner) == ("cifar", "dtd")
    (tmp_path / "dtd").mkdir()
    assert suite_root(TOY, tmp_path) == tmp_path, "its own task folders come first"


def test_the_folder_with_most_tasks_wins_and_three_levels_are_too_deep(tmp_path: Path) -> None:
    for folder in ("a/dtd", "b/dtd", "b/cifar", "deep/er/still/dtd"):
        (tmp_path / folder).mkdir(parents=True)
    assert suite_root(TOY, tmp_path) == tmp_path / "b"
    assert suite_root(TOY, tmp_path / "deep") == tmp_path / "deep" / "er" / "still"
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deep").rename(tmp_path / "deeper" / "deep")
    assert suite_root(TOY, tmp_path / "deeper") == tmp_path / "deeper"


def test_the_draws_of_a_few_shot_dataset_share_its_folder(tmp_path: Path) -> None:
    (tmp_path / "Food-101").mkdir()
    found = tasks_in(tasks.suite("fewshot"), tmp_path)
    assert len(found) == 15
    assert found[0] == "food101-1shot-seed0"
