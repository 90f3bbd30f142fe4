"""Load weights files into an empty model: safetensors, torch's own, and Google's `.npz`.

timm's converters translate older layouts. A tensor that they would resize to another image or
window size is refused, because that would silently change the features. `.npz` is Google's original
layout of Vision Transformers, an archive of JAX arrays; timm reads it without unpickling
(`VisionTransformer.load_pretrained`), but resizes embeddings and ignores additional blocks
silently; both are refused here.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]

_ANCHOR = "patch_embed.proj.weight"
"""A tensor that every backbone has: what stands before its name in a file is a prefix."""
_HEADS = ("head.", "head_dist.")
"""Tensors of a file that a backbone does not have."""
_RESIZABLE = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")
_NPZ_PREFIXES = ("", "opt/target/", "params/", "params/img/")
_NPZ_HEADS = re.compile(r"(head|pre_logits)/")
"""Heads; the features of timm's `orig_in21k`, and of the papers, come before `pre_logits`."""


def fill(model: nn.Module, path: Path, architecture: str, prefix: str = "") -> None:
    """Load every tensor of an empty model (on the device `meta`) from a file, to the CPU.

    Only tensors whose names begin with `prefix` are meant, where one is given; names of tensors in
    tables begin with that of their table. `CheckpointError` if the file is damaged, holds more than
    weights or does not fit; it says with which prefix it would.
    """
    _allocate(model)
    if path.name.lower().endswith(".npz"):
        _fill_from_npz(model, path, architecture)
    else:
        _fill_from_tensors(model, path, architecture, prefix)
    _check_filled(path, architecture, model)


def _fill_from_tensors(model: nn.Module, path: Path, architecture: str, prefix: str) -> None:
    from timm.models import clean_state_dict

    is_torch = not path.name.lower().endswith(".safetensors")
    content = _torch(path) if is_torch else _safetensors(path)
    tensors = dict(_flat(content))
    wanted = _shapes_of(model.state_dict())
    fitting = _fitting_prefixes(tensors, wanted)
    try:
        found = _chosen(path, tensors, prefix, fitting) if prefix else _table(path, content)
        state = _converted(model, clean_state_dict(found), path, architecture)
        headless = {n: t for n, t in state.items() if not n.startswith(_HEADS)}
        _check_shapes(path, architecture, wanted, _shapes_of(headless))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_advice(path, architecture, fitting)}") from error
    model.load_state_dict(headless)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested tables, named by the names of its tables and its own."""
    import torch

    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(name, str):
            yield from _flat(value, f"{prefix}{name}.")


def _fitting_prefixes(tensors: Mapping[str, Tensor], wanted: Shapes) -> list[str]:
    """The prefixes below which every tensor of the model has its name; none if they have none."""
    shapes = _shapes_of(tensors)
    ends = {name.removesuffix(_ANCHOR) for name in tensors if name.endswith(_ANCHOR)}
    return sorted(
        start
        for start in ends - {""}
        if all(shapes.get(start + name) == shape for name, shape in wanted.items())
    )


def _chosen(
    path: Path, tensors: Mapping[str, Tensor], prefix: str, fitting: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors below a prefix, of which a person may leave out the start and the last point."""
    end = f"{prefix.rstrip('.')}."
    meant = [start for start in fitting if f".{start}".endswith(f".{end}")]
    start = meant[0] if len(meant) == 1 and end not in fitting else end
    found = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    if not found:
        raise CheckpointError(f"'{path}' has no tensor whose name begins with '{end}'.")
    return found


def _advice(path: Path, architecture: str, fitting: Sequence[str]) -> str:
    """A sentence about the prefixes that fit, which begins with a space; empty if none does."""
    if not fitting:
        return ""
    forms = " or ".join(f"{architecture}@{path}#{prefix}" for prefix in fitting)
    return f" Its tensors fit below {' and '.join(map(repr, fitting))}: write --backbone {forms}."


def _allocate(model: nn.Module) -> None:
    """Allocate every tensor, filled with NaN so that a missing one is detected."""
    import torch

    model.to_empty(device=torch.device("cpu"))
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    for module in model.modules():  # Swin's masks and indices, which files may lack
        restore: Any = getattr(module, "init_non_persistent_buffers", None)
        if restore:
            restore()


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error


def _torch(path: Path) -> Any:
    """The content of a `torch.save` file, if it is tensors in plain containers."""
    import torch

    try:
        # The only use: `weights_only` rebuilds tensors and calls nothing that the file names.
        return torch.load(  # noqa: TID251
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, …
        other = re.search(r"GLOBAL (\S+)", str(error))
        if not other:
            raise CheckpointError(
                f"'{path}' cannot be read: it is damaged, or no file of torch.save "
                f"({type(error).__name__})."
            ) from error
        raise CheckpointError(
            f"'{path}' holds more than weights ({other[1]}), and nothing else is unpickled. "
            "Where you trust it, save its tensors with safetensors.torch.save_file; name that file."
        ) from error


def _table(path: Path, content: Any) -> dict[str, Tensor]:
    """The only table of tensors in a file: all of it, or the value of one key (`model`, …)."""
    entries = content if isinstance(content, Mapping) else {}
    tables = [value for value in (content, *entries.values()) if _is_table(value)]
    if len(tables) != 1:
        held = ", ".join(map(str, entries)) or f"a {type(content).__name__}"
        raise CheckpointError(
            f"'{path}' holds {len(tables)} tables of tensors ({held[:200]}), expected one: plain, "
            "or under one name such as 'model' or 'state_dict'. Save the one that is meant."
        )
    return dict(tables[0])


def _is_table(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in value.items())
    )


def _converted(
    model: nn.Module, found: dict[str, Tensor], path: Path, architecture: str
) -> dict[str, Tensor]:
    """timm's conversion of older layouts, with tensors that it resized as they are in the file."""
    from timm.models import swin_transformer, vision_transformer

    try:
        if isinstance(model, swin_transformer.SwinTransformer):
            converted = swin_transformer.checkpoint_filter_fn(dict(found), model)
        else:
            converted = vision_transformer.checkpoint_filter_fn(
                dict(found),
                model,  # type: ignore[arg-type]
                adapt_layer_scale=True,
            )
    except Exception as error:  # it looks up modules and reshapes tensors, which may not fit
        raise CheckpointError(f"'{path}' does not fit {architecture}: {error}.") from error
    own = {_storage(tensor) for tensor in found.values()}
    resized = {n for n, t in converted.items() if n.endswith(_RESIZABLE) and _storage(t) not in own}
    kept = {name: tensor for name, tensor in converted.items() if name not in resized}
    return {**kept, **{name: found[name] for name in resized if name in found}}


def _storage(tensor: Tensor) -> int:
    """The address of its values: a renamed or reshaped tensor shares the file's."""
    return tensor.untyped_storage().data_ptr()


def _fill_from_npz(model: nn.Module, path: Path, architecture: str) -> None:
    """Copy the arrays into the model; `CheckpointError` naming the file and what is wrong."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise CheckpointError(
            f"'{path}': .npz is the original layout of Vision Transformers, {architecture} is "
            "none; give its .safetensors or .pth file."
        )
    shapes = _npz_shapes(path)
    _check_embeddings(model, path, architecture, shapes)
    try:
        model.load_pretrained(str(path))
    except Exception as error:  # a missing key, a shape, a damaged member: the same remedy
        raise CheckpointError(
            f"'{path}' does not fit {architecture} in Google's original layout: {error}."
        ) from error
    _check_count(model, path, architecture, shapes)


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array → shape, from the headers alone; without the prefix that some files have."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                name.removesuffix(".npy"): _npz_shape(archive, name) for name in archive.namelist()
            }
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"'{path}' cannot be read as .npz: {error}.") from error
    kernel = "embedding/kernel"
    prefix = next((p for p in _NPZ_PREFIXES if p + kernel in found), None)
    if prefix is None:
        raise CheckpointError(
            f"'{path}' is not in Google's original layout: it has no array '{kernel}'."
        )
    return {n.removeprefix(prefix): shape for n, shape in found.items() if n.startswith(prefix)}


def _npz_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    from numpy.lib import format as npy

    with archive.open(member) as file:
        old = npy.read_magic(file) == (1, 0)
        read: Any = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
        shape: tuple[int, ...] = read(file)[0]
        return shape


def _check_embeddings(model: nn.Module, path: Path, architecture: str, shapes: Shapes) -> None:
    """Check the two tensors that timm would resize."""
    kernel = shapes["embedding/kernel"]
    # (height, width, in, out) there, (out, in, height, width) here
    found = {"patch_embed.proj.weight": (*kernel[:1:-1], *kernel[:2])}
    for name in [name for name in shapes if name.endswith("pos_embedding")]:
        found["pos_embed"] = shapes[name]
    own = _shapes_of(model.state_dict())
    _check_shapes(path, architecture, {n: own[n] for n in found if n in own}, found)


def _check_count(model: nn.Module, path: Path, architecture: str, shapes: Shapes) -> None:
    """Compare the numbers of values: timm ignores blocks and fills larger tensors silently."""
    found = sum(math.prod(s) for name, s in shapes.items() if not _NPZ_HEADS.match(name))
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if found != wanted:
        raise CheckpointError(
            f"'{path}' does not fit {architecture}: without heads it has {found:,} values, "
            f"the architecture {wanted:,}. Give the file of this architecture."
        )


def _shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_shapes(path: Path, architecture: str, wanted: Shapes, found: Shapes) -> None:
    """`CheckpointError` naming the first tensors that differ in name or shape."""
    differing = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
    if differing:
        shown = "; ".join(
            f"{n}: expected {wanted.get(n, 'nothing')}, found {found.get(n, 'nothing')}"
            for n in differing[:3]
        )
        raise CheckpointError(
            f"'{path}' does not fit {architecture}: {len(differing)} tensors differ ({shown}). "
            "Give the file of this architecture and image size (nothing is resized), in timm's "
            "names or its authors' own."
        )


def _check_filled(path: Path, architecture: str, model: nn.Module) -> None:
    """`CheckpointError` if a value of the model is not finite: missing in the file, or damaged."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    bad = [name for name, tensor in tensors if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"'{path}' leaves {len(bad)} tensors of {architecture} without finite values "
            f"({', '.join(bad[:3])}): it is damaged, or of another architecture."
        )
