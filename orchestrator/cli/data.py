"""`orchestrate data`: download, verify, prepare and draw a suite's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from orchestrator.cli.console import console

if TYPE_CHECKING:
    from orchestrator.data.prepared.store import Manifest
    from orchestrator.data.verify import VerifyReport
    from orchestrator.spec import Suite, Task

app = typer.Typer(no_args_is_help=True, help="Download, verify, prepare and draw a suite's images.")

SUITE_HELP = "vtab, fgvc, fewshot, mini, or the YAML file of your own suite."
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help=SUITE_HELP)]
Tasks = Annotated[str, typer.Option(help="Comma-separated tasks, or all.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of prepared data; $ORCHESTRATE_DATA or ~/.cache by default."),
]
SuiteRoot = Annotated[
    Path | None,
    typer.Option(help="The folder of the suite's images; $VTAB_ROOT, $FGVC_ROOT … by default."),
]


@app.command()
def fetch(
    suite: SuiteName,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="A Hugging Face dataset repository OWNER/NAME, a folder, or an archive.",
        ),
    ],
    suite_root: SuiteRoot = None,
) -> None:
    """Download a suite's images, or use a local folder or archive; run it again to resume."""
    from orchestrator import tasks
    from orchestrator.cli.progress import DataProgress
    from orchestrator.data.download.fetch import fetch as get
    from orchestrator.data.suite_root import fetch_target

    found = tasks.suite(suite)
    with DataProgress("", unit="bytes") as bars:
        folder = get(found, source, fetch_target(found, suite_root), console.print, bars)
    console.print(f"{found.name}: {folder}")


@app.command()
def verify(suite: SuiteName, tasks: Tasks = "all", suite_root: SuiteRoot = None) -> None:
    """Check counts, labels, splits and every image of a suite; list all problems."""
    from orchestrator.backbones import weights_here
    from orchestrator.cli.progress import DataProgress
    from orchestrator.data.suite_root import suite_root as root_of
    from orchestrator.data.verify import verify as check
    from orchestrator.errors import CheckpointError, InvalidInput, OrchestrateError, together

    found, chosen = _chosen(suite, tasks)
    if found.layout == "mini":
        raise InvalidInput(f"suite '{found.name}' is generated: it has no files to check.")
    root = root_of(found, suite_root)
    weights: list[OrchestrateError] = []  # a sweep would need them too
    try:
        weights_here(found.backbone)
    except (CheckpointError, InvalidInput) as error:
        weights.append(error)
    if root is None and found.variable:
        images = InvalidInput(
            f"no folder of images of '{found.name}' is known: name it with --suite-root or in "
            f"${found.variable}, or download it: `orchestrate data fetch {found.name} --from "
            "SOURCE`."
        )
        raise together([images, *weights])
    with DataProgress("checking ") as bars:
        reports = [check(found, task, root or Path(), bars) for task in chosen]
    _print_reports(reports)
    for missing in weights:
        console.print(f"note: {missing}")
    if any(report.problems for report in reports):
        raise typer.Exit(2)


@app.command()
def split(
    suite: SuiteName,
    val: Annotated[
        str, typer.Option(metavar="last|stratified", help="Which images of the one list are val.")
    ],
    tasks: Tasks = "all",
    suite_root: SuiteRoot = None,
) -> None:
    """Write the lists of train and val for VTAB folders that have train800val200.txt alone."""
    from orchestrator.data.layouts import write_val_lists
    from orchestrator.data.suite_root import suite_root as root_of

    found, chosen = _chosen(suite, tasks)
    for name, made in write_val_lists(found, chosen, root_of(found, suite_root), val).items():
        console.print(f"{name}: {'train and val are written' if made else 'has its own lists'}")


@app.command()
def prepare(
    suite: SuiteName,
    tasks: Tasks = "all",
    suite_root: SuiteRoot = None,
    data_root: DataRoot = None,
) -> None:
    """Decode a suite into memory-mapped files; a sweep does this by itself if they are missing."""
    from orchestrator.cli.progress import print_notices
    from orchestrator.data.prepared.prepare import deviations

    found, manifests, root = _prepared(suite, tasks, suite_root, data_root)
    table = Table("task", "train", "val", "test", "fingerprint", box=None, pad_edge=False)
    for name, manifest in manifests.items():
        counts = (f"{count:,}" for count in manifest.counts.values())
        table.add_row(name, *counts, manifest.identity.final[:12])
    console.print(table)
    print_notices(
        deviations(found, {name: m.counts for name, m in manifests.items()}),
        {name: manifest.notes for name, manifest in manifests.items()},
    )
    console.print(f"prepared: {root / found.name}")


@app.command()
def show(
    suite: SuiteName,
    tasks: Tasks = "all",
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("sheets"),
    suite_root: SuiteRoot = None,
    data_root: DataRoot = None,
) -> None:
    """Draw a contact sheet of each task's training images, as PNG."""
    from orchestrator.data.contact_sheet import write_sheets

    found, manifests, root = _prepared(suite, tasks, suite_root, data_root)
    for path in write_sheets(out, found, list(manifests), root):
        console.print(str(path))


def _chosen(name: str, tasks: str) -> tuple[Suite, Sequence[Task]]:
    from orchestrator.tasks import suite

    found = suite(name)
    if tasks == "all":
        return found, found.tasks
    chosen = {task.name: task for task in map(found.task, map(str.strip, tasks.split(",")))}
    return found, list(chosen.values())


def _prepared(
    suite: str, tasks: str, suite_root: Path | None, data_root: Path | None
) -> tuple[Suite, Mapping[str, Manifest], Path]:
    """The suite, the manifests of its chosen tasks, which are prepared, and the store's root."""
    from orchestrator.cli.progress import DataProgress
    from orchestrator.data.prepared.prepare import prepare_tasks
    from orchestrator.data.prepared.store import default_root
    from orchestrator.data.suite_root import suite_root as root_of

    found, chosen = _chosen(suite, tasks)
    root = data_root or default_root()
    with DataProgress() as bars:
        return found, prepare_tasks(found, chosen, root, root_of(found, suite_root), bars), root


def _print_reports(reports: Sequence[VerifyReport]) -> None:
    table = Table("task", "train", "val", "test", "problems", "fingerprint", box=None)
    for report in reports:
        counts = (f"{report.counts.get(name, 0):,}" for name in ("train", "val", "test"))
        problems = str(len(report.problems) or "none")
        table.add_row(report.task, *counts, problems, report.fingerprint[:12])
    console.print(table)
    for report in reports:
        for problem in report.problems:
            console.print(f"problem: {report.task}: {problem}")
        for note in report.notes:
            console.print(f"note: {report.task}: {note}")
