"""Builds the model of an entry, after checking the files' fingerprints; writes merged weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError, InvalidInput
from orchestrator.registry.index import (
    AGAIN,
    CHECKED,
    CONFIG,
    INDEX,
    RegistryEntry,
    label,
    path_component,
    read_index,
    write_json,
)
from orchestrator.storage import files
from orchestrator.storage.sweep_storage import SweepStorage

if TYPE_CHECKING:
    from torch import nn


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
    """Write an entry as plain timm weights with a JSON beside them; the weights' path.

    They are for `timm.create_model(architecture, num_classes=classes)` and `load_state_dict`
    (`vit_mini` is not timm's: `orchestrator.backbones.vit_mini.vit_mini(classes)`). Raises what
    `load` raises, and `InvalidInput` if `target` cannot be written.
    """
    from safetensors.torch import save

    import adapters
    from orchestrator.backbones.names import architecture

    entry, folder = _checked(registry, task, adapter, suite, backbone)
    model = adapters.merge(load(registry, task, adapter, suite, backbone))
    path = target / f"{path_component(task)}--{path_component(adapter)}.safetensors"
    config = json.loads((folder / CONFIG).read_text())
    about = {
        "architecture": architecture(entry.backbone),
        "classes": entry.classes,
        "normalisation": config["recipe"]["normalisation"],
        "view": config["view"],
        "test_accuracy": entry.test_accuracy,
        "trial": entry.key,
        **label(entry.protocol),
    }
    content = save({name: t.contiguous() for name, t in model.state_dict().items()})
    try:
        files.make_folder(target)
        files.write_whole(path, content)
        write_json(path.with_suffix(".json"), about)
    except OSError as error:
        raise InvalidInput(
            f"'{path}' cannot be written ({error.strerror}); name another folder."
        ) from error
    return path


def _checked(
    address: str | Path, task: str, adapter: str, suite: str | None, backbone: str | None
) -> tuple[RegistryEntry, Path]:
    """An entry and its folder, whose files have the fingerprints that the index states."""
    storage = SweepStorage.at(address)
    registry = storage.paths.out
    storage.download(registry / INDEX)
    entry = read_index(registry).find(task, adapter, suite, backbone)
    if "\0" in entry.path or not (registry / entry.path).resolve().is_relative_to(
        registry.resolve()
    ):
        raise CheckpointError(
            f"entry '{task}/{adapter}' points outside its registry: {entry.path!r}. {AGAIN}"
        )
    storage.download(*(registry / entry.path / name for name in CHECKED))
    folder = (registry / entry.path).resolve()
    for name in CHECKED:
        _check(folder / name, entry.sha256.get(name, ""))
    return entry, folder


def _check(path: Path, sha256: str) -> None:
    try:
        found = files.fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}. {AGAIN}") from error
    if found != sha256:
        raise CheckpointError(f"'{path}' is not what was exported (its SHA-256 differs). {AGAIN}")
