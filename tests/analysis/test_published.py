from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from adapters import names as adapter_names
from orchestrator.analysis import published
from orchestrator.analysis.published import SWIN_B, VIT_B, VIT_B_AUGREG, VIT_L, for_suite
from orchestrator.spec import Suite
from orchestrator.tasks.suites import FGVC, VTAB

SUITES = (VTAB, FGVC)
FILES = Path(published.__file__).parent / "published"
DEVIATIONS = {
    ("HTA", VIT_B, "rlrr", "natural_mean"): (82.7, 82.643),
    ("HTA", VIT_L, "rlrr", "mean_total"): (75.2, 75.147),
    ("HTA", VIT_B, "vpt_shallow", "mean"): (84.6, 84.66),
    ("HTA", VIT_B, "rlrr", "mean"): (90.4, 90.5),
}
"""Means that the papers print otherwise than their own tasks give: (printed, recomputed)."""


def means(suite: Suite, accuracy: dict[str, float]) -> dict[str, float]:
    """In per cent, by every name under which a paper prints it."""
    groups = {
        name: 100 * fmean(accuracy[task.name] for task in suite.tasks if task.group == name)
        for name in dict.fromkeys(task.group for task in suite.tasks)
    }
    every = 100 * fmean(accuracy.values())
    return {
        **{f"{name}_mean": value for name, value in groups.items()},
        **dict.fromkeys(("overall_avg", "mean_total", "mean"), every),
        "subsets_avg": fmean(groups.values()),
    }


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_every_row_has_every_task_of_the_suite(suite: Suite) -> None:
    for row in for_suite(suite.name):
        assert list(row.accuracy) == [task.name for task in suite.tasks], row.name
        assert all(0.05 < value <= 1 for value in row.accuracy.values())
        assert 0 <= row.params_m < 400


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_printed_means_are_those_of_the_tasks_but_for_the_known_ones(suite: Suite) -> None:
    found = {}
    for row in for_suite(suite.name):
        assert row.printed
        for name, printed in row.printed.items():
            recomputed = means(suite, dict(row.accuracy))[name]
            if abs(100 * printed - recomputed) > 0.05 + 1e-9:  # one decimal, rounded either way
                key = (row.paper, row.backbone, row.name, name)
                found[key] = (round(100 * printed, 2), round(recomputed, 3))
    expected = {k: v for k, v in DEVIATIONS.items() if (k[3] == "mean") == (suite is FGVC)}
    assert found == expected


def test_the_numbers_are_those_of_the_files() -> None:
    by_name = {(row.paper, row.backbone, row.name): row for row in for_suite("vtab")}
    efft2 = by_name["EFFT", VIT_B, "efft2"]
    assert (efft2.accuracy["cifar"], efft2.accuracy["smallnorb_ele"]) == (0.721, 0.419)
    assert (efft2.params_m, efft2.printed["subsets_avg"]) == (0.245, 0.759)
    assert by_name["HTA", SWIN_B, "hta"].accuracy["dsprites_loc"] == 0.891
    assert by_name["HTA", VIT_L, "full"].params_m == 303.4
    fgvc = {row.name: row for row in for_suite("fgvc")}
    assert fgvc["hta"].accuracy["stanford_cars"] == 0.879
    assert (len(by_name), len(fgvc)) == (40, 14)


def test_variants_keep_their_adapter() -> None:
    found = {row.name: (row.method, row.variant, row.is_plain) for row in for_suite("vtab")}
    assert found["efft2 r16"] == ("efft2", "r16", False)
    assert found["hta qv_ffn"] == ("hta", "qv_ffn", False)
    assert found["hta_adapter ffn"] == ("hta_adapter", "ffn", False)
    assert found["hta augreg"] == ("hta", "augreg", True)
    assert found["vpt_deep"] == ("vpt_deep", "", True)
    assert found["fact_tk"] == ("fact_tk", "", True)
    bases = {row.method for suite in SUITES for row in for_suite(suite.name)}
    assert {"linear", "lora", "efft2", "hta"} <= bases & set(adapter_names()), (
        "what can be compared"
    )


def test_backbones_are_told_apart() -> None:
    counts = Counter(row.backbone for row in for_suite("vtab"))
    assert counts == {VIT_B: 25, VIT_B_AUGREG: 3, VIT_L: 7, SWIN_B: 5}
    assert {row.backbone for row in for_suite("fgvc")} == {VIT_B, VIT_B_AUGREG}
    assert all(
        (row.variant == "augreg") == (row.backbone == VIT_B_AUGREG)
        for suite in SUITES
        for row in for_suite(suite.name)
    )


def test_what_the_printed_parameters_count() -> None:
    """linear has none but the head; the EFFT paper leaves the head out everywhere."""
    rows = [row for suite in SUITES for row in for_suite(suite.name)]
    assert all(row.with_head == (row.paper == "HTA") for row in rows if row.method == "linear")
    headless = {
        (r.backbone, r.name) for r in for_suite("vtab") if r.paper == "HTA" and not r.with_head
    }
    assert headless == {
        (VIT_B, "hta qv"), (VIT_B, "hta qv_ffn"), (VIT_B, "hta_adapter ffn"),
        (VIT_L, "lora"), (VIT_L, "arc"), (SWIN_B, "hta"),
    }  # fmt: skip


def test_the_files_say_where_they_come_from() -> None:
    for suite in SUITES:
        for row in for_suite(suite.name):
            assert "arXiv 2" in row.source and "table" in row.source
    for path in FILES.glob("*.csv"):
        assert path.read_text().startswith("# Table"), path.name


def test_other_suites_have_no_published_rows() -> None:
    assert for_suite("mini") == for_suite("fewshot") == ()
