"""What a training step of every adapter costs, relative to `linear`, alone and sixteen at once.

    python benchmarks/step_cost.py           # prints, and writes benchmarks/results/step_cost.json

One step is forward, backward and AdamW on a timm ViT with random weights. `linear` is timed through
the whole backbone too (in a sweep its features are computed once, which is cheaper still). Every
adapter takes turns with `linear`, and the median of `REPEATS` ratios counts. K = 16 trains sixteen
trials of `BATCH` images each in one step, `linear` beside it as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from machine import facts, write
from torch.nn import functional as F

import adapters
from adapters.backbones import find_sites
from adapters.stack import start_member

BATCH, CLASSES, REPEATS, TOGETHER = 2, 10, 5, 16


def step(name: str, trials: int, backbone: str, device: torch.device) -> Callable[[], None]:
    """A call that does one training step of `trials` trials."""
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=0).to(device).train()
    adapter = adapters.get(name)()
    seeds = list(range(trials))
    adapters.attach(model, [adapter] * trials, num_classes=CLASSES, seed=seeds, drop_path=0.1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    side = model.patch_embed.img_size[0]
    images = torch.randn(trials * BATCH, 3, side, side, device=device)
    labels = torch.arange(trials * BATCH, device=device) % CLASSES

    def call() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def count(name: str, backbone: str) -> int:
    """Trained scalars without the head."""
    with torch.device("meta"):
        sites = find_sites(timm.create_model(backbone, num_classes=0))
        return start_member(adapters.get(name)(), sites, 0, None).trained_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    costs: dict[str, dict[str, float]] = {name: {} for name in adapters.names()}
    for trials in (1, TOGETHER):
        able = [n for n in adapters.names() if trials == 1 or adapters.get(n).max_trials != 1]
        times: dict[str, list[float]] = {name: [] for name in able}
        for name in able:  # one at a time in memory; `linear` before each, so that drift cancels
            base, own = (step(n, trials, arguments.backbone, device) for n in ("linear", name))
            base(), own()  # warm up
            pairs = [(seconds(base), seconds(own)) for _ in range(arguments.repeats)]
            times[name] = [mine / theirs for theirs, mine in pairs]
            costs[name][f"k{trials}"] = round(statistics.median(times[name]), 2)
            print(name, trials, costs[name][f"k{trials}"], flush=True)
    result = {
        **facts("torch", "timm"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": arguments.backbone,
        "batch": BATCH,
        "step_relative_to_linear": costs,
    }
    print(write("step_cost", result))


if __name__ == "__main__":
    main()
