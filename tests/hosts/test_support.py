"""Where hosts cannot be simulated, the reason of the skipped tests says what to do."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.hosts import support


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can do it all, whatever this one can do."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(support.shutil, "which", lambda name, path: f"/usr/bin/{name}")
    monkeypatch.setattr(support, "_available_memory", lambda: support.MEMORY)
    monkeypatch.setattr(support, "_kernel_refuses", lambda: "")
    monkeypatch.setattr(support, "why_not", support.why_not.__wrapped__)


def test_nothing_is_missing() -> None:
    assert support.why_not() == ""


def test_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in support.why_not()


def test_missing_packages_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"rsync", "ssh", "ssh-keygen"}
    monkeypatch.setattr(
        support.shutil, "which", lambda name, path: None if name in missing else f"/usr/bin/{name}"
    )
    assert support.why_not().endswith("apt-get install openssh-client rsync")


def test_too_little_memory_is_told_in_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_available_memory", lambda: 2**30)
    assert support.why_not() == "simulated hosts need 6 GiB of memory, 1.0 free"


def test_a_kernel_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    refusal = subprocess.CompletedProcess([], 1, "", "unshare: unshare failed: Not permitted\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refusal)
    assert support._kernel_refuses().endswith("unshare: unshare failed: Not permitted")
