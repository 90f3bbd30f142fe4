"""How much a frozen backbone's features tell: the linear probe behind `vit_mini`'s figures.

    python -m tools.vit_mini.probe            # measures and prints the table
    python -m tools.vit_mini.probe --write    # and notes it in vit_mini.json

The same probe serves pre-trained and random weights; its penalty is chosen on val.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.backbones.names import MINI_FILE
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.data.mini import make
from orchestrator.data.mini.pixels import Splits
from orchestrator.storage.files import write_whole
from orchestrator.tasks.suites import MINI

DECAYS = (1e-3, 1e-2, 1e-1)
"""L2 penalties tried; val chooses."""
RANDOM_SEEDS = (0, 1, 2)


def pretrained(path: Path = MINI_FILE) -> nn.Module:
    """`vit_mini` with its weights, in evaluation mode."""
    model = vit_mini()
    model.load_state_dict(load_file(path))
    return model.eval()


def untrained(seed: int) -> nn.Module:
    """The same architecture with random weights."""
    torch.manual_seed(seed)
    return vit_mini().eval()


def probe(model: nn.Module, task: str) -> float:
    """Test accuracy of multinomial logistic regression on the model's pooled features.

    Trained on train (800 images) with the penalty that does best on val.
    """
    splits = _splits(task)
    features = {name: _features(model, images) for name, (images, _) in splits.items()}
    labels = {name: torch.from_numpy(labels) for name, (_, labels) in splits.items()}
    mean, std = features["train"].mean(0), features["train"].std(0) + 1e-6
    features = {name: (values - mean) / std for name, values in features.items()}
    fits = [_fit(features["train"], labels["train"], MINI.task(task).classes, d) for d in DECAYS]
    best = max(fits, key=lambda weights: _accuracy(weights, features["val"], labels["val"]))
    return _accuracy(best, features["test"], labels["test"])


def table(model: nn.Module) -> dict[str, dict[str, float]]:
    """Task → accuracy of `model`'s features and the mean over untrained ones."""
    rows = {}
    for task in (row.name for row in MINI.tasks):
        chance = [probe(untrained(seed), task) for seed in RANDOM_SEEDS]
        rows[task] = {
            "pretrained": round(probe(model, task), 4),
            "random": round(float(np.mean(chance)), 4),
        }
    return rows


@cache
def _splits(task: str) -> Splits:
    return make(task)


@torch.no_grad()
def _features(model: nn.Module, images: np.ndarray[Any, Any]) -> Tensor:
    """Pooled features (N, D) of images (N, 32, 32, 3)."""
    inputs = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    features: Tensor = model(inputs)
    return features


def _fit(features: Tensor, labels: Tensor, classes: int, decay: float) -> Tensor:
    """Weights (D + 1, classes), the last row the bias."""
    inputs = F.pad(features, (0, 1), value=1.0)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(inputs @ weights, labels) + decay * weights[:-1].square().sum() / 2
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch leaves LBFGS unannotated
    return weights.detach()


def _accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    predicted = (F.pad(features, (0, 1), value=1.0) @ weights).argmax(1)
    return float((predicted == labels).float().mean())


def main() -> None:
    """Command line: measure, print, and with `--write` note the table beside the weights."""
    parser = argparse.ArgumentParser(description="Linear probe of vit_mini on the suite mini.")
    parser.add_argument("--write", action="store_true", help="note the table in vit_mini.json")
    write = parser.parse_args().write
    rows = table(pretrained())
    print(json.dumps(rows, indent=2))
    if write:
        path = MINI_FILE.with_suffix(".json")
        record = json.loads(path.read_text()) | {"linear_probe_test_accuracy": rows}
        write_whole(path, f"{json.dumps(record, indent=2)}\n".encode())


if __name__ == "__main__":
    main()
