"""Writes the registry from a summary, the ledger's rows and the trained adapters."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator.analysis.summary import ProbabilityMetrics, StudySummary, Summary
from orchestrator.errors import CheckpointError, InvalidInput
from orchestrator.registry.index import (
    CHECKED,
    CONFIG,
    EVIDENCE,
    INDEX,
    WEIGHTS,
    Index,
    RegistryEntry,
    label,
    path_component,
    read_index,
    write_json,
)
from orchestrator.spec import TrialResult, study_name
from orchestrator.storage import files
from orchestrator.storage.files import reason


def export(
    summary: Summary,
    results: Sequence[TrialResult],
    adapters: Path,
    registry: Path,
    fetch: Callable[..., None] = lambda *_: None,
    lost: Callable[[str], None] = lambda _: None,
) -> Index:
    """Write the registry of every study that has its winner and all final seeds; its index.

    Args:
        summary: its protocol's winners are exported: the honest one where a sweep ran both.
        results: the ledger's rows.
        adapters: the folder of the trained adapters, by trial key.
        registry: the folder to replace. The new one is built beside it and swapped in, so that a
            reader never sees half of one; one exporter at a time.
        fetch: called with the files of an adapter before they are read.
        lost: told, in a sentence, of entries that the folder has and the new one will not have.

    Raises:
        CheckpointError: the weights of a finished final trial are gone, or `registry` cannot be
            written.
    """
    rows = {row.key: row for row in results}
    draft = registry.with_name(f".{registry.name}.draft")
    try:
        # `orchestrate report` may export beside a running sweep.
        with files.locked(registry.with_name(f".{registry.name}.lock")):
            shutil.rmtree(draft, ignore_errors=True)
            files.make_folder(draft)
            entries = [
                _write(study, summary, rows, adapters, draft, fetch)
                for study in summary.studies
                if study.winner is not None and not study.missing
            ]
            index = Index(created=time.time(), entries=tuple(entries)).sealed()
            for sentence in _losses(registry, index, summary, rows):
                lost(sentence)
            write_json(draft / INDEX, index.model_dump(mode="json"))
            _swap(draft, registry)
    except OSError as error:
        raise CheckpointError(
            f"the registry '{registry}' cannot be written ({error}). Make room or make its folder "
            "writable, then run `orchestrate export DIR`."
        ) from error
    return index


def recorded_metrics(registry: Path) -> dict[tuple[str, ...], ProbabilityMetrics]:
    """The metrics that a registry's evidence has, by the keys of the final trials that they are of:
    for folders without the logits. What cannot be read is left out.
    """
    found = {}
    try:
        entries = read_index(registry).entries
    except (InvalidInput, CheckpointError):
        return {}
    for entry in entries:
        try:
            evidence = files.read_json(registry / entry.path / EVIDENCE)
            keys = tuple(str(row["key"]) for row in evidence["finals"])
            metrics = json.dumps(evidence["probabilities"])
            found[keys] = TypeAdapter(ProbabilityMetrics).validate_json(metrics, strict=True)
        except (OSError, ValueError, KeyError, TypeError):  # null is what earlier versions had
            continue
    return found


def _losses(
    registry: Path, index: Index, summary: Summary, rows: Mapping[str, TrialResult]
) -> Iterator[str]:
    """What is lost when `index` replaces the one in `registry`."""
    if not (registry / INDEX).exists():
        return
    try:
        before = read_index(registry).entries
    except (InvalidInput, CheckpointError) as error:
        yield f"what the registry had before is not known: {reason(error)}."
        return
    missing = {study.name: study.missing for study in summary.studies}
    kept = {entry.path for entry in index.entries}
    gone = [entry for entry in before if entry.path not in kept]
    if gone:
        names = (study_name(entry.task, entry.adapter, entry.protocol) for entry in gone)
        shown = "; ".join(f"{n} ({missing.get(n, 'sweep.json has no such study')})" for n in names)
        yield f"the registry no longer has {len(gone)} of the entries that it had: {shown}."
    unknown = [entry.path for entry in before if entry.path in kept and entry.key not in rows]
    if unknown:
        yield (
            f"the ledger no longer has the trials whose weights the registry had as "
            f"{', '.join(unknown)}: these entries are now of other trials."
        )


def _write(
    study: StudySummary,
    summary: Summary,
    rows: Mapping[str, TrialResult],
    adapters: Path,
    draft: Path,
    fetch: Callable[..., None],
) -> RegistryEntry:
    winner = study.winner
    assert winner is not None
    trained = [row for row in study.finals if row.status == "finished"]
    first = min(trained, key=lambda row: row.seed)
    final = rows[first.key]
    sweep = summary.sweep
    relative = Path(*map(path_component, (sweep.suite, sweep.backbone, study.task, study.adapter)))
    folder = draft / relative
    files.make_folder(folder)
    fetch(*(adapters / final.key / name for name in WEIGHTS))
    _copy_weights(adapters / final.key, final.files, folder)
    write_json(
        folder / CONFIG,
        {
            **label(study.protocol),
            "adapter": study.adapter,
            "params": dict(winner.params),
            "recipe": dict(winner.recipe),
            "searched": dict(winner.searched),
            "view": summary.view,
        },
    )
    write_json(folder / EVIDENCE, _evidence(study, final, first.last))
    interval = study.test.interval
    return RegistryEntry(
        suite=sweep.suite,
        backbone=sweep.backbone,
        task=study.task,
        adapter=study.adapter,
        protocol="paper" if summary.leaks else "honest",
        leaks=summary.leaks,
        warning=label(study.protocol).get("warning", ""),
        path=relative.as_posix(),
        classes=next(task.classes for task in summary.tasks if task.name == study.task),
        seed=final.trial.seed,
        key=final.key,
        test_accuracy=_number(first.last),
        test_mean=_number(study.test.mean),
        test_std=study.test.std,
        test_interval=None if interval is None else (interval.low, interval.high),
        seeds=len(study.test.values),
        config=winner.config,
        parameters=winner.parameters,
        weights=final.trial.weights,
        data=final.trial.data,
        sha256={name: files.fingerprint(folder / name) for name in (*CHECKED, EVIDENCE)},
    )


def _evidence(study: StudySummary, final: TrialResult, accuracy: float | None) -> dict[str, Any]:
    """Statistics over seeds, alternatives, counts and provenance of the winner."""
    return {
        **label(study.protocol),
        "search_value": study.winner.search_value if study.winner else None,
        "val": asdict(study.val),
        "optimism": None if study.optimism is None else asdict(study.optimism),
        "test": asdict(study.test),
        "default": asdict(study.default),
        "tuning": None if study.tuning is None else asdict(study.tuning),
        "probabilities": None if study.probabilities is None else asdict(study.probabilities),
        "replicates": [asdict(row) for row in study.replicates],
        "finals": [asdict(row) for row in study.finals],
        "configurations": study.configurations,
        "trials": {stage: dict(counts) for stage, counts in study.counts.items()},
        "not_excluded": [asdict(other) for other in study.not_excluded],
        "compared": study.compared,
        "detectable": study.detectable,
        "diverged": study.diverged,
        "other_finals": study.other_finals,
        "data": {"search": study.winner.data if study.winner else "", "final": final.trial.data},
        "weights": final.trial.weights,
        "code": final.code,
        "versions": dict(final.versions),
        "exported": {"seed": final.trial.seed, "key": final.key, "test_accuracy": accuracy},
    }


def _copy_weights(source: Path, checksums: Mapping[str, str], folder: Path) -> None:
    """Copy the files of an adapter; `CheckpointError` where they are not those of the row.

    `checksums` is empty in rows of earlier versions.
    """
    for name in WEIGHTS:
        try:
            content = files.read_file(source / name, None)
        except OSError as error:
            raise _unusable(source, name, f"cannot be copied ({reason(error)})") from error
        if checksums and hashlib.sha256(content).hexdigest() != checksums.get(name):
            raise _unusable(source, name, "is not what was trained (its SHA-256 differs)")
        files.write_whole(folder / name, content)  # an OSError here is the target's: see `export`


def _unusable(source: Path, name: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"'{source / name}' of a finished final trial {problem}. Restore it, or move its row "
        f"ledger/fragments/{source.name}.parquet away and run the same command again."
    )


def _swap(draft: Path, registry: Path) -> None:
    """Replace the registry by `draft`; a crash in between leaves one of the two whole."""
    old = registry.with_name(f".{registry.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if registry.exists():
        registry.rename(old)
    draft.rename(registry)
    files.sync_folder(registry.parent)
    shutil.rmtree(old, ignore_errors=True)


def _number(value: float | None) -> float:
    assert value is not None  # a study without missing seeds has them
    return value
