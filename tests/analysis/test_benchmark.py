from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.benchmark import Benchmark, TableSection, benchmark, match
from orchestrator.analysis.published import SWIN_B, VIT_B, VIT_B_AUGREG, for_suite
from orchestrator.analysis.summary import Summary
from orchestrator.spec import Suite, Sweep, TrialResult
from orchestrator.tasks.suites import FGVC, VTAB
from tests.analysis.synthetic import SUITE, SWEEP, benchmark_results

ORIG = "vit_base_patch16_224.orig_in21k"


def sweep_of(suite: Suite, *adapters: str, backbone: str = ORIG, **changes: Any) -> Sweep:
    tasks = tuple(task.name for task in suite.tasks)
    named = {"suite": suite.name, "tasks": tasks, "adapters": adapters, "backbone": backbone}
    return replace(SWEEP, **named, spaces={}, **changes)


def summary_of(
    suite: Suite, *adapters: str, rows: Sequence[TrialResult] | None = None, **changes: Any
) -> Summary:
    sweep = sweep_of(suite, *adapters, **changes)
    return summarise(benchmark_results(sweep, suite) if rows is None else rows, sweep, suite)


def table(*summaries: Summary) -> Benchmark:
    found = benchmark(summaries)
    assert found is not None
    return found


def sections(found: Benchmark, kind: str) -> list[TableSection]:
    return [section for section in found.sections if section.kind == kind]


def test_columns_are_the_papers_groups_with_their_means() -> None:
    found = table(summary_of(VTAB, "lora"))
    labels = [column.label for column in found.columns]
    assert len(labels) == 19 + 3 + 2
    assert labels[6:8] == ["sun397", "mean"] and labels[11:13] == ["diabetic_retinopathy", "mean"]
    assert labels[-3:] == ["mean", "mean of tasks", "mean of groups"]
    assert found.groups == (("natural", 8), ("specialized", 5), ("structured", 9), ("", 2))
    assert [c.label for c in found.columns if c.is_mean] == ["mean"] * 3 + labels[-2:]


def test_a_suite_of_one_group_has_one_mean() -> None:
    found = table(summary_of(FGVC, "hta"))
    assert found.groups == (("fine-grained", 5), ("", 1))
    (difference,) = sections(found, "difference")
    assert [row.label for row in difference.rows] == ["hta − HTA paper"], "augreg is another"


def test_our_line_is_the_mean_of_every_column() -> None:
    summary = summary_of(VTAB, "efft2")
    ours = {study.task: study.test.values for study in summary.studies}
    (row,) = sections(table(summary), "own")[0].rows
    groups = [
        [task.name for task in VTAB.tasks if task.group == group]
        for group in ("natural", "specialized", "structured")
    ]
    by_seed = [[fmean(ours[name][seed] for name in names) for names in groups] for seed in range(3)]
    (item,) = summary.adapters
    for cell, wanted in zip(row.cells[-2:], (item.mean_tasks, item.mean_groups), strict=True):
        assert (cell.value, cell.half) == (pytest.approx(wanted.mean), pytest.approx(wanted.half))
    assert row.cells[-1].value == pytest.approx(fmean(fmean(row) for row in by_seed))
    assert row.cells[0].value == pytest.approx(summary.study("cifar", "efft2").test.mean)
    assert row.cells[7].value == pytest.approx(fmean(row[0] for row in by_seed))
    assert row.params_m == pytest.approx(0.003072)


def test_published_lines_are_the_same_adapters_and_the_references_paper_by_paper() -> None:
    found = sections(table(summary_of(VTAB, "hta", "efft2")), "published")
    assert [
        (section.title.split(",")[-2][-10:], section.note.split(";")[0]) for section in found
    ] == [
        ("2311.06749", "ViT-B/16, ImageNet-21k"),
        ("2410.22952", "ViT-B/16, ImageNet-21k"),
        ("2410.22952", "ViT-B/16, ImageNet-21k AugReg (another backbone than this sweep's)"),
    ]
    assert [row.label for row in found[0].rows] == ["full", "linear", "efft2 r16", "efft2"]
    assert [row.label for row in found[1].rows] == [
        "hta", "hta qv", "hta qv_ffn", "hta rank0", "hta rank2", "hta rank4",
    ]  # fmt: skip
    assert all("chosen on the test split" in section.note for section in found)
    printed = next(row for row in for_suite("vtab") if row.name == "efft2")
    row = found[0].rows[-1]
    assert row.cells[-2].value == pytest.approx(fmean(printed.accuracy.values()))
    assert (row.params_m, row.with_head) == (0.245, False)
    assert found[1].rows[0].with_head


def test_differences_are_ours_minus_the_papers_main_line() -> None:
    summary = summary_of(VTAB, "lora", "hta", "efft2")
    (found,) = sections(table(summary), "difference")
    assert [row.label for row in found.rows] == [
        "lora − EFFT paper", "hta − HTA paper", "efft2 − EFFT paper",
    ]  # fmt: skip
    theirs = next(row for row in for_suite("vtab") if row.name == "lora")
    ours = summary.study("cifar", "lora").test.mean or 0
    assert found.rows[0].cells[0].value == pytest.approx(ours - theirs.accuracy["cifar"])
    mean = summary.adapters[0].mean_tasks.mean or 0
    assert found.rows[0].cells[-2].value == pytest.approx(mean - fmean(theirs.accuracy.values()))
    assert "part of a negative difference is the published protocol's" in found.note


def test_a_line_without_every_task_has_dashes_and_no_difference() -> None:
    sweep = sweep_of(VTAB, "lora", "efft2")
    rows = [
        row
        for row in benchmark_results(sweep, VTAB)
        if (row.trial.task, row.trial.adapter, row.trial.seed) != ("eurosat", "lora", 2)
    ]
    found = table(summarise(rows, sweep, VTAB))
    first, second = sections(found, "own")[0].rows
    missing = [
        c.label for c, cell in zip(found.columns, first.cells, strict=True) if cell.value is None
    ]
    assert missing == ["eurosat", "mean", "mean of tasks", "mean of groups"]
    assert all(cell.value is not None for cell in second.cells)
    (difference,) = sections(found, "difference")
    assert [row.label for row in difference.rows] == ["efft2 − EFFT paper"]


def test_a_sweep_of_some_tasks_has_no_mean_over_all() -> None:
    summary = summary_of(VTAB, "lora")
    few = replace(summary.sweep, tasks=("cifar", "kitti"))
    found = table(summarise(benchmark_results(few, VTAB), few, VTAB))
    (row,) = sections(found, "own")[0].rows
    shown = [c.label for c, cell in zip(found.columns, row.cells, strict=True) if cell.value]
    assert shown == ["cifar", "kitti"]
    assert not sections(found, "difference")


@pytest.mark.parametrize(
    ("name", "orig", "augreg", "swin"),
    [
        (ORIG, "same", "other", "other"),
        ("vit_base_patch16_224.augreg_in21k", "other", "same", "other"),
        ("vit_base_patch16_224", "other", "other", "other"),
        ("vit_base_patch16_224@/data/ViT-B_16.npz", "unknown", "unknown", "other"),
        ("swin_base_patch4_window7_224.ms_in22k", "other", "other", "same"),
        ("vit_mini", "other", "other", "other"),
    ],
)
def test_which_published_backbone_is_ours(name: str, orig: str, augreg: str, swin: str) -> None:
    assert [match(one, name) for one in (VIT_B, VIT_B_AUGREG, SWIN_B)] == [orig, augreg, swin]


def test_another_backbone_is_named_everywhere() -> None:
    found = table(summary_of(VTAB, "lora", backbone="vit_mini"))
    assert found.foreign
    assert all("another backbone than this sweep's" in b.note for b in sections(found, "published"))
    (difference,) = sections(found, "difference")
    assert [row.label for row in difference.rows] == ["lora − EFFT paper (other backbone)"]
    assert not table(summary_of(VTAB, "lora")).foreign


def test_lines_of_the_sweeps_own_backbone_are_preferred() -> None:
    swin = table(summary_of(VTAB, "hta", backbone="swin_base_patch4_window7_224.ms_in22k"))
    assert [row.label for section in sections(swin, "published") for row in section.rows] == [
        "full", "linear", "hta",
    ]  # fmt: skip
    assert not swin.foreign
    augreg = table(summary_of(VTAB, "hta", backbone="vit_base_patch16_224.augreg_in21k"))
    (row,) = sections(augreg, "difference")[0].rows
    assert row.label == "hta − HTA paper"
    theirs = next(row for row in for_suite("vtab") if row.name == "hta augreg")
    ours = sections(augreg, "own")[0].rows[0].cells[0].value or 0
    assert row.cells[0].value == pytest.approx(ours - theirs.accuracy["cifar"])


def test_a_weights_file_may_be_the_published_one() -> None:
    found = table(summary_of(VTAB, "lora", backbone="vit_base_patch16_224@ViT-B_16.npz"))
    assert not found.foreign
    assert "if its weights file is that one" in sections(found, "published")[0].note
    assert sections(found, "difference")[0].rows[0].label == "lora − EFFT paper"


def test_both_protocols_stand_beside_each_other() -> None:
    sweep = sweep_of(VTAB, "lora", protocols=("honest", "paper"))
    rows = benchmark_results(sweep, VTAB)
    rows += [replace(row, trial=replace(row.trial, protocol="paper")) for row in rows]
    honest, paper = (summarise(rows, sweep, VTAB, protocol) for protocol in sweep.protocols)
    found = table(honest, paper)
    first, second = sections(found, "own")
    assert "chosen on val" in first.note and "leaks" in second.note
    assert [section.title for section in sections(found, "difference")] == [
        "Ours − published, points", "Ours − published, points, protocol paper",
    ]  # fmt: skip


def test_suites_that_nobody_published_have_no_table() -> None:
    assert benchmark([summarise([], SWEEP, SUITE)]) is None
