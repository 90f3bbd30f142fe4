"""`orchestrate replay`: how soon policies of search find good configurations in recorded trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.console import console

if TYPE_CHECKING:
    from orchestrator.analysis.statistics import Estimate
    from orchestrator.search.replay import Replayed, Step

app = typer.Typer()
SHARES = (0.1, 0.25, 0.5, 1.0)
_MOST_REPEATS = 10_000


@app.command()
def replay(
    record: Annotated[
        list[Path],
        typer.Argument(help="A .parquet or .csv record, or a sweep's folder; several are joined."),
    ],
    sampler: Annotated[list[str], typer.Option(help="tpe, gp, random or grid; repeatable.")],
    stopping: Annotated[
        list[str] | None, typer.Option(help="A stopping rule; repeatable; each with every sampler.")
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="none, sweep, or record (the other tasks' whole grids); repeatable, with each."
        ),
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Share of the largest space at which regret is shown; repeatable."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Repetitions with other seeds.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the regrets as an SVG figure here.")
    ] = None,
) -> None:
    """Search recorded trials again with other samplers and stopping rules."""
    from orchestrator.analysis.statistics import estimate
    from orchestrator.cli.tables import make_table
    from orchestrator.errors import InvalidInput, unknown
    from orchestrator.search.record import read_record
    from orchestrator.search.replay import PRIORS, Policy, replay
    from orchestrator.search.samplers import make_sampler
    from orchestrator.search.stopping import make_rule

    shares = sorted(set(budget or SHARES))
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise InvalidInput(f"--budget {wrong[0]:g} is no share; allowed: above 0, at most 1.")
    if not 1 <= repeats <= _MOST_REPEATS:
        raise InvalidInput(f"--repeats {repeats}; allowed: 1 to {_MOST_REPEATS:,}.")
    for name in sampler:
        make_sampler(name)
    for name in stopping or ():
        make_rule(name)
    for name in prior or ():
        if name not in PRIORS:
            raise unknown("prior", name, PRIORS)
    studies = [study for path in record for study in read_record(path)]
    policies = [
        Policy(name, rule, kind)
        for name in sampler
        for rule in stopping or ["none"]
        for kind in prior or ["none"]
    ]
    table = make_table("policy", "tried", "val regret", "test regret", "trial-epochs")
    curves: dict[str, list[tuple[float, Estimate]]] = {}
    for policy in policies:
        found = [replay(studies, policy, number, shares[-1]) for number in range(repeats)]
        for share in shares:
            val = estimate(_means(found, share, lambda step: step.val))
            test = _means(found, share, lambda step: step.test)
            epochs = fmean(_means(found, share, lambda step: float(step.epochs)))
            shown = (_points(val), _points(estimate(test)) if test else "–", f"{epochs:,.0f}")
            table.add_row(policy.name, f"{100 * share:g} %", *shown)
            curves.setdefault(policy.name, []).append((share, estimate(test) if test else val))
        console.print(f"{policy.name}: {repeats} repetitions of {len(studies)} studies")
    console.print(table)
    console.print(
        "means over studies and repetitions; regrets in points, 95 % intervals over repetitions"
    )
    if plot is not None:
        _plot(plot, curves)


def _means(
    found: Sequence[Sequence[Replayed]], share: float, read: Callable[[Step], float | None]
) -> list[float]:
    """Of every repetition the mean over studies; none where a study's is not known."""
    means = []
    for studies in found:
        values = [read(one.at(share)) for one in studies]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            means.append(fmean(known))
    return means


def _points(found: Estimate) -> str:
    mean, span = f"{100 * (found.mean or 0.0):.2f}", found.interval
    return mean if span is None else f"{mean} [{100 * span.low:.2f}, {100 * span.high:.2f}]"


def _plot(path: Path, curves: Mapping[str, Sequence[tuple[float, Estimate]]]) -> None:
    from orchestrator.analysis.figures import regret
    from orchestrator.storage.files import write_whole

    write_whole(path, regret("regret", curves).encode())
    console.print(f"figure: {path}")
