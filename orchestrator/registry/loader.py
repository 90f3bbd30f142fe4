"""Builds the model of an entry, after checking the files' fingerprints; writes merged weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, InvalidInput
from orchestrator.registry.index import (
    AGAIN,
    CHECKED,
    CONFIG,
    EVIDENCE,
    INDEX,
    RegistryEntry,
    label,
    path_component,
    read_index,
    write_json,
)
from orchestrator.spec import VIEWS, Recipe, configuration
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
        model = adapters.load(base.model, folder).eval()
    except adapters.AdapterError as error:
        raise CheckpointError(str(error)) from error
    stack = adapters.attached(model)
    head = stack.tensors_of(0).get("head.bias")
    for what, states, found in (
        ("adapter", entry.adapter, stack.members[0].adapter.name),
        ("classes", entry.classes, entry.classes if head is None else head.numel()),
    ):
        if states != found:
            raise CheckpointError(
                f"the index says {what} {states!r} of '{task}/{adapter}', its weights are of "
                f"{found!r}. {AGAIN}"
            )
    return model


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
    config = files.read_json(folder / CONFIG)  # `_checked` has looked at it
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


def configurations(address: str | Path) -> list[tuple[RegistryEntry, dict[str, Any]]]:
    """Every entry with its configuration: the values of recipe and adapter by field.

    Raises as `load` does.
    """
    storage = SweepStorage.at(address)
    registry = storage.paths.out
    storage.download(registry / INDEX)
    found = []
    for entry in read_index(registry).entries:
        _inside(registry, entry, "")
        storage.download(registry / entry.path / CONFIG)
        path = _inside(registry, entry, CONFIG)
        _check(path, entry.sha256.get(CONFIG, ""))
        config = files.read_json(path)
        found.append((entry, {**config["recipe"], **config["params"]}))
    return found


def _checked(
    address: str | Path, task: str, adapter: str, suite: str | None, backbone: str | None
) -> tuple[RegistryEntry, Path]:
    """An entry and its folder, whose files have the fingerprints that the index states."""
    storage = SweepStorage.at(address)
    registry = storage.paths.out
    storage.download(registry / INDEX)
    index = read_index(registry)
    entry = index.find(task, adapter, suite, backbone)
    if not index.checksum:
        warnings.warn(
            f"'{registry / INDEX}' has no checksum (earlier versions wrote none): whether somebody "
            f"edited it cannot be seen. {AGAIN}",
            stacklevel=3,
        )
    _inside(registry, entry, "")
    names = (*CHECKED, *(name for name in (EVIDENCE,) if name in entry.sha256))
    storage.download(*(registry / entry.path / name for name in names))
    for name in names:
        _check(_inside(registry, entry, name), entry.sha256.get(name, ""))
    folder = _inside(registry, entry, "")
    if wrong := _disagreements(entry, folder):
        raise CheckpointError(
            f"entry '{task}/{adapter}' of '{registry / INDEX}' is not what its files say: "
            f"{'; '.join(wrong)}. {AGAIN}"
        )
    return entry, folder


def _inside(registry: Path, entry: RegistryEntry, name: str) -> Path:
    """A file of the entry, or its folder; `CheckpointError` where it, or a link in its place, leads
    outside the registry.
    """
    try:
        path = (registry / entry.path / name).resolve()
        if path.is_relative_to(registry.resolve()):
            return path
    except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, a loop of links
        pass
    raise CheckpointError(
        f"entry '{entry.task}/{entry.adapter}' points outside its registry: "
        f"{f'{entry.path}/{name}'.rstrip('/')!r:.200}. {AGAIN}"
    )


def _check(path: Path, sha256: str) -> None:
    try:
        found = files.fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {files.reason(error)}. {AGAIN}") from error
    if found != sha256:
        raise CheckpointError(f"'{path}' is not what was exported (its SHA-256 differs). {AGAIN}")


def _disagreements(entry: RegistryEntry, folder: Path) -> list[str]:
    """Where the index and the entry's own files say different things, or the files cannot be used.

    The index of an earlier version has no checksum, and one that was made has any.
    """
    try:
        config = files.read_json(folder / CONFIG)
        recipe, params = Recipe(**config["recipe"]), dict(config["params"])
        stated = {
            "adapter": (entry.adapter, config["adapter"]),
            "protocol": (entry.protocol, config["protocol"]),
            "config": (entry.config, configuration(params, recipe)),
            "view": (config["view"] if config["view"] in VIEWS else VIEWS, config["view"]),
        }
        if (folder / EVIDENCE).is_file():
            evidence = files.read_json(folder / EVIDENCE)
            exported, test = evidence["exported"], evidence["test"]
            for name, value in (
                *((name, exported[name]) for name in ("seed", "key", "test_accuracy")),
                ("test_mean", test["mean"]),
                ("test_std", test["std"]),
                ("seeds", len(test["values"])),
            ):
                stated[name] = getattr(entry, name), value
    except (OSError, ValueError, KeyError, TypeError, InvalidInput) as error:
        return [f"they cannot be read ({files.reason(error)})"]
    return [f"{n} is {a!r}, and {b!r} there" for n, (a, b) in stated.items() if a != b]
