from __future__ import annotations

import base64
import html
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.report import (
    MAX_LISTED,
    Extras,
    count,
    duration,
    percent,
    points,
    render,
    write_report,
)
from orchestrator.errors import InvalidInput
from orchestrator.results.selection import winner
from orchestrator.spec import Stage, Suite, Sweep, Task, TrialResult, study_name
from orchestrator.tasks.suites import VTAB
from tests.analysis.page import Element, check
from tests.analysis.synthetic import (
    PARAMETERS,
    SUITE,
    SWEEP,
    benchmark_results,
    interrupted,
    result,
    sweep_results,
)

ROOT = Path(__file__).parents[2]
COMMAND = "orchestrate sweep mini --trials 12"
DIGITS = replace(SWEEP, tasks=("digits",))


def page(
    rows: Sequence[TrialResult], sweep: Sweep = SWEEP, suite: Suite = SUITE, **more: Any
) -> str:
    extras = Extras(**{"command": COMMAND, "registry": "runs/mini/registry", **more})
    main, *others = (summarise(rows, sweep, suite, protocol) for protocol in sweep.protocols)
    return render(main, rows, extras, *others)


@pytest.fixture(scope="module")
def rows() -> list[TrialResult]:
    return sweep_results()


@pytest.fixture(scope="module")
def full_text(rows: list[TrialResult]) -> str:
    return page(rows)


@pytest.fixture(scope="module")
def full(full_text: str) -> Element:
    return check(full_text)


def values(rows: Iterable[TrialResult], task: str, adapter: str, stage: Stage) -> list[float]:
    """Accuracies of the winner at a stage, by seed, found without the analysis."""
    own = [row for row in rows if row.trial.study == f"{task}/{adapter}"]
    chosen = sorted(
        (row.trial.seed, row.value or 0.0)
        for row in own
        if row.trial.stage == stage and row.trial.config == winner(own)
    )
    return [value for _, value in chosen]


def slim(rows: Iterable[TrialResult]) -> list[TrialResult]:
    """Without all but the first search trials of each study: few figures, hence a quick page."""
    kept: dict[str, TrialResult] = {}
    rest = []
    for row in rows:
        if row.trial.stage == "search":
            kept.setdefault(row.trial.study, row)
        else:
            rest.append(row)
    return [*kept.values(), *rest]


def shown(found: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds, as the page writes it: one that is cut off by its ends."""
    mean, half = np.mean(found), stats.t.ppf(0.975, len(found) - 1) * stats.sem(found)
    if mean + half > 1:
        return f"{100 * mean:.1f} [{100 * (mean - half):.1f}, 100.0]"
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def over_seeds(cell: str) -> str:
    """A cell without the interval of new images, which has to lie around the mean."""
    text, _, images = cell.partition(" new images ")
    if images:
        low, high = map(float, images.split(" to "))
        assert low < float(text.split(" ")[0]) < high
    return text


def line(table: Element, start: str) -> list[str]:
    (found,) = [cells for cells in table.cells() if cells[0].startswith(start)]
    return found[1:]


def table_of(tree: Element, task: str) -> Element:
    """The table of winners below a task's heading in the studies' section."""
    everything = list(tree.walk())
    places = [i for i, e in enumerate(everything) if e.tag == "h3" and e.text == task]
    return next(e for e in everything[places[-1] :] if e.tag == "table")


def test_the_headline_table_agrees_with_the_rows(full: Element, rows: list[TrialResult]) -> None:
    table = full.find("headline")
    by_adapter = {
        adapter: [values(rows, task, adapter, "final") for task in SWEEP.tasks]
        for adapter in SWEEP.adapters
    }
    for index, task in enumerate(SWEEP.tasks):
        cells = line(table, task)
        assert all("new images" in cell for cell in cells)
        assert list(map(over_seeds, cells)) == [
            shown(found[index]) for found in by_adapter.values()
        ]
    means = line(table, "mean of tasks")
    for cell, found in zip(map(over_seeds, means), by_adapter.values(), strict=True):
        assert cell.startswith(f"{100 * np.mean(found):.1f} ± ")
    assert line(table, "mean of group means") == means, "each group has one task here"
    for cell, found in zip(line(table, "interquartile"), by_adapter.values(), strict=True):
        ranked = sorted(np.ravel(found).tolist())
        iqm = (0.75 * ranked[2] + sum(ranked[3:6]) + 0.75 * ranked[6]) / 4.5
        assert cell.startswith(f"{100 * iqm:.1f} [")
    assert line(table, "parameters") == [f"{PARAMETERS[name]:,}" for name in SWEEP.adapters]


def test_the_best_adapter_is_marked_in_every_task(full: Element, rows: list[TrialResult]) -> None:
    best = [cell.text for cell in full.all("td") if cell.attributes.get("class") == "best"]
    expected = [
        max((values(rows, task, name, "final") for name in SWEEP.adapters), key=np.mean)
        for task in SWEEP.tasks
    ]
    assert list(map(over_seeds, best)) == [shown(found) for found in expected]


def test_the_comparison_with_linear_agrees_with_the_rows(
    full: Element, rows: list[TrialResult]
) -> None:
    table = full.find("versus")
    for task in SWEEP.tasks:
        base = np.mean(values(rows, task, "linear", "final"))
        gains = [np.mean(values(rows, task, name, "final")) - base for name in ("lora", "efft2")]
        cells = line(table, task)
        assert [cell.partition(" ●")[0] for cell in cells] == [f"{100 * g:+.1f}" for g in gains]
        assert all(" to +" in cell for cell in cells)
    heads = [row[0] for row in full.find("pairs").cells()]
    assert heads[1:] == ["lora − linear", "efft2 − linear", "efft2 − lora"]


def test_every_study_shows_its_evidence(full: Element, rows: list[TrialResult]) -> None:
    for task in SWEEP.tasks:
        table = table_of(full, task)
        for adapter in SWEEP.adapters:
            name, chosen, search, val, corrected, test, kept, detectable, trials = (
                adapter, *line(table, adapter)
            )  # fmt: skip
            assert test == " · ".join(
                f"{100 * one:.1f}" for one in values(rows, task, adapter, "final")
            )
            (found,) = values(rows, task, adapter, "search")
            assert search == f"{100 * found:.1f}"
            if adapter == "linear":
                assert (chosen, val, corrected) == ("nothing to search", "–", "–")
                assert (kept, detectable) == ("–", "–")
                assert trials == "1 finished", name
                continue
            assert val == shown(values(rows, task, adapter, "replicate"))
            assert "scale = " in chosen and " of " in kept and "finished" in trials
            assert 0 < float(detectable) < 100
            mean, _, interval = corrected.partition(" ")
            low, high = map(float, interval.split(" to "))
            assert low < float(mean) < high


def test_the_configurations_that_are_not_excluded_are_listed_with_their_evidence(
    full: Element, rows: list[TrialResult]
) -> None:
    summary = summarise(rows, SWEEP, SUITE)
    listed = {
        item.all("summary")[0].text.split(":")[0]: item.all("table")[0].cells()[1:]
        for item in full.all("details")
        if "not excluded" in item.text
    }
    expected = {
        study.name: [
            [percent(x.value), points(x.difference), percent(x.margin)] for x in study.not_excluded
        ]
        for study in summary.studies
        if study.not_excluded
    }
    assert expected
    assert {name: [cells[1:] for cells in table] for name, table in listed.items()} == expected


def test_the_page_says_what_was_run(full: Element, rows: list[TrialResult]) -> None:
    text = full.text
    for part in (
        COMMAND, "node-a", "0.1.0+abc1234", "torch 2.15.0", "timm 1.0.20", "tpe sampler",
        "stopping asha", "12 configurations", "epochs 10", rows[0].trial.weights,
        rows[0].trial.data, "27 times, in 27 final trials",
    ):  # fmt: skip
        assert part in text, part
    assert f"{len(rows)} trials" in text
    assert "not complete" not in text


def test_the_loading_example_is_python_that_names_an_exported_winner(full: Element) -> None:
    (code,) = [pre.text for pre in full.all("pre") if "registry.load" in pre.text]
    assert 'registry.load("runs/mini/registry", task="digits", adapter="efft2")' in code
    compile(code.replace(" model", "\nmodel"), "example", "exec")


def test_all_figures_are_in_the_page(full: Element) -> None:
    labels = [svg.attributes["aria-label"] for svg in full.all("svg")]
    assert len(labels) == len(set(labels))
    for part in (
        "Test accuracy by task", "against parameters", "Learning curves", "Search trials of digits",
        "of lora against scale", "of efft2 against rank",
    ):  # fmt: skip
        assert any(part in label for label in labels), part


def test_an_interrupted_sweep_reads_well(rows: list[TrialResult]) -> None:
    tree = check(page(slim(interrupted(rows))))
    table = tree.find("headline")
    assert line(table, "location")[2] == "– 0 of 3 seeds"
    assert line(table, "textures")[0].endswith("1 of 3 seeds")
    assert line(table, "mean of tasks") == ["–", "–", "–"]
    assert line(table, "missing") == ["textures", "textures", "textures, location"]
    assert "location/efft2: not started" in tree.text
    assert "textures/lora: final seeds 2, 3 not run" in tree.text
    assert "No adapter has all its final seeds on every task yet" in tree.text


def test_an_adapter_with_all_tasks_leads_even_if_another_lacks_one(
    rows: list[TrialResult],
) -> None:
    part = [row for row in rows if row.trial.study != "location/efft2"]
    part = [row for row in part if (row.trial.study, row.trial.seed) != ("digits/efft2", 3)]
    text = check(page(slim(part))).text
    assert 'task="textures", adapter="efft2"' in text, "digits/efft2 is best, but not exported"
    assert "lora has the best mean test accuracy over the 3 tasks" in text
    assert "Adapters that lack a task are not compared." in text


def test_a_search_without_any_final_reads_well(rows: list[TrialResult]) -> None:
    tree = check(page([row for row in rows if row.trial.stage == "search"], DIGITS))
    assert not [e for e in tree.walk() if e.attributes.get("id") == "versus"]
    assert "Nothing is exported yet" in tree.text
    assert tree.text.count("final seeds 1, 2, 3 not run") == 3
    assert line(table_of(tree, "digits"), "lora")[1].replace(".", "").isdigit()
    labels = [svg.attributes["aria-label"] for svg in tree.all("svg")]
    assert any("against scale" in label for label in labels)
    assert not any("Test accuracy" in label for label in labels)


def test_an_empty_ledger_reads_well() -> None:
    tree = check(page([]))
    assert "Nothing has been trained yet." in tree.text
    assert "digits/lora: not started" in tree.text
    assert not tree.all("svg")
    assert "1970" not in tree.text


def test_a_diverged_seed_is_counted_and_listed(rows: list[TrialResult]) -> None:
    def broken(row: TrialResult) -> TrialResult:
        of = row.trial
        hit = of.study == "digits/efft2" and of.stage != "search" and of.seed == 2
        return result(of, None, status="diverged") if hit else row

    own = [row for row in rows if row.trial.study == "digits/efft2"]
    best = winner(own)
    kept = [row for row in own if row.trial.stage != "replicate" or row.trial.config == best]
    sweep = replace(SWEEP, tasks=("digits",), adapters=("efft2",))
    tree = check(page([broken(row) for row in kept], sweep))
    assert "digits/efft2: final seed 2 diverged" in tree.text
    cells = line(table_of(tree, "digits"), "efft2")
    assert "1 of 3 seeds diverged: 0" in tree.find("headline").text
    assert " · diverged · " in cells[4]
    assert "loss is NaN at epoch 3" in tree.text


def test_many_diverged_trials_are_cut_off(rows: list[TrialResult]) -> None:
    bad = [row for row in rows if row.trial.study == "digits/lora" and row.trial.stage == "search"]
    trials = [
        replace(row.trial, params={**row.trial.params, "rank": 100 + copy})
        for row in bad
        for copy in range(6)
    ]
    several = [result(of, None, status="diverged") for of in trials]
    text = check(page(several)).text
    assert text.count("loss is NaN at epoch 3") == MAX_LISTED
    assert f"and {len(several) - MAX_LISTED} more." in text


def test_failures_and_broken_protocols_are_shown() -> None:
    leak = [replace(row, test_reads=1) for row in sweep_results()[:1]]
    failures = {"0123abcd": "\x1b[31mworker died\x1b[0m: out of memory"}
    text = page(leak, failures=failures)
    assert "\x1b" not in text
    assert "0123abcd [31mworker died[0m: out of memory" in check(text).text
    assert "The protocol was broken: 1 trial read the test split" in check(text).text


HOSTILE = '_x"><script>alert(1)</script>&$\\frac{$ id="a" {{ 7*7 }} 界'


def test_hostile_names_stay_text(rows: list[TrialResult]) -> None:
    """As task, group, adapter, field, value, host, message, command, path and key."""
    field = f"scale{HOSTILE}"
    suite = replace(SUITE, tasks=(Task(HOSTILE, HOSTILE, 10, 800, 200, 1000),))
    sweep = replace(
        SWEEP, tasks=(HOSTILE,), adapters=("linear", HOSTILE),
        spaces={HOSTILE: {field: [0.1, 1.0, 10.0], "kind": [HOSTILE]}},
    )  # fmt: skip

    def hostile(row: TrialResult) -> TrialResult:
        of = row.trial
        adapter = "linear" if of.adapter == "linear" else HOSTILE
        params = {} if adapter == "linear" else {field: of.params["scale"], "kind": HOSTILE}
        of = replace(of, task=HOSTILE, adapter=adapter, params=params)
        return replace(
            row, trial=of, host=HOSTILE, device=HOSTILE, code=HOSTILE, message=HOSTILE,
            versions={HOSTILE: HOSTILE},
        )  # fmt: skip

    own = [hostile(row) for row in rows if row.trial.study in ("digits/linear", "digits/lora")]
    text = page(own, sweep, suite, command=HOSTILE, registry=HOSTILE, failures={HOSTILE: HOSTILE})
    tree = check(text)
    words = " ".join(HOSTILE.split())
    assert "49" not in [element.text for element in tree.walk()]
    for tag in ("th", "h3", "pre", "dd", "code", "text", "b", "td"):
        assert any(words in element.text for element in tree.all(tag)), tag
    (code,) = [pre.text for pre in tree.all("pre") if "registry.load" in pre.text]
    written = json.dumps(HOSTILE, ensure_ascii=False)
    assert f"registry.load({written}, task={written}, adapter={written})" in code
    assert html.escape(HOSTILE, quote=False) in text


def test_a_report_is_written_whole_and_takes_any_command_line(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    summary = summarise([], SWEEP, SUITE)
    assert write_report(out, summary, [], Extras("sweep \udcff")) == out
    assert "sweep ?" in check(out.read_text("utf-8")).text
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    with pytest.raises(InvalidInput, match=r"report\.html/report\.html"):
        write_report(out / "report.html", summary, [])


FRESH = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.analysis.synthetic import SUITE, SWEEP, sweep_results
from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.report import Extras, write_report
rows, sweep = sweep_results()[::-1], replace(SWEEP, tasks=("digits",))
write_report(Path(sys.argv[1]), summarise(rows, sweep, SUITE), rows,
             Extras(sys.argv[2], "runs/mini/registry"))
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_another_process_writes_the_same_page_silently_and_loads_nothing_heavy(
    tmp_path: Path, rows: list[TrialResult]
) -> None:
    """Another hash seed, another time zone, rows in another order."""
    out = tmp_path / "report.html"
    around = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", FRESH, str(out), COMMAND],
        cwd=ROOT, env={**os.environ, **around}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stderr == ""
    assert out.read_text("utf-8") == page(rows, DIGITS)
    assert not {"torch", "ray", "mlflow", "optuna", "pandas", "sklearn"} & set(run.stdout.split())


BOTH = replace(SWEEP, protocols=("honest", "paper"))
LEAKING = replace(DIGITS, protocols=("paper",))


@pytest.fixture(scope="module")
def paper_rows() -> list[TrialResult]:
    return sweep_results("paper")


def ids(tree: Element) -> set[str]:
    return {e.attributes["id"] for e in tree.walk() if "id" in e.attributes}


def test_a_page_of_paper_alone_says_so_at_its_very_top(paper_rows: list[TrialResult]) -> None:
    tree = check(page(paper_rows, LEAKING))
    assert tree.all("title")[0].text.startswith("LEAKS: selected on the test split")
    first = next(child for child in tree.all("main")[0].children if isinstance(child, Element))
    assert first.attributes["class"] == "note leaks"
    assert first.text.startswith("LEAKS: selected on the test split.")
    heads = [cell.text for cell in table_of(tree, "digits").all("th")]
    assert heads[2:-3] == ["test, search", "test, corrected", "test, best epoch, by seed"]
    assert "inflation" not in ids(tree) and "No choice used test accuracy" not in tree.text
    assert "val accuracy" not in tree.text.lower() and "top 2 replicated" not in tree.text
    assert "The test split chose configurations and epochs." in tree.text
    own = [row for row in paper_rows if row.trial.task == "digits"]
    reads = sum(row.test_reads for row in own)
    assert f"The test split was read {reads:,} times, in {len(own)} trials." in tree.text
    labels = [svg.attributes["aria-label"] for svg in tree.all("svg")]
    assert any("Test accuracy, best epoch of lora against scale" in label for label in labels)
    assert "This call warns that the winner was chosen on the test split." in tree.text


def test_an_honest_page_never_speaks_of_leaks(full: Element, full_text: str) -> None:
    assert "LEAKS" not in full_text and "paper" not in ids(full) | {full.all("title")[0].text}
    assert not {"inflation", "papers", "notices"} & ids(full)


def test_a_page_of_both_is_the_honest_one_with_the_difference(
    rows: list[TrialResult], paper_rows: list[TrialResult], full: Element
) -> None:
    tree = check(page([*slim(rows), *paper_rows], BOTH))
    assert "LEAKS" not in tree.text
    heads = len(SWEEP.tasks) + 3
    assert tree.find("headline").cells()[:heads] == full.find("headline").cells()[:heads]
    for adapter in SWEEP.adapters:
        ours = np.mean([values(rows, task, adapter, "final") for task in SWEEP.tasks])
        theirs = np.mean([
            row.value or 0 for row in paper_rows
            if row.trial.stage == "final" and row.trial.adapter == adapter
        ])  # fmt: skip
        gap = 100 * (theirs - ours)
        cells = line(tree.find("inflation"), adapter)
        difference, _, interval = cells.pop(2).partition(" ")
        assert " to " in interval
        assert [*cells[:2], difference, *cells[2:]] == [
            f"{100 * ours:.1f}", f"{100 * theirs:.1f}", f"{gap:+.1f}", "+1.0", f"{gap - 1:+.1f}",
        ]  # fmt: skip
    assert [cells[0] for cells in tree.find("inflation-tasks").cells()][1:] == list(SWEEP.tasks)
    assert all("+1.0 epochs" in cell for cell in line(tree.find("inflation-tasks"), "digits"))
    assert "are used only in tables labelled paper" in tree.text


def test_both_protocols_with_one_unfinished(rows: list[TrialResult]) -> None:
    tree = check(page(slim(rows), BOTH))
    assert "No study has a final seed under both protocols yet." in tree.text
    missing = {item.text for item in tree.all("li")}
    assert f"{study_name('digits', 'lora', 'paper')}: not started" in missing
    assert "9 / 9" in tree.text, "the honest studies are complete"


def benchmark_page(sweep: Sweep, **more: Any) -> Element:
    return check(page(benchmark_results(sweep, VTAB), sweep, VTAB, **more))


VTAB_SWEEP = replace(
    SWEEP, suite="vtab", tasks=VTAB.default_tasks, adapters=("lora", "efft2", "hta"), spaces={},
    backbone=VTAB.backbone,
)  # fmt: skip
FEW = replace(VTAB_SWEEP, tasks=("cifar", "kitti"), adapters=("lora",))


def test_the_papers_layout_stands_beside_the_published_lines() -> None:
    tree = benchmark_page(VTAB_SWEEP)
    table = tree.find("papers")
    heads, *body = table.cells()[1:]
    assert len(heads) == 1 + 19 + 3 + 2 + 1
    assert all(len(cells) in (1, len(heads)) for cells in body)
    names = [cells[0] for cells in body]
    assert names[0].startswith("This sweep, vit_base_patch16_224.orig_in21k mean over 3 seeds")
    assert names[1:4] == ["lora", "efft2", "hta"]
    assert "arXiv 2311.06749" in names[4] and names[5:8] == ["full", "linear", "lora"]
    (published,) = [cells for cells in body if cells[0] == "efft2 r16"]
    assert (published[1], published[-1]) == ("72.1", "0.144")
    (with_head,) = [cells for cells in body if cells[0] == "hta" and cells[-1].endswith("ʰ")]
    assert with_head[-1] == "0.220ʰ"
    (gap,) = [cells for cells in body if cells[0] == "hta − HTA paper"]
    assert (gap[1], gap[-5], gap[-1]) == (f"{42.0 - 76.6:+.1f}", f"{78.0 - 47.3:+.1f}", "")
    (ours,) = [cells for cells in body if cells[0] == "hta" and "±" in cells[1]]
    assert ours[1] == "42.0 ±2.5"
    assert "of another backbone" not in tree.text
    assert "headline" in ids(tree), "the table with tasks as rows stays"


def test_parts_that_do_not_belong_together_are_listed_at_the_top() -> None:
    wrong, unread = ["sweep.json does not know 3 <of> the ledger's trials"], ["a sheet is left out"]
    tree = benchmark_page(replace(FEW, backbone="vit_mini"), misfits=wrong, left_out=unread)
    assert [item.text for item in tree.find("misfits").all("li")] == wrong
    assert [item.text for item in tree.find("left-out").all("li")] == unread


def test_notices_stand_at_the_top_and_apply_to_comparisons() -> None:
    notices = ["cifar has 900 <train> images, the benchmark 800", "kitti lacks 3 test images"]
    tree = benchmark_page(replace(FEW, backbone="vit_mini"), notices=notices)
    assert "The published results are of another backbone than this sweep's vit_mini" in tree.text
    assert [item.text for item in tree.find("notices").all("li")] == notices
    assert "The notice at the top of this page applies to every comparison." in tree.text


def test_test_images_are_those_counted() -> None:
    def row_head(counts: dict[str, dict[str, int]], suite: Suite = SUITE) -> str:
        sweep = replace(SWEEP, tasks=("digits",), adapters=("linear",))
        tree = check(page([], sweep, suite, counts=counts))
        (cells,) = [c for c in tree.find("headline").cells() if c[0].startswith("digits")]
        return cells[0]

    assert row_head({}) == "digits 10 classes, 1,000 test images"
    assert row_head({"digits": {"train": 800, "test": 997}}) == "digits 10 classes, 997 test images"
    bare = replace(SUITE, tasks=tuple(Task(t.name, t.group, t.classes) for t in SUITE.tasks))
    assert row_head({}, bare) == "digits 10 classes"
    assert row_head({"digits": {"test": 5}}, bare) == "digits 10 classes, 5 test images"


def test_contact_sheets_are_in_the_page(rows: list[TrialResult]) -> None:
    sheets = {"digits": b"\x89PNG\r\n\x1a\n<sheet>", "unknown": b"\x89PNG"}
    sweep = replace(SWEEP, tasks=("digits",), adapters=("linear",))
    tree = check(page(rows, sweep, sheets=sheets))
    (image,) = tree.all("img")
    assert base64.b64decode(image.attributes["src"].split(",")[1]) == sheets["digits"]
    assert image.attributes["loading"] == "lazy"
    assert image.attributes["alt"] == "Contact sheet of digits: images of the train split"
    (figure,) = [e for e in tree.all("figure") if e.all("img")]
    assert "train split" in figure.all("figcaption")[0].text
    everything = list(tree.walk())
    heads = [e.text for e in everything[: everything.index(image)] if e.tag == "h3"]
    assert heads[-1] == "digits", "in the task's part of the studies"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (duration(0), "0 s"),
        (duration(59.6), "1 min 00 s"),
        (duration(200), "3 min 20 s"),
        (duration(3599.7), "1 h 00 min"),
        (duration(7500), "2 h 05 min"),
        (percent(0.92345), "92.3"),
        (percent(0.92345, 2), "92.34"),
        (count(8192), "8,192"),
        (points(0.0123), "+1.2"),
        (points(-0.0123), "-1.2"),
        (points(-0.0001), "+0.0"),
        (percent(None) + count(None) + points(None), "–––"),
    ],
)
def test_numbers_in_words(written: str, words: str) -> None:
    assert written == words
