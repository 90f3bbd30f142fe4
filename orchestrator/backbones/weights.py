"""Weights files read into an empty model: safetensors, torch's own, and Google's `.npz`.

timm's own converters bring older files into the shape of today's models. What they would resize to
another image or window is refused: it would change the features without a word.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backbones.fit import check_filled, check_shapes, shapes_of
from orchestrator.backbones.npz import fill_from_npz
from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

_HEADS = ("head.", "head_dist.")
"""What a checkpoint may have and a backbone leaves out."""
_RESIZABLE = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")


def fill(model: nn.Module, path: Path, architecture: str) -> None:
    """Gives every tensor of an empty model (on the meta device) its value, on the CPU.

    `CheckpointError` if the file is damaged, holds more than weights or does not fit.
    """
    _allocate(model)
    if path.suffix == ".npz":
        fill_from_npz(model, path, architecture)
    else:
        found = _read(path)
        state = _of_today(model, found, path, architecture)
        headless = {n: t for n, t in state.items() if not n.startswith(_HEADS)}
        check_shapes(path, architecture, shapes_of(model.state_dict()), shapes_of(headless))
        model.load_state_dict(headless)
    check_filled(path, architecture, model)


def _allocate(model: nn.Module) -> None:
    """Memory for every tensor, filled with NaN so that none is left out unseen."""
    import torch

    model.to_empty(device=torch.device("cpu"))
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    for module in model.modules():  # Swin's masks and indices, which no file needs to hold
        restore: Any = getattr(module, "init_non_persistent_buffers", None)
        if restore:
            restore()


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, without what wrappers add to their names."""
    from timm.models import clean_state_dict

    tensors = _safetensors(path) if path.suffix == ".safetensors" else _table(path, _torch(path))
    return clean_state_dict(tensors)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error


def _torch(path: Path) -> Any:
    """What a file of `torch.save` holds, as long as that is tensors in plain containers."""
    import torch

    try:
        # The one place: `weights_only` rebuilds tensors and calls nothing that the file names.
        return torch.load(  # noqa: TID251
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, …
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        if not stranger:
            raise CheckpointError(
                f"'{path}' cannot be read: it is damaged, or no file of torch.save "
                f"({type(error).__name__})."
            ) from error
        raise CheckpointError(
            f"'{path}' holds more than weights ({stranger[1]}), and nothing else is unpickled. "
            "Where you trust it, save its tensors with safetensors.torch.save_file; name that file."
        ) from error


def _table(path: Path, content: Any) -> dict[str, Tensor]:
    """The one table of tensors in a file: all of it, or what is under one name (`model`, …)."""
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


def _of_today(
    model: nn.Module, found: dict[str, Tensor], path: Path, architecture: str
) -> dict[str, Tensor]:
    """timm's conversion of older layouts, with what it resized put back as it is in the file."""
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
    except Exception as error:  # it looks up modules and reshapes tensors that need not fit
        raise CheckpointError(f"'{path}' does not fit {architecture}: {error}.") from error
    own = {_memory(tensor) for tensor in found.values()}
    resized = {n for n, t in converted.items() if n.endswith(_RESIZABLE) and _memory(t) not in own}
    kept = {name: tensor for name, tensor in converted.items() if name not in resized}
    return {**kept, **{name: found[name] for name in resized if name in found}}


def _memory(tensor: Tensor) -> int:
    """Where its values lie: a tensor that was renamed or reshaped still shares the file's."""
    return tensor.untyped_storage().data_ptr()
