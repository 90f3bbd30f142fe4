"""`orchestrate doctor`: check a machine or a cluster before a sweep starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.data import SUITE_HELP, DataRoot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cluster.doctor.records import Finding

app = typer.Typer()
console = Console()
_MARKS = {
    "ok": Text("ok", "green"), "note": Text("-", "dim"), "warn": Text("warn", "yellow"),
    "wrong": Text("WRONG", "bold red"),
}  # fmt: skip


@app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster (auto, HOST:PORT); this machine by default."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The sweep's --out, to check whether it is shared.")
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help=SUITE_HELP)] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The sweep's --backbone; the suite's by default.")
    ] = None,
    data_root: DataRoot = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow address; else $MLFLOW_TRACKING_URI, else SQLite in --out."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda: what the sweep will use.")
    ] = "auto",
) -> None:
    """Check whether a sweep would run, on this machine or on every node of a cluster.

    Exit code 0 if nothing is wrong, 1 if something is. Changes nothing and leaves nothing behind.
    """
    from orchestrator import tasks
    from orchestrator.cluster.doctor.checks import check_all, summary
    from orchestrator.cluster.doctor.collect import absolute_location, inspect
    from orchestrator.cluster.doctor.records import DoctorOptions
    from orchestrator.data.prepared.store import default_root
    from orchestrator.planning.config import check_device
    from orchestrator.storage.addresses import check_address
    from orchestrator.storage.sweep_storage import paths_of
    from orchestrator.tracking.locations import URI_VARIABLE, chosen_uri

    check_device(device)
    if address is not None:
        check_address(address, "--address")
    found = tasks.suite(suite) if suite else None
    paths = paths_of(out) if out else None
    tracking = chosen_uri(paths.out, tracking_uri) if paths else tracking_uri or ""
    options = DoctorOptions(
        address=address,
        device=device,
        out=absolute_location(paths) if paths else "",
        suite=found,
        backbone=backbone or (found.backbone if found else ""),
        data_root=(data_root or default_root()).expanduser().absolute(),
        tracking_uri=tracking or os.environ.get(URI_VARIABLE, ""),
    )
    with console.status("checking …"):
        findings = check_all(inspect(options))
    with console.capture() as drawn:
        console.print(_table(findings))
        console.print(Text(summary(findings), style="bold"))
    for line in drawn.get().splitlines():
        typer.echo(line.rstrip())  # a table's cells end in spaces
    raise typer.Exit(1 if any(finding.level == "wrong" for finding in findings) else 0)


def _table(findings: Sequence[Finding]) -> Table:
    """Level, subject and text; what to do stands below the text, after an arrow."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.fix:
            text.append(f"\n→ {finding.fix}")
        table.add_row(_MARKS[finding.level], finding.subject, text)
    return table
