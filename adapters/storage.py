"""One trial's adapter on disk: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from adapters.attach import attach_members, attached, free_sites
from adapters.base import Adapter, Tensors
from adapters.errors import AdapterError
from adapters.names import build
from adapters.stack import start_member

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FORMAT = 1
_SMALL = 1024
"""A size that any backbone may have."""
M = TypeVar("M", bound=nn.Module)


def save(model: nn.Module, folder: str | Path) -> None:
    """Write the only trial attached to `model`; `AdapterError` for a stack of several."""
    stack = attached(model)
    if len(stack.members) != 1:
        raise AdapterError(f"save takes one trial, this stack has {len(stack.members)}.")
    save_tensors(stack.members[0].adapter, stack.tensors_of(0), folder)


def save_tensors(adapter: Adapter, tensors: Tensors, folder: str | Path) -> dict[str, str]:
    """Writes an adapter and its tensors, head included: each file whole or absent, config last.

    Returns the SHA-256 (hex) of each file's bytes by its name, computed before they are written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "adapter": adapter.name, "hyper_parameters": adapter.to_dict()}
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    contents = {WEIGHTS: to_bytes(host), CONFIG: text.encode()}
    for name, content in contents.items():
        _replace(target / name, content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def load(model: M, folder: str | Path) -> M:
    """Attaches a saved adapter to a fresh timm model of the same architecture; returns the model.

    Raises `AdapterError` naming the file and the mismatch if it is missing, damaged or of another
    architecture; nothing is unpickled.
    """
    source, sites = Path(folder), free_sites(model)
    adapter = _read_config(source / CONFIG)
    try:
        _require_regular(source / WEIGHTS)
        tensors = load_file(source / WEIGHTS)
    # KeyError, AttributeError: a type that this version of torch or safetensors does not know.
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise AdapterError(f"{source / WEIGHTS} cannot be read as safetensors: {error}.") from error
    bias = tensors.get("head.bias")
    try:
        _check_sizes(adapter, tensors)
        fresh = start_member(adapter, sites, 0, None if bias is None else bias.numel())
    except (AdapterError, RuntimeError, MemoryError) as error:  # the latter: too little memory
        raise AdapterError(f"{source} does not fit this {type(model).__name__}: {error}") from error
    expected, found = (
        {name: _kind(t) for name, t in some.items()} for some in (fresh.tensors, tensors)
    )
    if expected != found:
        differing = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        shown = "; ".join(
            f"{n}: expected {expected.get(n)}, found {found.get(n)}" for n in differing[:3]
        )
        raise AdapterError(f"{source / WEIGHTS} does not fit this {type(model).__name__}: {shown}.")
    return attach_members(model, [fresh.with_tensors(tensors)], replace_drop_path=False)


def _kind(tensor: Tensor) -> str:
    """Shape, and the type where it is another than that of every trained tensor."""
    kind = "" if tensor.dtype == torch.float32 else f" of {tensor.dtype}"
    return f"{tuple(tensor.shape)}{kind}"


def _check_sizes(adapter: Adapter, tensors: Tensors) -> None:
    """`AdapterError` for a size far beyond the tensors', before memory is asked for."""
    largest = max([_SMALL, *(size for t in tensors.values() if t.numel() for size in t.shape)])
    for name, value in adapter.to_dict().items():
        if type(value) is int and value > largest:
            raise AdapterError(f"{name} is {value}; its tensors allow at most {largest}.")


def _read_config(path: Path) -> Adapter:
    try:
        _require_regular(path)
        config = json.loads(path.read_text(encoding="utf-8"))
        name, values, version = config["adapter"], config["hyper_parameters"], config["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{path} is not a readable adapter configuration: {error!r}.") from error
    if version != FORMAT or not isinstance(name, str) or not isinstance(values, dict):
        raise AdapterError(f"{path} has format {version!r}; this version reads format {FORMAT}.")
    try:
        return build(name, values)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error


def _require_regular(path: Path) -> None:
    """`OSError` for a pipe, which would wait for its writer for ever, or a device."""
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
