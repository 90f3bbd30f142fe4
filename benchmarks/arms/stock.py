"""`stock`: Ray Tune as its documentation shows it.

A training function, `tune.Tuner` with a grid search and default settings, one trial per device: a
GPU each, or one CPU each where there is none. The function reads files through a DataLoader and
reports validation accuracy after every epoch. In its favour: autocast as in `script`, one CPU's
trial decodes in its own process (its workers would only compete), and Ray does not ask for a
dashboard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arms.work import Log, Work
from orchestrator.backends import ray_settings


def run(work: Work, trials: list[int], options: dict[str, Any], log: Log) -> None:
    """Options: `amp`; `cores`, the CPUs that Ray may use; `log`, where the trials write theirs."""
    ray_settings.apply(None)
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False, num_cpus=options["cores"])
    space = {
        "folder": str(work.folder),
        "log": options["log"],
        "amp": options["amp"],
        "trial": tune.grid_search(trials),
    }
    trainable: Any = _train
    if work.device == "cuda":
        trainable = tune.with_resources(_train, {"cpu": 1, "gpu": 1})
    storage = tune.RunConfig(storage_path=str(work.folder / "tune"), verbose=0)
    results = tune.Tuner(trainable, param_space=space, run_config=storage).fit()
    ray.shutdown()
    if results.errors:
        raise results.errors[0]


def _train(config: dict[str, Any]) -> None:
    from ray import tune

    from arms.script import Shuffled, accuracy, loader, train_epoch
    from arms.work import set_rate

    work = Work.read(Path(config["folder"]))
    log = Log(Path(config["log"]), work.device)
    log.began()
    trial = work.trial(config["trial"])
    model = work.model(trial)
    optimiser = work.optimiser(model, trial)
    order, workers = Shuffled(work, trial), 4 if work.device == "cuda" else 0
    train, val = loader(work, "train", workers, order), loader(work, "val", workers)
    found = 0.0
    for epoch in range(trial.recipe.epochs):
        order.epoch = epoch
        set_rate(optimiser, trial, epoch)
        train_epoch(work, model, train, optimiser, config["amp"], log)
        found = accuracy(work, model, val, config["amp"])
        tune.report({"accuracy": found})
        log.epochs()
    log.trial(config["trial"], found)
