"""The registry: the exported best configuration of every (suite, backbone, task, adapter).

    registry/index.json
    registry/<suite>/<backbone>/<task>/<adapter>/
        config.json  evidence.json  adapter_config.json  adapter_model.safetensors

Which seed is exported? The first one. Choosing the best on test would leak, and the spread over
seeds stands in the evidence. Winners under the protocol `paper` were chosen on test: their entries
are labelled in every file, and loading one warns. torch is imported by `load` and `export_merged`
only.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.analysis.summary import StudySummary, Summary
from orchestrator.errors import CheckpointError, InvalidInput, unknown
from orchestrator.spec import TrialResult
from orchestrator.storage import files
from orchestrator.storage.sweep_storage import SweepStorage

if TYPE_CHECKING:
    from torch import nn

INDEX, CONFIG, EVIDENCE = "index.json", "config.json", "evidence.json"
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
CHECKED = (CONFIG, *WEIGHTS)
"""The files of an entry that decide what its model computes; the index has their fingerprints."""


LEAKS = (
    "LEAKS: configuration and epoch were chosen on the test split (protocol {protocol}), so that "
    "the stated accuracies are too high to be estimates of accuracy on new images."
)
"""What every file of a leaking entry says."""


class Entry(BaseModel):
    """One line of the index. Accuracies are in [0, 1]; `test_accuracy` is the exported weights'.

    Those are the first seed's after its last epoch; `test_mean` is over the values of all seeds,
    which under the protocol `paper` are of their best epochs.

    `config` hashes params and recipe, `weights` and `data` are the backbone's and the task's
    fingerprints, `sha256` those of the entry's own files by name. `leaks` says that the protocol
    chose on the test split, `warning` says it in words (empty otherwise).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    backbone: str
    task: str
    adapter: str
    protocol: str
    leaks: bool
    warning: str
    path: str
    classes: int
    seed: int
    key: str
    test_accuracy: float
    test_mean: float
    test_std: float | None
    test_interval: tuple[float, float] | None
    seeds: int
    config: str
    parameters: int
    weights: str
    data: str
    sha256: dict[str, str]


class Index(BaseModel):
    """`index.json`: every exported entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    created: float
    entries: tuple[Entry, ...]

    def find(
        self, task: str, adapter: str, suite: str | None = None, backbone: str | None = None
    ) -> Entry:
        """The entry of that name; `InvalidInput` with the alternatives if none or several fit."""
        found = [e for e in self.entries if (e.task, e.adapter) == (task, adapter)]
        found = [e for e in found if suite in (None, e.suite) and backbone in (None, e.backbone)]
        if not found:
            where = [("suite", suite), ("backbone", backbone)]
            given = [(name, value) for name, value in where if value is not None]
            wanted = [f"{task}/{adapter}", *(f"{name}={value}" for name, value in given)]
            every = [
                [f"{e.task}/{e.adapter}", *(f"{name}={getattr(e, name)}" for name, _ in given)]
                for e in self.entries
            ]
            raise unknown("registry entry", " ".join(wanted), map(" ".join, every))
        if len(found) > 1:
            shown = "; ".join(f"suite={e.suite} backbone={e.backbone}" for e in found)
            raise InvalidInput(f"'{task}/{adapter}' names several entries ({shown}); say which.")
        return found[0]


def export(
    summary: Summary,
    results: Sequence[TrialResult],
    adapters: Path,
    registry: Path,
    fetch: Callable[..., None] = lambda *_: None,
) -> Index:
    """Writes the registry of everything that has its winner and all final seeds; returns its index.

    The winners of the protocol of `summary`: give the honest one where a sweep ran both.
    Built beside and swapped in, so that a reader never sees half of one; one exporter at a time.
    `fetch` is called with the files of an adapter before they are read.
    `CheckpointError` if the weights of a finished final trial are gone or `registry` cannot be
    written.
    """
    rows = {row.key: row for row in results}
    draft = registry.with_name(f".{registry.name}.draft")
    try:
        # `orchestrate report` beside a running sweep exports too.
        with files.locked(registry.with_name(f".{registry.name}.lock")):
            shutil.rmtree(draft, ignore_errors=True)
            files.make_folder(draft)
            entries = [
                _write(study, summary, rows, adapters, draft, fetch)
                for study in summary.studies
                if study.winner is not None and not study.missing
            ]
            index = Index(created=time.time(), entries=tuple(entries))
            _dump(draft / INDEX, index.model_dump(mode="json"))
            _swap(draft, registry)
    except OSError as error:
        raise CheckpointError(
            f"the registry '{registry}' cannot be written ({error}). Make room or make its folder "
            "writable, then run `orchestrate export DIR`."
        ) from error
    return index


def read_index(registry: Path) -> Index:
    """The index of a registry: `InvalidInput` if there is none, `CheckpointError` if damaged."""
    path = registry / INDEX
    try:
        return Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"'{registry}' is no registry ({INDEX}: {error.strerror}); give the `registry` folder "
            "of a sweep, or run `orchestrate export DIR`."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "its text"
        raise CheckpointError(
            f"'{path}' is damaged at {where}: {problem['msg']}. Write it again: "
            "`orchestrate export DIR`."
        ) from error


def load(
    registry: str | Path,
    task: str,
    adapter: str,
    suite: str | None = None,
    backbone: str | None = None,
) -> nn.Module:
    """The adapted timm model of an entry, in evaluation mode, with its head.

    `registry` is the `registry` folder of a sweep, or its address: `s3://bucket/sweep/registry`.
    Inputs are cut (`view`) and normalised as `config.json` says. Warns (`UserWarning`) if the entry
    was chosen on the test split. Raises `InvalidInput` for a name that is not there and
    `CheckpointError` if files are damaged or the backbone's weights are not the same.
    """
    import adapters
    from orchestrator.backbones import load_backbone

    entry, folder = _checked(registry, task, adapter, suite, backbone)
    if entry.leaks:
        warnings.warn(f"{entry.task}/{entry.adapter}: {entry.warning}", stacklevel=2)
    base = load_backbone(entry.backbone)
    if base.fingerprint != entry.weights:
        raise CheckpointError(
            f"the weights of '{entry.backbone}' here have fingerprint {base.fingerprint[:12]}, the "
            f"entry was trained on {entry.weights[:12]}; get the same file."
        )
    try:
        return adapters.load(base.model, folder).eval()
    except adapters.AdapterError as error:
        raise CheckpointError(str(error)) from error


def export_merged(
    registry: Path,
    task: str,
    adapter: str,
    target: Path,
    suite: str | None = None,
    backbone: str | None = None,
) -> Path:
    """Writes an entry as plain timm weights with a JSON beside them; returns the weights' path.

    `timm.create_model(architecture, num_classes=classes)` and `load_state_dict` take them
    (`vit_mini` is not timm's: `orchestrator.backbones.vit_mini.vit_mini(classes)`). Raises as
    `load` does, and `InvalidInput` if `target` cannot be written.
    """
    from safetensors.torch import save

    import adapters
    from orchestrator.backbones import architecture

    entry, folder = _checked(registry, task, adapter, suite, backbone)
    model = adapters.merge(load(registry, task, adapter, suite, backbone))
    path = target / f"{_safe(task)}--{_safe(adapter)}.safetensors"
    config = json.loads((folder / CONFIG).read_text())
    about = {
        "architecture": architecture(entry.backbone),
        "classes": entry.classes,
        "normalisation": config["recipe"]["normalisation"],
        "view": config["view"],
        "test_accuracy": entry.test_accuracy,
        "trial": entry.key,
        **_label(entry.protocol),
    }
    content = save({name: t.contiguous() for name, t in model.state_dict().items()})
    try:
        files.make_folder(target)
        files.write_whole(path, content)
        _dump(path.with_suffix(".json"), about)
    except OSError as error:
        raise InvalidInput(
            f"'{path}' cannot be written ({error.strerror}); name another folder."
        ) from error
    return path


def _checked(
    place: str | Path, task: str, adapter: str, suite: str | None, backbone: str | None
) -> tuple[Entry, Path]:
    """An entry and its folder, whose files have the fingerprints that the index states."""
    storage = SweepStorage.at(place)
    registry = storage.paths.out
    storage.download(registry / INDEX)
    entry = read_index(registry).find(task, adapter, suite, backbone)
    if "\0" in entry.path or not (registry / entry.path).resolve().is_relative_to(
        registry.resolve()
    ):
        raise CheckpointError(
            f"entry '{task}/{adapter}' points outside its registry: {entry.path!r}. Write it "
            "again: `orchestrate export DIR`."
        )
    storage.download(*(registry / entry.path / name for name in CHECKED))
    folder = (registry / entry.path).resolve()
    for name in CHECKED:
        _check(folder / name, entry.sha256.get(name, ""))
    return entry, folder


def _check(path: Path, sha256: str) -> None:
    again = "Write it again: `orchestrate export DIR`."
    try:
        found = files.fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}. {again}") from error
    if found != sha256:
        raise CheckpointError(f"'{path}' is not what was exported (its SHA-256 differs). {again}")


def _write(
    study: StudySummary,
    summary: Summary,
    rows: Mapping[str, TrialResult],
    adapters: Path,
    draft: Path,
    fetch: Callable[..., None],
) -> Entry:
    winner = study.winner
    assert winner is not None
    first = min(study.finals, key=lambda row: row.seed)
    final = rows[first.key]
    sweep = summary.sweep
    relative = Path(*map(_safe, (sweep.suite, sweep.backbone, study.task, study.adapter)))
    folder = draft / relative
    files.make_folder(folder)
    fetch(*(adapters / final.key / name for name in WEIGHTS))
    _copy_weights(adapters / final.key, folder)
    _dump(
        folder / CONFIG,
        {
            **_label(study.protocol),
            "adapter": study.adapter,
            "params": dict(winner.params),
            "recipe": dict(winner.recipe),
            "searched": dict(winner.searched),
            "view": summary.view,
        },
    )
    _dump(folder / EVIDENCE, _evidence(study, final, first.last))
    interval = study.test.interval
    return Entry(
        suite=sweep.suite,
        backbone=sweep.backbone,
        task=study.task,
        adapter=study.adapter,
        protocol=study.protocol,
        leaks=summary.leaks,
        warning=_label(study.protocol).get("warning", ""),
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
        sha256={name: files.fingerprint(folder / name) for name in CHECKED},
    )


def _evidence(study: StudySummary, final: TrialResult, accuracy: float | None) -> dict[str, Any]:
    """What speaks for the winner: statistics over seeds, rivals, counts, and what made it."""
    return {
        **_label(study.protocol),
        "val": asdict(study.val),
        "test": asdict(study.test),
        "replicates": [asdict(row) for row in study.replicates],
        "finals": [asdict(row) for row in study.finals],
        "configurations": study.configurations,
        "trials": {stage: dict(counts) for stage, counts in study.counts.items()},
        "indistinguishable": [asdict(other) for other in study.indistinguishable],
        "compared": study.compared,
        "other_finals": study.other_finals,
        "data": {"search": study.winner.data if study.winner else "", "final": final.trial.data},
        "weights": final.trial.weights,
        "code": final.code,
        "versions": dict(final.versions),
        "exported": {"seed": final.trial.seed, "key": final.key, "test_accuracy": accuracy},
    }


def _label(protocol: str) -> dict[str, str]:
    """What a file says of the protocol; a warning where it chose on the test split."""
    label = {"protocol": protocol}
    return label if protocol == "honest" else label | {"warning": LEAKS.format(protocol=protocol)}


def _copy_weights(source: Path, folder: Path) -> None:
    for name in WEIGHTS:
        try:
            content = (source / name).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"'{source / name}' of a finished final trial cannot be copied ({error.strerror}). "
                f"Move its row ledger/fragments/{source.name}.parquet away and run the same "
                "command again."
            ) from error
        files.write_whole(folder / name, content)  # what is full is the registry's to tell


def _swap(draft: Path, registry: Path) -> None:
    """Puts `draft` in the place of the registry; a crash in between leaves one of the two whole."""
    old = registry.with_name(f".{registry.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if registry.exists():
        registry.rename(old)
    draft.rename(registry)
    files.sync_folder(registry.parent)
    shutil.rmtree(old, ignore_errors=True)


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    files.write_whole(path, f"{text}\n".encode())


def _safe(name: str) -> str:
    """A name as one path component that cannot leave its folder."""
    quoted = quote(name, safe=" ")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


def _number(value: float | None) -> float:
    assert value is not None  # a study without missing seeds has them
    return value
