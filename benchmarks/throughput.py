"""Trial-epochs per minute of four ways to run the same trials, in one run, in turn.

    python benchmarks/throughput.py                                    # vit_mini on the CPU
    python benchmarks/throughput.py --backbone vit_base_patch16_224 --device cuda

Writes benchmarks/results/throughput_<backbone>_<device>.json and prints the table; what the arms
are and how to read the figures is in benchmarks/README.md. Everything but the arm `stock` (Ray)
needs no more than torch, torchvision, timm, numpy, pyarrow and safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arms.figures import raw, summary, targets, text
from arms.launch import start
from arms.rounds import ARMS, Runs, calibrate, line_up, rounds
from machine import facts, save

LEAST_EPOCHS = 10
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pyarrow", "safetensors")


def main() -> None:
    parser = _parser()
    asked = parser.parse_args()
    least = 2 if asked.few else LEAST_EPOCHS  # the first is not of the steady state
    if asked.epochs < least:
        parser.error(f"--epochs {asked.epochs}: at least {least}; with --few at least 2.")
    deadline = time.time() + asked.seconds if asked.seconds else float("inf")
    with tempfile.TemporaryDirectory(prefix="throughput-") as place:
        result = _measure(asked, Path(place), deadline)
    print(text(result["arms"], result["targets"]))
    print(save(_path(asked), result))


def _measure(asked: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    made = _make(asked, folder)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # cold at first, then warm
    names, skipped = _possible(asked.arms)
    cores = len(os.sched_getaffinity(0))
    choice = calibrate(folder, asked.device, cores, [] if asked.quick else names)
    arms = line_up(names, asked.widths, choice, asked.device, cores, asked.compiled)
    result = {
        **facts(*PACKAGES),
        "command": shlex.join(["python", *sys.argv]),
        "backbone": asked.backbone,
        "device": asked.device,
        **made,
        "calibration": choice.figures,
        "skipped": skipped,
    }

    def keep(runs: Runs) -> None:
        """After every run: a command that is killed leaves what it has."""
        result["arms"] = summary(runs, made["work"], made["roofline"])
        result["targets"] = targets(result["arms"], asked.device)
        result["raw"] = {name: [raw(one) for one in own] for name, own in runs.items()}
        save(_path(asked), result)

    skipped |= rounds(arms, folder, asked.trials, asked.rounds, deadline, keep)
    return result


def _make(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Images and weights; what was made of them, and what the device can do."""
    plan = {name: getattr(asked, name) for name in ("backbone", "device", "epochs", "batch")}
    if start("arms.images", str(folder), json.dumps(plan)).wait():
        sys.exit(2)  # it has said why
    made = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("work", "roofline")
    }
    del made["work"]["folder"], made["work"]["backbone"]  # they name a temporary folder
    return made


def _possible(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arms that can run here, and why the others cannot."""
    if "stock" not in names or find_spec("ray") is not None:
        return names, {}
    print("stock: skipped, Ray is not installed", flush=True)
    return [name for name in names if name != "stock"], {"stock": "Ray is not installed"}


def _path(asked: argparse.Namespace) -> Path:
    if asked.out:
        return Path(asked.out)
    name = asked.backbone.partition(".")[0]
    return Path(__file__).parent / "results" / f"throughput_{name}_{asked.device}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--backbone", default="vit_mini", help="vit_mini, or a timm ViT, DeiT or Swin")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--arms", default=list(ARMS), type=_arm_names, help="default all four")
    add("--widths", default=[1, 2, 4, 8, 16, 32], type=_widths, help="of the pool")
    add("--compiled", action="store_true", help="every pool with compiled blocks too")
    add("--trials", default=6, type=_positive, help="of each arm at least; pools are filled")
    add("--epochs", default=LEAST_EPOCHS, type=_positive)
    add("--batch", default=64, type=_positive)
    add("--rounds", default=2, type=_positive)
    add("--seconds", default=0, type=int, help="roughly all the time there is; 0: no limit")
    add("--few", action="store_true", help=f"allow fewer than {LEAST_EPOCHS} epochs")
    add("--quick", action="store_true", help="no calibration: nothing compiled, autocast on a GPU")
    add("--out", help="another file for the result")
    return parser


def _arm_names(value: str) -> list[str]:
    names = value.split(",")
    if set(names) - set(ARMS):
        raise argparse.ArgumentTypeError(f"'{value}'; allowed: some of {','.join(ARMS)}")
    return names


def _widths(value: str) -> list[int]:
    return [_positive(word) for word in value.split(",")]


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"'{value}'; allowed: whole numbers from 1 on")
    return int(value)


if __name__ == "__main__":
    main()
