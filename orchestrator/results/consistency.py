"""Whether the parts of a sweep's folder belong together: sweep.json, the ledger, the suggestions.

Each may be sound alone while the folder was put together from two, or a part of it was lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.results.selection import rank_configurations
from orchestrator.results.sweep_file import SweepFile
from orchestrator.spec import COMPARED_FIELDS, Trial, TrialResult, canonical

_MOST_SHOWN = 8


def misfits(
    found: SweepFile,
    results: Sequence[TrialResult],
    suggested: Mapping[str, Collection[str]],
    trained: Collection[str],
    failures: Collection[str] = (),
) -> list[str]:
    """Sentences about results that `sweep.json` does not know, and about results that are lost.

    Args:
        suggested: study → the keys of the search trials that were suggested.
        trained: the keys of the final trials whose adapters are there.
        failures: keys of trials that were given up: no row is expected of them.
    """
    strangers = {row.key: why for row in results if (why := _why_unknown(row.trial, found))}
    own: defaultdict[str, list[TrialResult]] = defaultdict(list)
    for row in results:
        if row.key not in strangers:
            own[row.trial.study].append(row)
    return [
        *_unknown(strangers, len(results)),
        *_without_row(set(trained) - {row.key for row in results}),
        *_lost(found, own, suggested, frozenset(failures)),
        *_not_suggested(own, suggested),
    ]


def _unknown(strangers: Mapping[str, str], total: int) -> Iterator[str]:
    if strangers:
        yield (
            f"sweep.json does not know {len(strangers)} of the ledger's {total} trials "
            f"({_counted(strangers.values())}). Put back the sweep.json or the ledger that belongs "
            "here, or repeat the command that trained them."
        )


def _without_row(keys: Collection[str]) -> Iterator[str]:
    if keys:
        yield (
            f"adapters/ has the weights of {len(keys)} final trials that the ledger does not have "
            "(unless they end just now, their rows are lost): put the rows back, or repeat the "
            "same `orchestrate sweep` command, which trains them again."
        )


def _why_unknown(trial: Trial, found: SweepFile) -> str:
    """What of a trial `sweep.json` does not have; empty if it may be one of the sweep's."""
    sweep = found.sweep
    for name, known in (
        ("suite", (sweep.suite,)),
        ("backbone", (sweep.backbone,)),
        ("task", sweep.tasks),
        ("adapter", sweep.adapters),
        ("protocol", sweep.protocols),
    ):
        if getattr(trial, name) not in known:
            return f"{name} '{getattr(trial, name)}'"
    if trial.seed > (0 if trial.stage == "search" else sweep.seeds):
        return f"seed {trial.seed} of {trial.stage}"
    data = found.data.get(trial.task)
    given = (trial.stage, trial.seed, sweep.splits, trial.leaks)
    if data is not None and trial.data != data.read_by(*given):
        return f"other images of task '{trial.task}'"
    if trial.weights != found.weights:
        return f"other weights of '{trial.backbone}'"
    recipe = sweep.recipe_of(trial.task, trial.adapter, trial.protocol)
    wanted, own = (
        {name: getattr(one, name) for name in COMPARED_FIELDS} for one in (recipe, trial.recipe)
    )
    fixed, has = {**sweep.fixed.get(trial.adapter, {}), **wanted}, {**trial.params, **own}
    searched = sweep.spaces.get(trial.adapter, {})
    for name in sorted(fixed.keys() - searched.keys()):
        if name in has and canonical(has[name]) != canonical(fixed[name]):
            return f"{name}={has[name]} of {trial.adapter}"
    return ""


def _lost(
    found: SweepFile,
    own: Mapping[str, Sequence[TrialResult]],
    suggested: Mapping[str, Collection[str]],
    failures: frozenset[str],
) -> Iterator[str]:
    """Of studies beyond their search: what must have been trained before, and has no row."""
    for study, rows in own.items():
        stages = {row.trial.stage for row in rows}
        if stages == {"search"}:
            continue
        here = {row.key for row in rows}
        lost = {
            "search": {*suggested.get(study, ()), *_searched(found, rows)} - here - failures,
            "replicate": _replicates(found, rows) - here - failures if "final" in stages else set(),
        }
        counts = [f"{len(keys)} of its {stage} trials" for stage, keys in lost.items() if keys]
        if counts:
            yield (
                f"{study}: the ledger lacks {' and '.join(counts)}, on which its winner depends. "
                "Unless they are running now they were given up or are lost: put the rows back, or "
                "repeat the same `orchestrate sweep` command, which trains them again."
            )


def _searched(found: SweepFile, rows: Sequence[TrialResult]) -> set[str]:
    """The search trials of the configurations that were repeated."""
    data = {row.trial.task: row.trial.data for row in rows if row.trial.leaks}
    data = {**{task: one.search for task, one in found.data.items()}, **data}
    return {
        replace(row.trial, stage="search", seed=0, data=data[row.trial.task]).key
        for row in rows
        if row.trial.task in data and not _is_default(found, row.trial)
    }


def _is_default(found: SweepFile, trial: Trial) -> bool:
    """Whether it is of the default configuration, which need not have been searched."""
    of = found.sweep.default_of(trial.task, trial.adapter, trial.protocol)
    return trial.stage == "final" and trial.config == of


def _replicates(found: SweepFile, rows: Sequence[TrialResult]) -> set[str]:
    """The replicates that the best configurations of a study must have."""
    sweep = found.sweep
    searched = {row.trial.config: row.trial for row in rows if row.trial.stage == "search"}
    if len(searched) < 2 or any(trial.leaks for trial in searched.values()):
        return set()

    def key(trial: Trial, seed: int) -> str:
        own = replace(trial, stage="replicate", seed=seed)
        known = found.data.get(trial.task)
        if known is not None:
            own = replace(own, data=known.read_by("replicate", seed, sweep.splits, leaks=False))
        return own.key

    return {
        key(searched[config], seed)
        for config in rank_configurations(rows)[: sweep.replicate]
        for seed in range(1, sweep.seeds + 1)
    }


def _not_suggested(
    own: Mapping[str, Sequence[TrialResult]], suggested: Mapping[str, Collection[str]]
) -> Iterator[str]:
    strange = {
        study: sum(row.trial.stage == "search" and row.key not in suggested[study] for row in rows)
        for study, rows in own.items()
        if suggested.get(study)
    }
    for study, number in strange.items():
        if number:
            yield (
                f"{study}: the ledger has search trials that this sweep did not suggest (asks/ "
                f"lacks {number} of them): rows of another sweep, or a part of asks/ is lost."
            )


def _counted(reasons: Iterable[str]) -> str:
    found = Counter(reasons).most_common()
    more = f", and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return ", ".join(f"{why}: {number}" for why, number in found[:_MOST_SHOWN]) + more
