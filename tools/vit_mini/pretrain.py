"""Pre-trains `vit_mini` by formula-driven supervised learning: no photograph, no human label.

    python -m tools.vit_mini.pretrain --out vit_mini.safetensors --seed 0

Scenes are drawn by formula (`scenes.py`: iterated function systems and radial contours on
procedural grounds); the labels are the formulas' parameters. Class labels alone give features that
are hardly better than random ones on pose tasks. So every patch token also predicts the pose of the
object that it shows and its own position, and the mean of the patch tokens the number of objects.
The cls token predicts the class of the largest object, kind and parameters of the ground and, with
a small weight, pose. Pose, position and number are thus in the tokens, which adapters can use, and
hardly in the feature that a linear probe reads.

Sources: Kataoka et al. 2020, "Pre-training without natural images"; Kataoka et al. 2022, "Replacing
labeled real-image datasets with auto-generated contours" (radial contours).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.backbones.names import MINI_FILE
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.storage.files import fingerprint, write_whole
from tools.vit_mini.scenes import CLASSES, GROUND, KINDS, OBJECTS, POSE, Scenes, render_many

SCENES, BATCH, STEPS = 120_000, 256, 6_000
LR, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 300
WEAKLY = 0.9
"""Weight of the cls token's pose loss; that of the patch tokens is 6."""


class Heads(nn.Module):
    """Linear heads for the labels, discarded after pre-training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.owner = nn.Linear(width, CLASSES)
        self.patch_owner = nn.Linear(width, CLASSES + 1)
        self.kind = nn.Linear(width, len(KINDS))
        self.count = nn.Linear(width, OBJECTS + 1)
        self.ground = nn.Linear(width, GROUND)
        self.pose = nn.Linear(width, POSE)
        self.patch_pose = nn.Linear(width, POSE)
        self.place = nn.Linear(width, 2)

    def loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Sum of the labels' losses for tokens (N, 17, D), cls first."""
        scene, patches = tokens[:, 0], tokens[:, 1:]
        named = F.cross_entropy(self.owner(scene), batch.owner[:, 0], ignore_index=-1)
        kind = F.cross_entropy(self.kind(scene), batch.kind)
        ground = F.smooth_l1_loss(self.ground(scene), batch.ground)
        pose = _on_objects(self.pose(scene), batch.pose[:, 0], batch.owner[:, 0])
        local = F.cross_entropy(self.patch_owner(patches).flatten(0, 1), batch.patch_owner)
        local_pose = _on_objects(self.patch_pose(patches), batch.pose[:, 1:], batch.owner[:, 1:])
        count = F.cross_entropy(self.count(patches.mean(1)), batch.count)
        place = F.mse_loss(self.place(patches), _places().expand(len(patches), -1, -1))
        whole = named / 2 + kind + 3 * ground + WEAKLY * pose
        return whole + local / 2 + 6 * local_pose + count + 2 * place


@dataclass(frozen=True)
class Batch:
    """Labels of N scenes as tensors; shapes as in `Scenes`."""

    images: Tensor
    count: Tensor
    kind: Tensor
    ground: Tensor
    owner: Tensor
    pose: Tensor

    @classmethod
    def of(cls, scenes: Scenes) -> Batch:
        """Images normalised to [-1, 1], channels first."""
        images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        rest = (scenes.count, scenes.kind, scenes.ground, scenes.owner, scenes.pose)
        return cls(images, *(torch.from_numpy(np.ascontiguousarray(values)) for values in rest))

    @property
    def patch_owner(self) -> Tensor:
        """Class of each patch (N·16,), the last class where it shows ground."""
        owner = self.owner[:, 1:].flatten()
        return torch.where(owner < 0, CLASSES, owner)


def pretrain(seed: int, steps: int = STEPS, scenes: int = SCENES) -> tuple[nn.Module, float]:
    """A pre-trained `vit_mini` and its mean loss over the last hundred steps.

    Deterministic on one machine. `ValueError` unless `scenes` is a positive multiple of 1,000.
    """
    if scenes <= 0 or scenes % 1000:
        raise ValueError(f"scenes is {scenes}; allowed: positive multiples of 1000.")
    torch.manual_seed(seed)
    model, data = vit_mini(), render_many(scenes, seed)
    heads = Heads(model.embed_dim)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LR, total_steps=steps, pct_start=min(WARMUP / steps, 0.3)
    )
    losses: list[float] = []
    for step, rows in zip(range(steps), _batches(scenes, seed), strict=False):
        batch = Batch.of(data[rows])
        loss = heads.loss(model.forward_features(batch.images), batch)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {np.mean(losses[-200:]):.3f}", flush=True)
    return model.eval(), float(np.mean(losses[-100:]))


def main() -> None:
    """Command line: pre-train, write the weights and what made them."""
    parser = argparse.ArgumentParser(description="Pre-train vit_mini on formula-drawn scenes.")
    parser.add_argument("--out", type=Path, default=MINI_FILE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    began = time.time()
    model, loss = pretrain(options.seed, options.steps, options.scenes)
    write_whole(options.out, save({n: t.contiguous() for n, t in model.state_dict().items()}))
    record: dict[str, Any] = {
        "fingerprint": fingerprint(options.out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "command": "python -m tools.vit_mini.pretrain "
        f"--seed {options.seed} --steps {options.steps} --scenes {options.scenes}",
        "presentations": options.steps * BATCH,
        "last_loss": round(loss, 4),
        "minutes": round((time.time() - began) / 60, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "timm", "numpy")},
    }
    text = json.dumps(record, indent=2) + "\n"
    write_whole(options.out.with_suffix(".json"), text.encode())


def _batches(count: int, seed: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Rows of one batch after another, every scene once per pass."""
    rng = np.random.default_rng([seed, 2])
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def _places() -> Tensor:
    """The patches' own centres (16, 2) in half images from the middle."""
    middle = (torch.arange(4) + 0.5) / 2 - 1
    return torch.cartesian_prod(middle, middle)


def _on_objects(predicted: Tensor, wanted: Tensor, owner: Tensor) -> Tensor:
    """Smooth L1 of poses (…, POSE), averaged over the places that have an object."""
    losses = F.smooth_l1_loss(predicted, wanted, reduction="none").mean(-1)
    there = (owner >= 0).float()
    return (losses * there).sum() / there.sum().clamp(min=1)


if __name__ == "__main__":
    main()
