"""What a GPU does in a step, what precision costs, and how many trials fit: stages of `gpu.sh`.

    python benchmarks/gpu.py profile --backbone vit_base_patch16_224 --device cuda
    python benchmarks/gpu.py precision --backbone vit_base_patch16_224 --device cuda
    python benchmarks/gpu.py widths --backbone vit_base_patch16_224 --device cuda
    python benchmarks/gpu.py side --backbone vit_base_patch16_224 --device cuda

Each writes benchmarks/results/<stage>_<backbone>_<device>.json and prints a table. Trials, images
and weights are those of throughput.py.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms.images import make_work
from arms.work import Work
from machine import accelerator, facts, save
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from orchestrator.backbones import load_backbone
from orchestrator.engine import memory, roofline
from orchestrator.engine.pool import Ended, Pool
from orchestrator.spec import Trial

PACKAGES = ("torch", "timm", "numpy")
KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "products": r"gemm|nvjet|cutlass|xmma|cublas|\bmm\b|\bbmm\b|addmm|linear|matmul|conv",
    "norms": r"norm",
    "copies": r"copy|cat|mem(cpy|set)|index|gather|scatter|fill|zero",
    "elementwise": r"",
}
"""Kind → names of its kernels; the first that matches counts."""
WARM_UP, TIMED, PROFILED = 2, 6, 3
"""Steps; together less than an epoch has, after which a pool evaluates."""
ADAPTERS = ("efft2", "lora", "hta", "ssf", "vpt_deep")
SIDE = ("lora", "dtl", "last")
PRECISIONS = ("fp32", "amp", "bf16", "fp8")
TRIALS = 12


def profile(work: Work, asked: argparse.Namespace) -> dict[str, Any]:
    """By width: milliseconds of a step, of it busy by kind, kernels and the longest of them."""
    found = {}
    for width in asked.widths:
        found[str(width)] = one = _profiled(work, width, asked)
        share = 100 * one["share_of_best_rate"]
        print(
            f"K = {width}: {one['step_ms']} ms, of it busy {one['busy_ms']}; {share:.1f} % of best"
        )
        for kind, share in one["share_of_busy"].items():
            print(f"    {kind:12} {100 * share:5.1f} %")
        for row in one["longest"]:
            print(f"    {row['ms']:9.3f} ms  {row['calls']:6g} ×  {row['name']}")
    return {"widths": found}


def _profiled(work: Work, width: int, asked: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(work.device)
    pool = _pool(work, [_trial(work, n, asked.precision) for n in range(width)], width)
    for _ in range(WARM_UP):
        pool.advance()
    seconds, before = [], pool.work.flops
    for _ in range(TIMED):
        roofline.synchronize(device)
        began = time.perf_counter()
        pool.advance()
        roofline.synchronize(device)
        seconds.append(time.perf_counter() - began)
    done = pool.work.flops - before
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            pool.advance()
        roofline.synchronize(device)
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = [
        {
            "name": event.key[:100],
            "ms": (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            / PROFILED / 1e3,
            "calls": round(event.count / PROFILED, 1),
        }
        for event in profiler.key_averages()
        if event.device_type == where
    ]  # fmt: skip
    busy = sum(row["ms"] for row in rows)
    by_kind = dict.fromkeys(KINDS, 0.0)
    for row in rows:
        by_kind[kind_of(row["name"])] += row["ms"]
    step = 1e3 * statistics.median(seconds)
    longest = sorted(rows, key=lambda row: -row["ms"])[:20]
    return {
        "step_ms": round(step, 3),
        "busy_ms": round(busy, 3),
        "share_not_busy": round(max(1 - busy / step, 0.0), 3),
        "share_of_best_rate": round(done / sum(seconds) / roofline.rate(device), 4),
        "kernels": round(sum(row["calls"] for row in rows)),
        "share_of_busy": {kind: round(ms / busy, 4) for kind, ms in by_kind.items()},
        "longest": [{**row, "ms": round(row["ms"], 4)} for row in longest],
    }


def kind_of(kernel: str) -> str:
    """The kind of a kernel (on a CPU: of an operation) by its name."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.I))


def precision(work: Work, asked: argparse.Namespace) -> dict[str, Any]:
    """The same trials in every precision: last training loss and accuracy on val, against fp32.

    A difference has two standard errors beside it; `rank_correlation` is Spearman's, of the
    trials' accuracies.
    """
    losses, accuracies, seconds = {}, {}, {}
    for name in PRECISIONS:
        trials = [_trial(work, number, name) for number in range(asked.trials)]
        began = time.perf_counter()
        rows = _results(_pool(work, trials, asked.trials))
        seconds[name] = round(time.perf_counter() - began, 1)
        losses[name] = np.array([rows[trial.key].curve[-1].loss for trial in trials])
        accuracies[name] = np.array([rows[trial.key].value or 0.0 for trial in trials])
    found = {}
    for name in PRECISIONS:
        found[name] = one = {
            "seconds": seconds[name],
            "loss": round(float(losses[name].mean()), 4),
            "accuracy": round(float(accuracies[name].mean()), 4),
            "loss_difference": _difference(losses[name], losses["fp32"]),
            "accuracy_difference": _difference(accuracies[name], accuracies["fp32"]),
            "rank_correlation": _rank_correlation(accuracies[name], accuracies["fp32"]),
        }
        print(name, json.dumps(one), flush=True)
    return {"trials": asked.trials, "precisions": found}


def widths(work: Work, asked: argparse.Namespace) -> dict[str, Any]:
    """By adapter: the width that a pool chooses, why (on a GPU also what compiled blocks bring),
    bytes per slot, and what it measured.
    """
    found = {}
    for name in asked.adapters:
        trial = replace(_trial(work, 0, asked.precision), adapter=name, params={})
        pool = _pool(work, [trial], None, compiled=work.device == "cuda")
        plan = pool.groups[0].plan
        found[name] = {
            "width": plan.width,
            "bound": plan.bound,
            "slot_mib": round(plan.slot / 2**20, 1),
            "measured": [
                {
                    "width": one.width,
                    "step_ms": round(1e3 * one.seconds, 2),
                    "memory_mib": round(one.memory / 2**20),
                    "images_per_second": round(one.throughput * work.recipe.batch),
                }
                for one in plan.measured
            ],
        }
        print(name, json.dumps(found[name]), flush=True)
        del pool
        if work.device == "cuda":
            torch.cuda.empty_cache()
    return {"adapters": found}


def side(work: Work, asked: argparse.Namespace) -> dict[str, Any]:
    """Side networks beside LoRA at the same width, without drop-path: trial-epochs per minute with
    their evaluations, from the second epoch on.
    """
    found: dict[str, Any] = {}
    for width in asked.widths:
        rates = {name: _rate(work, name, width, asked.precision) for name in SIDE}
        found[str(width)] = {
            name: {"per_minute": round(rate, 2), "times_lora": round(rate / rates["lora"], 2)}
            for name, rate in rates.items()
        }
        print(f"K = {width}:", json.dumps(found[str(width)]), flush=True)
    return {"widths": found}


def _rate(work: Work, adapter: str, width: int, precision: str) -> float:
    """Trial-epochs per minute of a full stack after its first epoch."""
    one = _trial(work, 0, precision)
    one = replace(one, adapter=adapter, params={}, recipe=replace(one.recipe, drop_path=0.0))
    trials = [replace(one, seed=seed) for seed in range(width)]
    pool, device = _pool(work, trials, width), torch.device(work.device)
    while pool.epoch(trials[0].key) < 1:
        pool.advance()
    roofline.synchronize(device)
    began = time.perf_counter()
    while len(pool):
        pool.advance()
    roofline.synchronize(device)
    epochs = width * (trials[0].recipe.epochs - 1)
    return 60 * epochs / (time.perf_counter() - began)


STAGES = {"profile": profile, "precision": precision, "widths": widths, "side": side}


def _trial(work: Work, number: int, precision: str) -> Trial:
    trial = work.trial(number)
    return replace(trial, recipe=replace(trial.recipe, precision=precision))


def _pool(work: Work, trials: Sequence[Trial], width: int | None, compiled: bool = False) -> Pool:
    backbone, device = load_backbone(work.backbone), torch.device(work.device)
    pool = Pool(backbone, device, width=width, compiled=compiled)
    for trial in trials:
        pool.add(trial, work.data)
    return pool


def _results(pool: Pool) -> dict[str, Any]:
    rows = {}
    while len(pool):
        for event in pool.advance():
            if isinstance(event, Ended):
                rows[event.result.key] = event.result
    return rows


def _difference(values: Any, base: Any) -> list[float]:
    """Mean difference and two standard errors."""
    differences = values - base
    error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else np.nan
    return [round(float(differences.mean()), 5), round(float(2 * error), 5)]


def _rank_correlation(one: Any, other: Any) -> float | None:
    """Spearman's, ties at their mean rank; None where all values of one side are equal."""
    ranks = [
        np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])
        for values in (one, other)
    ]
    if min(r.std() for r in ranks) == 0:
        return None
    return round(float(np.corrcoef(*ranks)[0, 1]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("stage", choices=tuple(STAGES))
    add("--backbone", default="vit_mini", help="vit_mini, or a timm ViT, DeiT or Swin")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--epochs", default=5, type=int)
    add("--batch", default=64, type=int)
    add("--precision", default=None, choices=PRECISIONS, help="default bf16, on a CPU fp32")
    add(
        "--widths",
        default=[1, 16],
        type=lambda v: [int(w) for w in v.split(",")],
        help="profile, side",
    )
    add("--trials", default=TRIALS, type=int, help="precision")
    add("--adapters", default=ADAPTERS, type=lambda v: v.split(","), help="widths")
    add("--out", type=Path, help="another file for the result")
    asked = parser.parse_args()
    asked.precision = asked.precision or ("bf16" if asked.device == "cuda" else "fp32")
    torch.set_float32_matmul_precision("high")
    memory.keep_freed()
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        plan = {name: getattr(asked, name) for name in ("backbone", "device", "epochs", "batch")}
        work = make_work(Path(folder), plan)
        result = {
            **facts(*PACKAGES),
            "command": shlex.join(["python", *sys.argv]),
            "backbone": asked.backbone,
            "device": accelerator(asked.device),
            "batch": asked.batch,
            "precision": asked.precision,
            **STAGES[asked.stage](work, asked),
        }
    name = f"{asked.stage}_{asked.backbone.partition('.')[0]}_{asked.device}.json"
    print(save(asked.out or Path(__file__).parent / "results" / name, result))


if __name__ == "__main__":
    main()
