"""From a laptop to a running cluster and back: submit, status, logs, fetch, stop."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from orchestrator.backends.ray.jobs import Job
    from orchestrator.cluster.submit import Typed
    from orchestrator.planning.config import SweepConfig

app = typer.Typer()
console = Console(soft_wrap=True)

_ADDRESS_HELP = (
    "The cluster's dashboard; $RAY_API_SERVER_ADDRESS by default, else http://127.0.0.1:8265, "
    "which `ray dashboard FILE` opens a tunnel to."
)
Address = Annotated[str | None, typer.Option(metavar="URL", help=_ADDRESS_HELP)]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="What `submit` called the sweep.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted and stop.")]
_OWN: Mapping[str, tuple[Any, Any]] = {
    "address": (None, typer.Option(metavar="URL", help=_ADDRESS_HELP)),
    "out": (None, typer.Option(help="A folder of the cluster that its machines share, or s3://…")),
    "name": (str | None, typer.Option(metavar="ID", help="Its id; SUITE-TIME by default.")),
}
"""Options of `submit` that mean something else than in `sweep`, or are not there (type, option)."""
Everything = Annotated[
    bool, typer.Option("--all", help="Also suggestions, every final adapter, and logs.")
]
_TAIL = 10
"""Lines of a log that stand for it."""


def offer_submit(
    sweep: Callable[..., None], read: Callable[[Mapping[str, Any]], SweepConfig]
) -> None:
    """Adds `submit`, which takes every option that `sweep` takes.

    Args:
        sweep: the command, whose options are not written down a second time.
        read: makes a configuration of the values of these options, as the command does.
    """

    def submit(ctx: typer.Context, **options: Any) -> None:
        """Start the sweep on a running cluster and leave it there; nothing has to stay open here.

        Takes what `orchestrate sweep` takes, and checks it here. --out is a folder of the cluster.
        """
        config = read({**options, "address": None})
        _submit(config, _typed(ctx), options["address"], options["dry_run"])

    parameters = dict(inspect.signature(sweep, eval_str=True).parameters)
    for name, (kind, option) in _OWN.items():
        kept = get_args(parameters[name].annotation)[0] if kind is None else kind
        parameters[name] = _parameter(name, Annotated[kept, option], None)
    parameters["dry_run"] = _parameter("dry_run", DryRun, False)
    first = _parameter("ctx", typer.Context, inspect.Parameter.empty)
    submit.__signature__ = inspect.Signature([first, *parameters.values()])  # type: ignore[attr-defined]
    submit.__annotations__ = {}
    app.command()(submit)
    app.registered_commands.insert(0, app.registered_commands.pop())  # where help begins


@app.command()
def logs(
    name: SweepId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the sweep ends.")] = False,
    address: Address = None,
) -> None:
    """What a submitted sweep has printed."""
    from orchestrator.cluster.submitted import connect, known

    jobs = connect(address)
    known(jobs, name)
    if follow:
        jobs.follow(name, _write)
    else:
        _write(jobs.log(name))


@app.command()
def stop(name: SweepId, address: Address = None) -> None:
    """End a submitted sweep in good order; submit the same --out again to go on."""
    from orchestrator.cluster.submitted import connect, known

    jobs = connect(address)
    job = known(jobs, name)
    if job.over or not jobs.stop(name):
        _say(f"{name} has ended already: {job.state}")
    else:
        _say(f"{name} is asked to end; what it has finished is recorded")


@app.command()
def fetch(
    name: SweepId,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where to; runs/SUITE by default.")
    ] = None,
    everything: Everything = False,
    address: Address = None,
) -> None:
    """Bring a submitted sweep home: ledger, registry, report; again, to bring what is new."""
    from orchestrator.cluster.submitted import bring, connect, known
    from orchestrator.cluster.sync.unpack import held
    from orchestrator.storage.folder_lock import FolderLock

    jobs = connect(address)
    job = known(jobs, name)
    target = folder or Path("runs") / job.metadata.get("suite", name)
    held(target, everything)  # refused before the folder is touched
    with FolderLock(target, waiting=_say):
        arrived = bring(jobs, job, target, everything, _say)
    _say(f"{target}: {arrived.new} new files, {arrived.kept} were here already")
    _say(
        f"report: {target / 'report.html'}\nstate: orchestrate status {target}\n"
        f"MLflow: orchestrate track {target} && orchestrate ui {target}"
    )


@app.command(hidden=True)
def pack(
    out: Annotated[str, typer.Argument()],
    everything: Everything = False,
    held: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """What `fetch` runs on the head: prints the sweep's files as lines of text."""
    from orchestrator.cli.tables import rebuild
    from orchestrator.cluster.sync.contents import Contents
    from orchestrator.cluster.sync.pack import at_hand
    from orchestrator.cluster.sync.pack import pack as send

    there = Contents.load(held.read_bytes()) if held else Contents()
    with at_hand(out) as folder:
        send(folder, there, everything, lambda line: _write(f"{line}\n"), rebuild)


def print_submitted(name: str | None, address: str | None, console: Console) -> None:
    """What `status` says of a submitted sweep; of all, if none is named."""
    from orchestrator.cluster.submitted import ask, connect, known, sweeps

    jobs = connect(address)
    if name is None:
        _print_all(sweeps(jobs), jobs.address, console)
        return
    job = known(jobs, name)
    console.print(_state(job), highlight=False, markup=False)
    done, said = ask(jobs, job, "status", console.width)
    if done:
        _write(said)
        return
    tail = jobs.log(name).rstrip("\n").split("\n")[-_TAIL:]
    console.print("\n".join([said, "its log ends with:", *tail]), highlight=False, markup=False)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _submit(config: SweepConfig, typed: list[Typed], address: str | None, dry_run: bool) -> None:
    from orchestrator.cluster.submit import prepare

    work = prepare(config, typed)
    if dry_run:
        _say(f"{work.id} would run on the head:\n{work.entrypoint}")
        return
    from orchestrator.cluster.submitted import connect, start

    jobs = connect(address)
    start(jobs, work)
    where = f" --address {jobs.address}" if address else ""
    _say(f"{work.id} is submitted and runs on without this machine; --out {work.metadata['out']}")
    for what in ("status", "logs --follow", "fetch"):
        _say(f"  orchestrate {what} {work.id}{where}")


def _typed(ctx: typer.Context) -> list[Typed]:
    """The options that were given, whatever they are: `sweep` gets them again."""
    from orchestrator.cluster.submit import Typed

    found = []
    for option in ctx.command.params:
        name, value = option.name or "", ctx.params.get(option.name or "")
        if option.param_type_name != "option" or value is None or value is False:
            continue
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        if values or value is True:
            found.append(Typed(name, max(option.opts, key=len), [str(one) for one in values]))
    return found


def _print_all(sweeps: list[Job], address: str, console: Console) -> None:
    if not sweeps:
        console.print(f"nothing was submitted to {address} yet", highlight=False, markup=False)
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


def _say(sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False)
