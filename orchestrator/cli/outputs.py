"""Commands that read the results of a sweep: report, export, audit, track, ui."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.console import console

if TYPE_CHECKING:
    from orchestrator.results.sweep_file import SweepFile
    from orchestrator.storage.sweep_paths import SweepPaths
    from orchestrator.storage.sweep_storage import SweepStorage
    from orchestrator.sweep import Outcome

app = typer.Typer()
Folder = Annotated[
    str, typer.Argument(metavar="DIR", help="The sweep's folder or address (its --out).")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow address; else $MLFLOW_TRACKING_URI, else SQLite in the folder."),
]


@app.command()
def report(folder: Folder) -> None:
    """Write the registry and report.html again from the ledger."""
    from orchestrator.cli.tables import print_outcome

    outcome, paths = rebuild(folder)
    print_outcome(outcome, paths)
    raise typer.Exit(1 if outcome.misfits else 0)


@app.command()
def export(
    folder: Folder,
    merged: Annotated[
        Path | None,
        typer.Option(metavar="TARGET", help="Also write plain timm weights of the winners here."),
    ] = None,
) -> None:
    """Write the registry again from the ledger; with --merged also plain timm weights."""
    from orchestrator.cli.tables import print_notes
    from orchestrator.registry import export_merged, read_index

    outcome, paths = rebuild(folder)
    print_notes(outcome)
    index = read_index(paths.registry)
    console.print(f"registry: {paths.shown(paths.registry)} ({len(index.entries)} entries)")
    if merged is not None:
        for entry in index.entries:
            path = export_merged(paths.registry, entry.task, entry.adapter, merged)
            console.print(f"merged: {path}")
    raise typer.Exit(1 if outcome.misfits else 0)


@app.command()
def audit(folder: Folder) -> None:
    """Check in a sweep's ledger that no choice was made on the test split."""
    from orchestrator.analysis.audit import audit as check
    from orchestrator.cli.tables import print_problems
    from orchestrator.results.ledger import Ledger

    sweep, storage = open_sweep(folder)
    results = Ledger(storage.paths.ledger).results()
    found = check(results, sweep.sweep, sweep.data)
    for line in found.lines():
        console.print(line)
    wrong = print_problems(sweep, results, storage.paths)
    raise typer.Exit(0 if found.clean and not wrong else 1)


@app.command()
def track(folder: Folder, tracking_uri: TrackingUri = None) -> None:
    """Write the trials that MLflow lacks, from the ledger."""
    from orchestrator.cli.tables import print_problems
    from orchestrator.results.ledger import Ledger
    from orchestrator.results.sweep_file import read_sweep
    from orchestrator.tracking.locations import chosen_uri
    from orchestrator.tracking.mlflow import track as write

    paths = _downloaded(folder)
    counts = write(paths.out, chosen_uri(paths.out, tracking_uri), ledger=paths.ledger)
    console.print(f"MLflow has everything that the ledger has: {counts}")
    wrong = print_problems(read_sweep(paths), Ledger(paths.ledger).results(), paths)
    raise typer.Exit(1 if wrong else 0)


@app.command()
def ui(
    folder: Folder,
    tracking_uri: TrackingUri = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Start MLflow's interface for a sweep."""
    from orchestrator.tracking.locations import chosen_uri
    from orchestrator.tracking.server import serve, ui_command

    out = _downloaded(folder).out
    uri = chosen_uri(out, tracking_uri)
    ui_command(out, uri, host, port)  # raises before anything is printed
    from orchestrator.tracking.mlflow import check_database  # takes seconds

    check_database(out, uri)  # the server's own errors are tracebacks
    console.print(f"MLflow: http://{host}:{port} (Ctrl-C ends it)")
    raise typer.Exit(serve(out, uri, host, port))


def open_sweep(location: str | Path) -> tuple[SweepFile, SweepStorage]:
    """The sweep at a location; `InvalidInput` if there is none."""
    from orchestrator.results.sweep_file import read_sweep
    from orchestrator.storage.sweep_storage import SweepStorage

    storage = SweepStorage.at(location)
    storage.download(storage.paths.sweep)
    return read_sweep(storage.paths), storage


def rebuild(location: str | Path) -> tuple[Outcome, SweepPaths]:
    """Write registry and report again from the ledger."""
    from orchestrator.sweep import conclude

    found, storage = open_sweep(location)
    return conclude(storage, {}, found.command), storage.paths


def _downloaded(location: str) -> SweepPaths:
    """A sweep's paths; what MLflow reads is downloaded from an object store."""
    from orchestrator.storage.sweep_storage import SweepStorage

    storage = SweepStorage.at(location)
    storage.download(storage.paths.sweep, storage.paths.report)
    storage.sync_down(storage.paths.registry)
    storage.sync_down(storage.paths.pools, growing=True)
    return storage.paths
