"""The conformance kit for authors of adapters: `check(MyAdapter(...))` in a test of your own.

    from adapters.testing import check

    def test_my_adapter():
        check(MyAdapter(rank=4), identity=True, merges=True, vit_b16_count=294_912)

It attaches the adapter to a tiny ViT and a tiny Swin on the CPU, a second or two in all, and raises
`ConformanceError` with one sentence per fault. The repository's own adapters pass the same check.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import timm
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attach, attach_members, attached, detach
from adapters.backbones import find_sites
from adapters.base import Adapter, Kind
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.hyperparameters import per_trial_fields
from adapters.merge import merge
from adapters.stack import start_member
from adapters.storage import CONFIG, WEIGHTS, save

CLASSES, SEEDS, DROP_PATHS = (3, 5, 4), (7, 8, 9), (0.0, 0.3, 0.1)
BATCH, STEPS, LR = 4, 3, 3e-3
# Adam makes whole steps of gradients that are 0 but for rounding (a key's bias, which softmax does
# not see): with the usual ε of 1e-8, alone and in a stack would differ by rounding alone.
EPS = 1e-3
TO = 1e-5
TO_ALONE = 5e-5  # K trials are multiplied in other kernels than one; a step of Adam is LR
M = TypeVar("M", bound=nn.Module)


class ConformanceError(AssertionError):
    """What an adapter fails to keep; `faults` has one sentence each."""

    def __init__(self, adapter: Adapter, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        shown = "\n".join(f"- {fault}" for fault in faults)
        super().__init__(f"{adapter!r} breaks the contract of adapters:\n{shown}")


def check(
    adapter: Adapter,
    *,
    beside: Sequence[Adapter] = (),
    identity: bool | None = None,
    merges: bool | None = None,
    vit_b16_count: int | None = None,
) -> None:
    """Raises `ConformanceError` unless the adapter keeps the contract.

    Args:
        adapter: one configuration; check several if fields change what is computed.
        beside: two other trials for its stack. By default they are made from `adapter` by varying
            every field that may differ between the trials of a stack.
        identity: whether the features at the start are the frozen model's. None: not checked.
        merges: whether `merge` folds it into the weights. None: either, but never wrongly.
        vit_b16_count: the number of trained values outside the head on `vit_base_patch16_224`, as
            the paper states it. None: not checked.
    """
    faults = list(_of_fields(adapter))
    if vit_b16_count is not None:
        faults += _of_count(adapter, vit_b16_count)
    supported = False
    for on, make in (("ViT", tiny_vit), ("Swin", tiny_swin)):
        try:
            adapter.select(find_sites(make()))
        except UnsupportedBackbone:
            continue
        except AdapterError as error:
            faults.append(f"{on}: {error}")
        supported = True
        case = _Case(make, adapter, tuple(beside), identity, merges)
        for part in (_start, _training, _kinds, _randomness, _independence, _saving, _merging):
            try:
                faults.extend(f"{on}: {fault}" for fault in part(case))
            except AdapterError as error:
                faults.append(f"{on}: {error}")
            except Exception as error:  # whatever a plug-in's code raises is a finding
                faults.append(f"{on}, {part.__name__.strip('_')}: {error!r}.")
    if not supported:
        faults.append("select refuses both a ViT and a Swin of timm: it supports no backbone.")
    if faults:
        raise ConformanceError(adapter, list(dict.fromkeys(faults)))


def tiny_vit(classes: int = 0, **options: Any) -> VisionTransformer:
    """The same ViT every time: 3 blocks of width 32, images of 32×32."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return _perturbed(lambda: VisionTransformer(num_classes=classes, **{**sizes, **options}), 1)


def tiny_swin(classes: int = 0, **options: Any) -> SwinTransformer:
    """The same Swin every time: 3 stages of 2, 1, 1 blocks (the second shifted), width 16."""
    sizes: dict[str, Any] = {"img_size": 32, "window_size": 4, "embed_dim": 16}
    sizes |= {"depths": (2, 1, 1), "num_heads": (1, 2, 4), "drop_path_rate": 0.0}
    return _perturbed(lambda: SwinTransformer(num_classes=classes, **{**sizes, **options}), 3)


def _perturbed(make: Callable[[], M], seed: int) -> M:
    """With biases and scales that are not 0 and 1, so that none of them can be forgotten."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
    return model.eval()


@dataclass(frozen=True)
class _Case:
    """One adapter on one backbone, and what was claimed of it."""

    make: Callable[..., nn.Module]
    adapter: Adapter
    beside: tuple[Adapter, ...]
    identity: bool | None
    merges: bool | None

    def attach(self, adapter: Adapter | None = None, **options: Any) -> nn.Module:
        """A fresh model with the adapter."""
        values = {"num_classes": CLASSES[0], "seed": SEEDS[0], **options}
        return attach(self.make(), adapter or self.adapter, **values)

    def random(self, adapter: Adapter | None = None, **options: Any) -> nn.Module:
        """The same with random trained tensors, so that no factor that starts at 0 hides others."""
        model = self.attach(adapter, **options)
        generator = torch.Generator().manual_seed(5)
        for parameter in attached(model).parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return model


def vary(adapter: Adapter, index: int) -> Adapter:
    """A trial that may share a stack with `adapter`: per-trial fields have other values."""
    changed: dict[str, Any] = {}
    for item in fields(adapter):
        if item.name not in per_trial_fields(type(adapter)):
            continue
        value, among = getattr(adapter, item.name), item.metadata["among"]
        below = item.metadata["below"]
        if among is not None:
            changed[item.name] = among[(among.index(value) + index) % len(among)]
        elif isinstance(value, float):
            changed[item.name] = 0.15 * index if below is not None else value * 2.0**index + 0.1
        elif isinstance(value, int) and value > 0:  # 0 may mean that a part is not there at all
            changed[item.name] = value + 2 * index
    return replace(adapter, **changed)


def _images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _train(model: nn.Module, x: Tensor, classes: Sequence[int], steps: int = STEPS) -> Tensor:
    """AdamW on K trials; their losses (steps, K). The model is in evaluation afterwards."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LR, eps=EPS)
    model.train()
    history = []
    for _ in range(steps):
        logits = model(x).unflatten(0, (len(classes), -1))
        labels = [torch.arange(y.shape[0]) % c for y, c in zip(logits, classes, strict=True)]
        losses = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
        optimiser.zero_grad()
        torch.autograd.backward(losses.sum())
        optimiser.step()
        history.append(losses.detach())
    model.eval()
    return torch.stack(history)


def _far(found: Tensor, expected: Tensor, to: float = TO) -> bool:
    """Whether they differ by more than `to`, relative to the largest expected value."""
    if found.shape != expected.shape:
        return True
    if not found.numel():
        return False
    return not bool((found - expected).abs().max() <= to * expected.abs().max().clamp(min=1e-6))


def _of_fields(adapter: Adapter) -> Iterator[str]:
    """The hyper-parameters survive JSON, as ledger and saved adapters need it."""
    try:
        again = type(adapter)(**json.loads(json.dumps(adapter.to_dict())))
    except (TypeError, ValueError) as error:
        yield f"its fields do not survive JSON ({error}): use numbers, strings, None, tuples."
    else:
        if again != adapter:
            yield f"its fields do not survive JSON: {again!r} comes back."
    if not isinstance(getattr(adapter, "name", None), str):
        yield "the class must set name, the word by which a sweep finds it."


def _of_count(adapter: Adapter, expected: int) -> Iterator[str]:
    with torch.device("meta"):
        sites = find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))
        found = start_member(adapter, sites, 0, None).trained_count
    if found != expected:
        yield (
            f"it counts {found:,} trained values on ViT-B/16, not {expected:,}; what belongs "
            "to the head or is not trained must be declared with Parameter(value, kind=...)."
        )


def _start(case: _Case) -> Iterator[str]:
    """The start comes from the trial's seed, and is the frozen model where that is claimed."""
    sites = find_sites(case.make())
    members = []
    for index in range(2):
        torch.manual_seed(index)  # which must not matter
        members.append(start_member(case.adapter, sites, SEEDS[0], CLASSES[0]).tensors)
    first, again = members
    if any(not torch.equal(value, again[name]) for name, value in first.items()):
        yield (
            "start draws from the global random generator; draw from the `generator` "
            "that it is given, so that a trial depends on its own seed only."
        )
    if case.identity is not None:
        for training in (False, True):
            plain, model = case.make().train(training), case.attach().train(training)
            x = _images(BATCH)
            expected, found = (m.forward_features(x) for m in (plain, model))  # type: ignore[operator]
            if case.identity and _far(found, expected, 2e-6):
                yield "it starts away from the frozen model, though identity=True."
            if not case.identity and not _far(found, expected, 1e-3):
                yield "it starts as the frozen model, though identity=False."


def _training(case: _Case) -> Iterator[str]:
    """Exactly the declared tensors train, the backbone does not, and detach restores it."""
    plain = case.make()
    frozen = {name: p.detach().clone() for name, p in plain.named_parameters()}
    model = attach(plain, case.adapter, num_classes=CLASSES[0], seed=SEEDS[0])
    stack, reached = attached(model), set()
    for _ in range(2):  # in the first step a factor that is 0 hides the other's gradient
        _train(model, _images(6), CLASSES[:1], 1)
        reached |= {n for n, t in stack.stacked().items() if t.grad is not None and t.grad.any()}
    trained = {name for name, p in stack.declared.items() if p.kind is not Kind.STATE}
    for name in sorted(trained - reached):
        if stack.stacked()[name].numel():
            yield (
                f"the trained tensor '{name}' gets no gradient; use it in the forward "
                "pass, or declare it as Parameter(value, Kind.STATE)."
            )
    detach(model)
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, frozen[n])]
    if changed:
        yield f"it changes the frozen weights {', '.join(changed[:3])}."


def _kinds(case: _Case) -> Iterator[str]:
    """What is counted acts on the features; what belongs to the head does not."""
    model = case.random().train()
    stack = attached(model)
    features = model.forward_features(_images(6))  # type: ignore[operator]
    if features.requires_grad:  # otherwise only the head trains
        torch.autograd.backward(features.square().sum())
    for name, parameter in stack.declared.items():
        gradient = stack.stacked()[name].grad
        acts = gradient is not None and bool(gradient.any())
        if parameter.kind is Kind.HEAD and acts:
            yield (
                f"'{name}' is declared as head, but it changes the features, so it must "
                "be counted: declare it Kind.TRAINED."
            )
        if parameter.kind is Kind.TRAINED and parameter.value.numel() and not acts:
            yield (
                f"'{name}' is counted as trained outside the head, but the features do "
                "not depend on it: declare it as Parameter(value, Kind.HEAD) or Kind.STATE."
            )


def _randomness(case: _Case) -> Iterator[str]:
    """Masks come from the trial's own seed and step; a dropout rate does something."""
    outputs = []
    for index in range(2):
        model = case.random().train()
        torch.manual_seed(index)  # which must not matter
        outputs.append(model(_images(6)).detach())
    if not torch.equal(*outputs):
        yield (
            "a training pass draws from the global random generator; use the context's "
            "drop_activation or drop_factor, whose masks come from each trial's own seed."
        )
    if "dropout" in per_trial_fields(type(case.adapter)):
        passes = []
        for rate in (0.0, 0.5):
            model = case.random(replace(case.adapter, dropout=rate)).train()  # type: ignore[call-arg]
            passes.append(model(_images(6)).detach())
        if torch.equal(*passes):
            yield "its dropout changes nothing in a training pass."
        if torch.equal(model(_images(6)), passes[1]):
            yield "its dropout masks are the same in every step."


def _independence(case: _Case) -> Iterator[str]:
    """A trial trains in the same way alone and in one stack with others."""
    if case.adapter.max_trials == 1:
        return
    trials = (case.adapter, *(case.beside or (vary(case.adapter, index) for index in (1, 2))))
    x = _images(BATCH * len(trials))
    together = case.attach(trials, num_classes=CLASSES, seed=SEEDS, drop_path=DROP_PATHS)  # type: ignore[arg-type]
    losses, logits = _train(together, x, CLASSES), together(x).unflatten(0, (len(trials), BATCH))
    for index, trial in enumerate(trials):
        own = x[index * BATCH : (index + 1) * BATCH]
        alone = case.attach(
            trial, num_classes=CLASSES[index], seed=SEEDS[index], drop_path=DROP_PATHS[index]
        )
        expected = _train(alone, own, CLASSES[index : index + 1])[:, 0]
        own_logits = logits[index, :, : CLASSES[index]]
        pairs = [(losses[:, index], expected), (own_logits, alone(own))]
        tensors = attached(alone).tensors_of(0)
        pairs += [(t, tensors[n]) for n, t in attached(together).tensors_of(index).items()]
        if any(not torch.allclose(*pair, rtol=0, atol=TO_ALONE) for pair in pairs):
            yield (
                f"{trial!r} trains otherwise alone than beside other trials; take what "
                "differs between trials from the context, and never mix along the trial axis."
            )
    stack, grown = attached(together), set()
    for index in range(len(trials)):
        for name, own in stack.tensors_of(index).items():
            whole = stack.stacked()[name][index]
            if whole.count_nonzero() > own.count_nonzero():
                grown.add(name)
    if grown:
        yield f"the zero-padding of {', '.join(sorted(grown))} does not stay zero."


def _saving(case: _Case) -> Iterator[str]:
    """A saved adapter gives the same outputs; a copied model is independent."""
    model = case.attach(drop_path=0.1)
    _train(model, _images(6), CLASSES[:1], 2)
    expected = model(_images(4))
    with TemporaryDirectory() as folder:
        save(model, folder)
        values = json.loads(Path(folder, CONFIG).read_text())["hyper_parameters"]
        same = type(case.adapter)(**values)  # without its name: a plug-in may be unregistered here
        member = start_member(same, find_sites(case.make()), 0, CLASSES[0])
        member = member.with_tensors(load_file(Path(folder, WEIGHTS)))
    again = attach_members(case.make(), [member], replace_drop_path=False)
    if not torch.equal(again(_images(4)), expected):
        yield "saved and loaded, it gives other outputs; keep every value in tensors."
    _train(copy.deepcopy(model), _images(6), CLASSES[:1], 1)
    if not torch.equal(model(_images(4)), expected):
        yield "training a copy of the model changes the model: it keeps state outside."


def _merging(case: _Case) -> Iterator[str]:
    """Merged, it computes the same; or it is refused with the model unchanged."""
    model = case.random() if case.merges is not False else case.attach()
    x = _images(4)
    expected = model(x)
    try:
        merge(model)
    except AdapterError as error:
        if case.merges:
            yield f"it does not merge, though merges=True: {error}"
        elif not torch.equal(model(x), expected):
            yield "a refused merge changes the model."
        return
    if case.merges is False:
        yield "it merges, though merges=False."
    if _far(model(x), expected, 1e-4):
        yield "the merged model computes something else than the adapted one."
    if any(name.startswith("adapter") for name, _ in model.named_modules()):
        yield "a trace of the adapter is left in the merged model."
