"""The weights file of a timm tag, from the local Hugging Face cache or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_SECONDS = 10.0
"""How long the hub may take to answer."""
_PICKLED = "pytorch_model.bin"
"""What older versions of timm and transformers left in the cache; only its tensors are read."""
_GOOGLE = "https://storage.googleapis.com/vit_models/imagenet21k"
_ORIGINALS = {
    "vit_base_patch16_224.orig_in21k": f"{_GOOGLE}/ViT-B_16.npz",
    "vit_base_patch32_224.orig_in21k": f"{_GOOGLE}/ViT-B_32.npz",
    "vit_large_patch16_224.orig_in21k": f"{_GOOGLE}/ViT-L_16.npz",
    "vit_large_patch32_224.orig_in21k": f"{_GOOGLE}/ViT-L_32.npz",
    "vit_huge_patch14_224.orig_in21k": f"{_GOOGLE}/ViT-H_14.npz",
}
"""Tag → the authors' original file, where timm does not record it."""


def hub_file(tag: str) -> Path:
    """The weights of a tag that timm knows; downloaded if they are not cached.

    A cached file is used without asking the network, so that a sweep keeps its weights.
    `CheckpointError` says which file to put where, if there is neither cache nor network.
    """
    from huggingface_hub import hf_hub_download

    config = _config(tag)
    cached = cached_file(tag)
    if cached is not None:
        return cached
    with _explained(tag):
        _ask(config)
        return Path(hf_hub_download(*_file_of(config)))


def cached_file(tag: str) -> Path | None:
    """The weights of a tag in the local cache, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    repository, file = _file_of(_config(tag))
    for name in (file, _PICKLED):
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def check_reachable(tag: str) -> None:
    """`CheckpointError` as `hub_file`, without a download; the hub is asked once."""
    with _explained(tag):
        _ask(_config(tag))


def _config(tag: str) -> PretrainedCfg:
    """timm's record of the weights; `CheckpointError` if they are not on the hub."""
    import timm

    config = timm.get_pretrained_cfg(tag)
    assert config is not None, tag
    if not config.hf_hub_id:
        raise CheckpointError(
            f"the weights of '{tag}' are not on the Hugging Face hub; {_by_hand(tag, config)}."
        )
    return config


@contextmanager
def _explained(tag: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # many unrelated types, which all mean: not reachable
        raise CheckpointError(
            f"the weights of '{tag}' are neither cached nor reachable ({type(error).__name__}); "
            f"{_by_hand(tag, _config(tag))}."
        ) from error


def _ask(config: PretrainedCfg) -> None:
    """Any error of the network at once: a download would try again for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    with suppress(HfHubHTTPError):  # it is there, and the download says what it answers
        get_hf_file_metadata(hf_hub_url(*_file_of(config)), timeout=_SECONDS)


def _by_hand(tag: str, config: PretrainedCfg) -> str:
    """Which file to download by hand, and how to name it as a backbone."""
    offers = []
    if config.hf_hub_id:
        file = _file_name(config)
        offers.append(
            f"{file} of https://huggingface.co/{config.hf_hub_id} and pass --backbone "
            f"{tag}@/path/to/{file}"
        )
    original = config.url or _ORIGINALS.get(tag)
    if isinstance(original, str) and original:
        file = original.rpartition("/")[2]
        offers.append(f"the original {original} and pass --backbone {tag}@/path/to/{file}")
    return f"download {', or '.join(offers)}"


def _file_of(config: PretrainedCfg) -> tuple[str, str]:
    """Repository and name of the file that the hub has."""
    assert config.hf_hub_id is not None
    return config.hf_hub_id, _file_name(config)


def _file_name(config: PretrainedCfg) -> str:
    return config.hf_hub_filename or "model.safetensors"
