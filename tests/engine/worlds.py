"""A tiny backbone, tiny tasks, and a loop that drives a pool as a backend would."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from adapters.base import Tensors
from orchestrator.backbones import HALF, Backbone
from orchestrator.data.splits import EncodedSplit, FinalData, SearchData, Split
from orchestrator.engine.checkpoint import CheckpointStore
from orchestrator.engine.pool import AtRung, Ended, Pool
from orchestrator.engine.training import Training
from orchestrator.spec import DataIdentity, Recipe, Task, Trial, TrialResult

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch=8, lr=3e-3, warmup_epochs=1, warmup_lr=1e-4, drop_path=0.0)
TRAIN, VAL, TEST = 44, 20, 30  # 44 images make 5 steps of 8; the last 4 are dropped


def backbone(**options: Any) -> Backbone:
    values = {"embed_dim": 32, "depth": 2, "num_heads": 2, **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VisionTransformer(img_size=32, patch_size=8, num_classes=0, **values)
    return Backbone("tiny", model.eval().requires_grad_(False), "w" * 64, 32, HALF)


def split(name: str, count: int, classes: int, view: str = "whole") -> Split:
    """Noise over a shade of grey that tells the class, so that there is something to learn."""
    rng = np.random.default_rng(sum(map(ord, name)))
    labels = rng.permutation(np.arange(count) % classes)
    noise = rng.integers(0, 120, (count, 32, 32, 3))
    images = (noise + (labels * 135 // max(classes - 1, 1))[:, None, None, None]).astype(np.uint8)
    sizes = rng.integers(20, 90, (count, 2)).astype(np.int32)
    for array in (images, sizes):
        array.flags.writeable = False
    return Split(images, labels.astype(np.int64), sizes, name, view)


def encoded(pixels: Split) -> EncodedSplit:
    """The same images as PNG files, in batches of seven, decoded when they are read."""
    files = []
    for image in pixels.images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    columns = tuple(pa.array(files[i : i + 7], pa.large_binary()) for i in range(0, len(files), 7))
    return EncodedSplit(columns, pixels.labels, f"{pixels.fingerprint}-files", 32, pixels.view)


def search_data(
    name: str = "grey", classes: int = 4, train: int = TRAIN, view: str = "whole"
) -> SearchData:
    task = Task(name, "natural", classes, train, VAL, TEST)
    return SearchData(
        task,
        split(f"{name}-train", train, classes, view),
        split(f"{name}-val", VAL, classes, view),
        f"{name}-search",
    )


def final_data(name: str = "grey", classes: int = 4) -> FinalData:
    task = Task(name, "natural", classes, TRAIN, VAL, TEST)
    return FinalData(
        task,
        (split(f"{name}-train", TRAIN, classes), split(f"{name}-val", VAL, classes)),
        split(f"{name}-test", TEST, classes),
        DataIdentity("s", "t"),
    )


def trial(
    adapter: str = "lora", params: Mapping[str, Any] | None = None, seed: int = 0, **changes: Any
) -> Trial:
    """A search trial of `grey`; `changes` are recipe fields, or `task`, `stage`, `protocol`."""
    own = {"task": "grey", "stage": "search", "protocol": "honest"}
    own |= {name: changes.pop(name) for name in list(changes) if name in own}
    return Trial(
        suite="tests", backbone="tiny", adapter=adapter, params=params or {}, seed=seed,
        recipe=RECIPE.with_values(changes), data="d", weights="w", **own,
    )  # type: ignore[arg-type]  # fmt: skip


@dataclass
class Watched:
    """What came out of a pool: results, final tensors, kept logits with labels by key, and every
    rung.
    """

    results: dict[str, TrialResult] = field(default_factory=dict)
    tensors: dict[str, Tensors] = field(default_factory=dict)
    kept: dict[str, Tensors] = field(default_factory=dict)
    logits: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rungs: list[AtRung] = field(default_factory=list)


class WatchedPool(Pool):
    """A pool that also shows the tensors of the trials that ended."""

    def __init__(self, *args: Any, width: int | None = 16, **options: Any) -> None:
        super().__init__(*args, width=width, **options)
        self.seen = Watched()

    def _end(self, training: Training, *args: Any) -> Ended:
        self.seen.tensors[training.key] = dict(training.member.tensors)
        return super()._end(training, *args)


Data = SearchData | FinalData


def run(
    starts: Sequence[tuple[Trial, Data]],
    *,
    late: Mapping[int, tuple[Trial, Data]] | None = None,
    pauses: Sequence[int] = (),
    decide: Callable[[AtRung], bool] = lambda rung: True,
    answer_after: int = 0,
    checkpoints: Path | None = None,
    every: float = 0.0,
    stop_after: int | None = None,
    bone: Backbone | None = None,
) -> Watched:
    """Runs trials to their ends; `late` joins after so many steps, rungs are answered so late."""
    store = None if checkpoints is None else CheckpointStore(checkpoints, every)
    pool = WatchedPool(bone or backbone(), CPU, store)
    for one, data in starts:
        pool.add(one, data, pauses)
    joining, answers, step = dict(late or {}), [(0, "")][:0], 0
    while (len(pool) or joining) and step != stop_after:
        if step in joining:
            pool.add(*joining.pop(step), pauses)
        for event in pool.advance():
            if isinstance(event, AtRung):
                pool.seen.rungs.append(event)
                assert pool.at_rung(event.key) == event
                answers.append((step + answer_after, event.key))
            else:
                _note(pool.seen, event)
        for due, key in [answer for answer in answers if answer[0] <= step]:
            answers.remove((due, key))
            rung = pool.at_rung(key)
            assert rung is not None
            if decide(rung):
                pool.proceed(key)
            else:
                pool.seen.results[key] = pool.stop(key)
        step += 1
    return pool.seen


def _note(seen: Watched, ended: Ended) -> None:
    seen.results[ended.result.key] = ended.result
    if ended.tensors is not None:
        seen.kept[ended.result.key] = ended.tensors
    if ended.logits is not None and ended.labels is not None:
        seen.logits[ended.result.key] = ended.logits, ended.labels


def assert_same(found: Watched, expected: Watched, key: str, to: float = 1e-5) -> None:
    """Losses, evaluations and final weights of one trial agree to `to`."""
    one, other = found.results[key], expected.results[key]
    assert (one.status, one.epochs_run, one.message) == (
        other.status, other.epochs_run, other.message,
    )  # fmt: skip
    for a, b in zip(one.curve, other.curve, strict=True):
        assert (a.epoch, a.lr, a.eval_accuracy) == (b.epoch, b.lr, b.eval_accuracy)
        np.testing.assert_allclose(a.loss, b.loss, rtol=0, atol=to)
        if b.eval_loss is not None:
            assert a.eval_loss is not None
            np.testing.assert_allclose(a.eval_loss, b.eval_loss, rtol=0, atol=to)
    assert one.correct == other.correct
    if one.status == "diverged":
        return
    weights = expected.tensors[key]
    assert found.tensors[key].keys() == weights.keys()
    for name, tensor in found.tensors[key].items():
        assert torch.allclose(tensor, weights[name], rtol=0, atol=to), name
