"""`pool`: one process per device keeps a number of trials in flight on one frozen backbone.

On a machine without a GPU there is a pool per core with one thread each, as on Ray. This is the
only file of the benchmark that knows the pool's interface.
"""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import torch

from arms.work import Log, Work
from orchestrator.backbones import load_backbone
from orchestrator.engine import memory
from orchestrator.engine.checkpoint import CheckpointStore
from orchestrator.engine.pool import Ended, Pool


def run(work: Work, trials: list[int], options: dict[str, Any], log: Log) -> None:
    """Options: `width`, trials in flight at once; `compiled`, their blocks."""
    torch.set_float32_matmul_precision("high")
    memory.keep_freed()  # as a pool's process does
    # A folder of its own: a later run would go on from the checkpoints of the same trials.
    keeping = CheckpointStore(Path(tempfile.mkdtemp(prefix="checkpoints-", dir=work.folder)))
    width: int = options["width"]
    backbone, device = load_backbone(work.backbone), torch.device(work.device)
    pool = Pool(backbone, device, keeping, width=width, compiled=options["compiled"])
    waiting = deque(trials)
    numbers: dict[str, int] = {}
    joined: dict[str, int] = {}  # key → steps of the pool before the trial joined
    step = 0
    while waiting or len(pool):
        while waiting and len(pool) < width:
            trial = work.trial(waiting[0])
            numbers[trial.key], joined[trial.key] = waiting.popleft(), step
            pool.add(trial, work.data)
        ended = [event for event in pool.advance() if isinstance(event, Ended)]
        step += 1
        log.stepped()
        over = sum((step - first) % work.steps == 0 for first in joined.values())
        if over:
            log.epochs(over)
        if options["compiled"] and any(group.uncompiled for group in pool.groups):
            raise RuntimeError(f"not compiled: {pool.groups[0].uncompiled}")  # never a false figure
        for event in ended:
            del joined[event.result.key]
            log.trial(numbers[event.result.key], event.result.value)
