"""What the name of a backbone says, checked before anything is built or downloaded."""

from __future__ import annotations

import difflib
from pathlib import Path

from orchestrator.backbones.models import MINI, check_supported
from orchestrator.errors import InvalidInput, unknown

MINI_FILE = Path(__file__).parent / "vit_mini.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
_FILE = f"ARCHITECTURE@FILE with FILE one of {', '.join(SUFFIXES)}"
_IN21K = {
    "orig_in21k": "the original weights; EFFT and FacT used them",
    "augreg_in21k": "AugReg's",
}
"""What timm's old names in `_in21k` have meant, one after the other."""


def architecture(name: str) -> str:
    """The timm model name (with its tag, if any) of a backbone's name."""
    return name.partition("@")[0]


def check(name: str) -> None:
    """`InvalidInput` unless the name is one of the three forms and names one set of weights."""
    tag, at, _ = name.partition("@")
    if tag == MINI:
        return
    _check_known(tag)
    _check_current(tag, bool(at))
    check_supported(tag.partition(".")[0])
    _check_tag(tag, bool(at))


def local_file(name: str) -> Path:
    """The FILE of `ARCHITECTURE@FILE`; `InvalidInput` if it is none of weights."""
    _, _, path = name.partition("@")
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise InvalidInput(f"backbone '{name}': '{path}' is no file of weights; write {_FILE}.")
    if not file.is_file():
        raise InvalidInput(f"backbone '{name}': there is no file '{path}'; write {_FILE}.")
    return file


def pretrained(tag: str) -> list[str]:
    """The names with tag that timm has weights for: `tag` itself, or all of an architecture."""
    import timm

    model, _, weights = tag.partition(".")
    known = timm.list_pretrained(f"{model}.*")
    return [other for other in known if not weights or other == tag]


def _check_known(tag: str) -> None:
    import timm

    model = tag.partition(".")[0]
    if timm.is_model(model):
        return
    close = difflib.get_close_matches(model, [MINI, *timm.list_models()], n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise InvalidInput(
        f"unknown backbone '{tag}'.{hint} Available: {MINI}, every ViT, DeiT and Swin of "
        f"timm.list_models() with its tag, or {_FILE}."
    )


def _check_current(tag: str, has_file: bool) -> None:
    """Refuses names that timm has given up; some have meant more than one set of weights."""
    from timm.models import get_deprecated_models

    old = tag.partition(".")[0]
    names = get_deprecated_models()
    if old not in names:
        return
    now, _, weights = (names[old] or "").partition(".")
    if not now:
        raise InvalidInput(f"backbone '{tag}' is no longer in timm; write the name of another.")
    if has_file:
        raise InvalidInput(f"backbone '{tag}' is an old name of timm's; write {now}@FILE.")
    tags = {name.partition(".")[2] for name in pretrained(now)}
    meanings = [known for known in _IN21K if known in tags]
    if weights in meanings and len(meanings) > 1:
        choices = " or ".join(f"{now}.{known} ({_IN21K[known]})" for known in meanings)
        raise InvalidInput(
            f"backbone '{tag}' changed its meaning between versions of timm; write {choices}."
        )
    choices = " or ".join(f"{now}.{known}" for known in sorted({weights} & tags or tags))
    raise InvalidInput(f"backbone '{tag}' is an old name of timm's; write {choices}.")


def _check_tag(tag: str, has_file: bool) -> None:
    """Without a file the tag says which weights; timm's own choice differs between versions."""
    model, _, weights = tag.partition(".")
    known = [name.partition(".")[2] for name in pretrained(model)]
    if weights and weights not in known:
        raise unknown(f"pre-training tag of '{model}'", weights, known)
    if weights or has_file:
        return
    if not known:
        raise InvalidInput(
            f"backbone '{model}' has no weights on the hub; give a file: {model}@FILE, with FILE "
            f"one of {', '.join(SUFFIXES)}."
        )
    raise InvalidInput(
        f"backbone '{model}' does not say which weights (timm's default changes between versions); "
        f"write {model}.TAG, with TAG one of {', '.join(known)}, or {model}@FILE."
    )
