"""`orchestrate doctor`: what would keep a sweep from running well, before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.data import SUITE_HELP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cluster.doctor.lines import Line

app = typer.Typer()
console = Console()
_STYLES = {"ok": "green", "note": "dim", "warn": "yellow", "wrong": "bold red"}
_MARKS = {"ok": "ok", "note": "-", "warn": "warn", "wrong": "WRONG"}


@app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster (auto, HOST:PORT); this machine by default."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The sweep's --out, to see whether it is shared.")
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help=SUITE_HELP)] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The sweep's --backbone; the suite's by default.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where prepared data lies; $ORCHESTRATE_DATA or ~/.cache by default."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow address; else $MLFLOW_TRACKING_URI, else SQLite in --out."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda: what the sweep will use.")
    ] = "auto",
) -> None:
    """Look for what would keep a sweep from running, on this machine or every node of a cluster.

    Exit code 0 if nothing is wrong, 1 if something is. Changes nothing and leaves nothing behind.
    """
    from orchestrator import tasks
    from orchestrator.cluster.doctor.findings import judge, verdict
    from orchestrator.cluster.doctor.visit import Call, named, visit
    from orchestrator.data.prepared.store import default_root
    from orchestrator.storage.sweep_storage import paths_of
    from orchestrator.tracking.locations import URI_VARIABLE, chosen_uri

    found = tasks.suite(suite) if suite else None
    paths = paths_of(out) if out else None
    tracking = chosen_uri(paths.out, tracking_uri) if paths else tracking_uri or ""
    call = Call(
        address=address,
        device=device,
        out=named(paths) if paths else "",
        suite=found,
        backbone=backbone or (found.backbone if found else ""),
        data_root=(data_root or default_root()).expanduser().absolute(),
        tracking_uri=tracking or os.environ.get(URI_VARIABLE, ""),
    )
    with console.status("looking …"):
        lines = judge(visit(call))
    with console.capture() as drawn:
        console.print(_table(lines))
        console.print(Text(verdict(lines), style="bold"))
    for line in drawn.get().splitlines():
        typer.echo(line.rstrip())  # a table's cells end in spaces
    raise typer.Exit(1 if any(line.level == "wrong" for line in lines) else 0)


def _table(lines: Sequence[Line]) -> Table:
    """Mark, subject, what was found; what to do stands below it, behind an arrow."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        text = Text(line.text)
        if line.fix:
            text.append(f"\n→ {line.fix}")
        table.add_row(Text(_MARKS[line.level], _STYLES[line.level]), line.subject, text)
    return table
