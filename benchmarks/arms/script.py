"""`script`: the recipe of the published scripts, written after their protocol.

A process per trial; a DataLoader with four workers decodes every image again in every epoch;
autocast; the whole test split is evaluated at every tenth epoch and at the end. In the scripts'
favour: no transfer of the loss to the host at every step, no progress bar, no checkpoints.
"""

from __future__ import annotations

import time
from typing import Any

from arms.files import Shuffled, accuracy, loader, train_epoch
from arms.work import Log, Work, set_rate

WORKERS, EVERY = 4, 10


def run(work: Work, trials: list[int], options: dict[str, Any], log: Log) -> None:
    """Options: `amp`, whether autocast is on."""
    for number in trials:
        _train(work, number, bool(options["amp"]), log)


def _train(work: Work, number: int, amp: bool, log: Log) -> None:
    trial = work.trial(number)
    model = work.model(trial)
    optimiser = work.optimiser(model, trial)
    order = Shuffled(work, trial)
    train, test = loader(work, "train", WORKERS, order), loader(work, "test", WORKERS)
    for epoch in range(trial.recipe.epochs):
        order.epoch = epoch
        set_rate(optimiser, trial, epoch)
        train_epoch(work, model, train, optimiser, amp, log)
        if (epoch + 1) % EVERY == 0 or epoch + 1 == trial.recipe.epochs:
            accuracy(work, model, test, amp)
        log.epochs()
    began = time.perf_counter()  # the scripts never look at val; the comparison of arms does
    found = accuracy(work, model, loader(work, "val", 0), amp)
    log.check(time.perf_counter() - began)
    log.trial(number, found)
