"""Commands for sweeps on a running cluster: submit, status, logs, stop, fetch."""

from __future__ import annotations

import inspect
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table

from orchestrator.cli.console import console

if TYPE_CHECKING:
    from orchestrator.backends.ray.jobs import Job
    from orchestrator.cluster.submit import GivenOption
    from orchestrator.planning.config import SweepConfig

app = typer.Typer()

_ADDRESS_HELP = (
    "The cluster's dashboard; $RAY_API_SERVER_ADDRESS by default, else http://127.0.0.1:8265, "
    "to which `ray dashboard FILE` opens a tunnel."
)
Address = Annotated[str | None, typer.Option(metavar="URL", help=_ADDRESS_HELP)]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="The id that `submit` has printed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted and stop.")]
_CHANGED: Mapping[str, tuple[Any, Any]] = {
    "address": (None, typer.Option(metavar="URL", help=_ADDRESS_HELP)),
    "out": (None, typer.Option(help="A folder that the cluster's machines share, or s3://…")),
    "name": (str | None, typer.Option(metavar="ID", help="The sweep's id; SUITE-TIME by default.")),
}
"""Options of `submit` that `sweep` has with another meaning or not at all: (type, option)."""
Everything = Annotated[
    bool, typer.Option("--all", help="Also suggestions, final adapters, predictions and logs.")
]
_TAIL = 10
"""Lines of the log that `status` prints if it cannot read the ledger."""


def add_submit(
    sweep: Callable[..., None], read: Callable[[Mapping[str, Any]], SweepConfig]
) -> None:
    """Add the command `submit`, which has every option of `sweep`.

    Args:
        sweep: the command whose signature is copied.
        read: makes a configuration of the options' values, as `sweep` does.
    """

    def submit(ctx: typer.Context, **options: Any) -> None:
        """Start a sweep on a running cluster; this machine may be switched off then.

        Takes the options of `orchestrate sweep` and checks them here; --out is on the cluster.
        """
        config = read({**options, "address": None})
        _submit(config, _given(ctx), options["address"], options["dry_run"])

    parameters = dict(inspect.signature(sweep, eval_str=True).parameters)
    for name, (kind, option) in _CHANGED.items():
        kept = get_args(parameters[name].annotation)[0] if kind is None else kind
        parameters[name] = _parameter(name, Annotated[kept, option], None)
    parameters["dry_run"] = _parameter("dry_run", DryRun, False)
    first = _parameter("ctx", typer.Context, inspect.Parameter.empty)
    submit.__signature__ = inspect.Signature([first, *parameters.values()])  # type: ignore[attr-defined]
    submit.__annotations__ = {}
    app.command()(submit)
    app.registered_commands.insert(0, app.registered_commands.pop())  # first in the help


@app.command()
def logs(
    name: SweepId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print until the sweep ends.")
    ] = False,
    address: Address = None,
) -> None:
    """Print the log of a submitted sweep."""
    from orchestrator.cluster.submitted import connect, find_sweep

    jobs = connect(address)
    find_sweep(jobs, name)
    if follow:
        jobs.follow(name, _write)
    else:
        _write(jobs.log(name))


@app.command()
def stop(name: SweepId, address: Address = None) -> None:
    """Stop a submitted sweep; submit the same --out again to continue it."""
    from orchestrator.cluster.submitted import connect, find_sweep

    jobs = connect(address)
    job = find_sweep(jobs, name)
    if job.over or not jobs.stop(name):
        console.print(f"{name} has ended already: {job.state}")
    else:
        console.print(f"{name} is stopping; its finished trials are recorded")


@app.command()
def fetch(
    name: SweepId,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The local folder; runs/SUITE by default.")
    ] = None,
    everything: Everything = False,
    address: Address = None,
) -> None:
    """Download a submitted sweep's ledger, registry and report; repeat it to get what is new."""
    from orchestrator.cluster.submitted import connect, find_sweep
    from orchestrator.cluster.submitted import fetch as download
    from orchestrator.cluster.sync.unpack import existing_files
    from orchestrator.storage.folder_lock import FolderLock

    jobs = connect(address)
    job = find_sweep(jobs, name)
    target = folder or Path("runs") / job.metadata.get("suite", name)
    existing_files(target, everything)  # refuses a folder of other files before it is locked
    with FolderLock(target, waiting=console.print):
        synced = download(jobs, job, target, everything, console.print)
    named = shlex.quote(str(target))
    console.print(f"{target}: {synced.new} new files, {synced.unchanged} unchanged")
    console.print(
        f"report: {target / 'report.html'}\nstatus: orchestrate status {named}\n"
        f"MLflow: orchestrate track {named} && orchestrate ui {named}"
    )


@app.command(hidden=True)
def pack(
    out: Annotated[str, typer.Argument()],
    everything: Everything = False,
    existing: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Print a sweep's files as lines of text: `fetch` runs this on the head."""
    from orchestrator.cli.outputs import rebuild
    from orchestrator.cluster.sync.file_list import FileList
    from orchestrator.cluster.sync.pack import local_copy
    from orchestrator.cluster.sync.pack import pack as send

    files = FileList.load(existing.read_bytes()) if existing else FileList()
    with local_copy(out) as folder:
        send(folder, files, everything, lambda line: _write(f"{line}\n"), rebuild)


def print_submitted(name: str | None, address: str | None) -> None:
    """The status of a submitted sweep; a table of all, if none is named."""
    from orchestrator.cluster.submitted import all_sweeps, connect, find_sweep, run_command

    jobs = connect(address)
    if name is None:
        _print_all(all_sweeps(jobs), jobs.address)
        return
    job = find_sweep(jobs, name)
    console.print(_state(job))
    succeeded, output = run_command(jobs, job, "status", console.width)
    if succeeded:
        _write(output)
        return
    tail = jobs.log(name).rstrip("\n").split("\n")[-_TAIL:]
    console.print("\n".join([output, "its log ends with:", *tail]))


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _submit(
    config: SweepConfig, given: list[GivenOption], address: str | None, dry_run: bool
) -> None:
    from orchestrator.cluster.submit import prepare

    job = prepare(config, given)
    if dry_run:
        console.print(f"{job.id} would run on the head:\n{job.entrypoint}")
        return
    from orchestrator.cluster.submitted import connect, submit

    jobs = connect(address)
    submit(jobs, job)
    where = f" --address {jobs.address}" if address else ""
    console.print(f"{job.id} is submitted; --out {job.metadata['out']}")
    for what in ("status", "logs --follow", "fetch"):
        console.print(f"  orchestrate {what} {job.id}{where}")


def _given(ctx: typer.Context) -> list[GivenOption]:
    """The options that were given: `sweep` gets them on the head."""
    from orchestrator.cluster.submit import GivenOption

    found = []
    for option in ctx.command.params:
        name, value = option.name or "", ctx.params.get(option.name or "")
        if option.param_type_name != "option" or value is None or value is False:
            continue
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        if values or value is True:
            found.append(GivenOption(name, max(option.opts, key=len), [str(v) for v in values]))
    return found


def _print_all(sweeps: list[Job], address: str) -> None:
    if not sweeps:
        console.print(f"no sweep was submitted to {address} yet")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("sweep", "state", "started", "out"):
        table.add_column(column, no_wrap=True)
    for job in sweeps:
        table.add_row(job.id, job.state, _clock(job.started), job.metadata.get("out", ""))
    console.print(table)


def _state(job: Job) -> str:
    from orchestrator.cli.progress import duration

    took = duration((job.ended or time.time()) - job.started)
    end = f", ended after {took}" if job.over else f", for {took}"
    return f"{job.id}: {job.state}{end}; started {_clock(job.started)}; {job.metadata.get('out')}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
