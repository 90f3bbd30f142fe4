"""The command line. Heavy packages are imported inside the command that needs them."""

from __future__ import annotations

from orchestrator.cli.interrupts import CODE, INTERRUPTS, MESSAGE, answered

with answered():  # imports take a while
    import os
    import shlex
    import sys
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any, NoReturn

    import typer
    from rich.console import Console

    from orchestrator import __version__
    from orchestrator.cli.cluster import Address, add_submit
    from orchestrator.cli.cluster import app as cluster_app
    from orchestrator.cli.console import console
    from orchestrator.cli.data import DataRoot, SuiteName, SuiteRoot
    from orchestrator.cli.data import app as data_app
    from orchestrator.cli.doctor import app as doctor_app
    from orchestrator.cli.outputs import TrackingUri
    from orchestrator.cli.outputs import app as results_app
    from orchestrator.cli.replay import app as replay_app
    from orchestrator.errors import BackendError, OrchestrateError
    from orchestrator.storage.addresses import reach_loopback

if TYPE_CHECKING:
    from orchestrator.planning.config import SweepConfig

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Sweeps of parameter-efficient fine-tuning methods over Vision Transformers.",
)


def main() -> None:
    """Run the command line; every expected error is one message and exit code 2."""
    INTERRUPTS.listen()
    reach_loopback()
    try:
        code = _run()
        INTERRUPTS.finish()
    except OrchestrateError as error:
        _fail(str(error), error.exit_code)
    except SystemExit:
        raise
    except BaseException as error:
        if INTERRUPTS.raised:  # it is what a library has made of the interruption
            _fail(MESSAGE, CODE)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        # A name that no file can have, a folder without permission, …
        why = f"{error.strerror}. Name another path, or make this one usable"
        _fail(f"'{error.filename!s:.200}' cannot be used: {why}.", OrchestrateError.exit_code)
    raise SystemExit(code)


def _run() -> int:
    """Run the command that `sys.argv` names; its exit code."""
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's and click's own errors have it
            raise
        _name_value(error)
        error.show()  # type: ignore[attr-defined]
        return 2
    if INTERRUPTS.raised:  # typer has turned it into an exit code, or a library has dropped it
        _fail(MESSAGE, CODE)
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def sweep(
    suite: SuiteName,
    adapter: Annotated[
        list[str] | None, typer.Option(help="An adapter to search; repeatable.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks, or all.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="vit_mini, a timm tag, or ARCHITECTURE@FILE (…@FILE#PREFIX)."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="ablation: search layer groups × MHSA, FFN or both, not the default space; "
            "fair: the same learning rates × weight decays and number of trials for every adapter."
        ),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, gp, random or grid.")] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="What chooses a study's first trials: sweep (its other studies), published (the "
            "authors' configuration), an earlier sweep or registry; repeatable. Or none."
        ),
    ] = None,
    stopping: Annotated[str | None, typer.Option(help="none, asha, median or patience.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="honest, or paper: as the published scripts, which select on the test split."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Searched configurations per study.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds of each replicated configuration and winner.")
    ] = None,
    replicate: Annotated[
        int | None, typer.Option(help="Number of best configurations that are replicated.")
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(help="Of replicates: fixed, or folds (each seed draws val from train + val)."),
    ] = None,
    with_default: Annotated[
        bool | None,
        typer.Option(
            "--with-default", help="Test each adapter's default configuration beside its winner."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="shared (one for all adapters), or published: each that of its authors' script."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every trial.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A recipe field; repeatable."),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML that narrows or replaces search spaces."),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="No new configurations after 90s, 30m, 8h …")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="auto (bf16 on GPUs), fp32, bf16, amp, or fp8 (search only, then bf16)."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="ray, or local (this process, for debugging).")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; a local one by default.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Trials at once on each device.")] = None,
    tracking_uri: TrackingUri = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Output folder, or s3://BUCKET/NAME, gs://BUCKET/NAME; runs/<suite> by default."
        ),
    ] = None,
    data_root: DataRoot = None,
    suite_root: SuiteRoot = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with the same fields; options win.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Search, replicate and finish every study of SUITE; run it again to resume."""
    _sweep(_read(locals()), dry_run)


@app.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR|ID",
            help="A sweep's folder, or the id of a submitted one; all submitted ones by default.",
        ),
    ] = None,
    address: Address = None,
) -> None:
    """Show what a sweep has finished and what is missing, here or on a cluster."""
    from orchestrator.cli.cluster import print_submitted
    from orchestrator.cli.outputs import open_sweep
    from orchestrator.cli.tables import print_status

    # A folder is meant, not an id, which has no slash.
    if name is not None and address is None and ("/" in name or os.path.exists(name)):
        found, storage = open_sweep(name)
        print_status(found, storage.paths)
        return
    try:
        print_submitted(name, address)
    except BackendError as error:
        if name is None or address is not None:
            raise
        raise BackendError(f"there is no folder '{name}' here, and {error}") from error


def _read(options: Mapping[str, Any]) -> SweepConfig:
    """The configuration from the values of `sweep`'s options."""
    from orchestrator.planning.config import SweepConfig, make_config, parse_settings
    from orchestrator.storage.yaml import read_yaml

    given = {name: options[name] for name in SweepConfig.model_fields if name != "set"}
    given["adapter"] = tuple(options["adapter"]) if options["adapter"] else None
    given["set"] = parse_settings(options["set_"]) if options["set_"] else None
    given["space"] = read_yaml(options["space"], "search space") if options["space"] else None
    return make_config(given, options["config"])


def _sweep(config: SweepConfig, dry_run: bool) -> None:
    from orchestrator import sweep as sweeps
    from orchestrator.cli.progress import DataProgress, Display, print_notices
    from orchestrator.cli.tables import print_outcome, print_plan
    from orchestrator.data.prepared.prepare import deviations
    from orchestrator.storage.addresses import redacted

    with DataProgress() as bars:
        planned = sweeps.plan(config, sweeps.Observer(message=console.print, data=bars))
    notes = {name: manifest.notes for name, manifest in planned.manifests.items()}
    print_notices(deviations(planned.suite, planned.counts), notes)
    if dry_run:
        print_plan(planned)
        return
    command = redacted(shlex.join(["orchestrate", *sys.argv[1:]]))
    with Display() as display:
        observer = sweeps.Observer(
            message=console.print, progress=display.progress, finishing=INTERRUPTS.finish
        )
        outcome = sweeps.run(planned, command, observer)
    print_outcome(outcome, planned.paths)
    if outcome.interrupted:
        _fail(f"stopped; nothing finished is lost. To go on: {command}", CODE)
    complete = all(summary.complete for summary in outcome.summaries.values())
    if outcome.failures or outcome.misfits or not complete:
        raise typer.Exit(1)


def _fail(message: str, code: int) -> NoReturn:
    INTERRUPTS.finish()
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    # Control characters of a value are shown; a terminal would obey them.
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    errors.print(f"orchestrate: {shown}", style="red")
    raise SystemExit(code)


def _name_value(error: Exception) -> None:
    """Add the value to typer's message about one of another type, which does not have it."""
    problems = getattr(error.__cause__, "errors", None)
    if problems is not None:
        value, why = problems()[0]["input"], getattr(error, "message", "")
        error.message = f"{value!r:.80}: {why}"  # type: ignore[attr-defined]


add_submit(sweep, _read)
app.add_typer(results_app)
app.add_typer(replay_app)
app.add_typer(data_app, name="data")
app.add_typer(doctor_app)
app.add_typer(cluster_app)
