"""What the whole sweep machinery costs per trial, against bare Ray Tune.

    python benchmarks/bookkeeping.py       # prints, and writes benchmarks/results/bookkeeping.json

The same number of trials that train nothing, equally many in flight, two arms in turn, `REPEATS`
times, each in a process and on a local cluster of its own; the median ratio counts:

`tune`   a class Trainable whose step is `done`, `reuse_actors=True`, no callbacks that write
`ours`   a sweep: search, suggestions on disk, directory, pool, ledger fragments, and MLflow written
         by the tracking process meanwhile; only the pool's training is replaced (see `no_op`)

`command_cpu` is the processor time of the command's own process, in which Tune's loop runs.
`run` goes from before Ray's start to the last trial told and Ray's end; `between` is the time from
the first trial's end to the last one's, per trial. After it, and timed apart: how long MLflow
takes to have the rest, and the final summary.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import facts, write

CONFIGURATIONS, REPLICATED, SEEDS = 16, 2, 3
PER_STUDY = CONFIGURATIONS + (REPLICATED + 1) * SEEDS
ADAPTERS = ("efft2", "hta", "arc", "rlrr", "bitfit", "mlp_head", "vpt_deep", "efft1")
REPEATS = 3
Figures = dict[str, float]


def tune_arm(trials: int, width: int, out: Path) -> Figures:
    """Bare Tune, with the settings of the sweep."""
    from orchestrator.backends import ray_settings

    ray_settings.apply(None)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(width)
    import ray
    from ray import tune
    from ray.tune.execution.placement_groups import PlacementGroupFactory

    class NoOp(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None: ...

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"value": 0.5, "done": True}

    ends: list[float] = []

    class Clock(tune.Callback):
        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    began, busy = time.time(), time.process_time()
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    share = {"CPU": int(len(os.sched_getaffinity(0)) / width * 1e4) / 1e4}
    tune.Tuner(
        tune.with_resources(NoOp, PlacementGroupFactory([share])),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(out / "tune"),
            verbose=0,
            callbacks=[Clock()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    ray.shutdown()
    shutil.rmtree(out / "tune")
    return {
        "run": time.time() - began,
        "between_ms": _between(ends),
        "command_cpu": time.process_time() - busy,
        "trials": len(ends),
    }


def our_arm(trials: int, width: int, out: Path) -> Figures:
    """A sweep of VTAB-1k's tasks; its steps are those of `orchestrator.sweep.run`."""
    from orchestrator.backends import ray_settings

    ray_settings.apply(None)
    from no_op import install

    from orchestrator.analysis.aggregate import summarise
    from orchestrator.backends import ray as backend
    from orchestrator.backends.plan import HostPlan
    from orchestrator.results.ledger import Ledger
    from orchestrator.search import Search, SuggestionStore
    from orchestrator.storage.folder_lock import FolderLock
    from orchestrator.storage.sweep_paths import SweepPaths
    from orchestrator.tracking.locations import default_uri
    from orchestrator.tracking.process import TrackingProcess

    install()
    paths = SweepPaths(out)
    suite, sweep, studies = planned(trials, paths)
    with FolderLock(out) as lease:
        search = Search(sweep, studies, SuggestionStore(paths.asks), Ledger(paths.ledger).results())
        tracking = TrackingProcess(out, default_uri(out), lease.token).start()
        plan = HostPlan(out, out, suite, sweep.backbone, "w" * 64, sweep.stopping, lease.token)
        began, busy = time.time(), time.process_time()
        backend.run(search, plan, backend.Cluster(None, "cpu", _slots(width)))
        trained, busy = time.time(), time.process_time() - busy
        outcome = tracking.finish(timeout=600.0)
        drained = time.time()
    assert outcome.complete, outcome.message
    started = time.time()
    results = Ledger(paths.ledger).results()
    summary = summarise(results, sweep, suite)
    summarised = time.time() - started
    assert summary.run.trials == len(results), "every result belongs to the sweep"
    return {
        "run": trained - began,
        "between_ms": _between(_recorded(paths)),
        "command_cpu": busy,
        "trials": len(results),
        "drain": drained - trained,
        "summary": summarised,
    }


def planned(trials: int, paths: Any) -> tuple[Any, Any, Any]:
    """Suite, sweep and studies of at least so many trials; `sweep.json` is written."""
    from orchestrator.planning.config import SweepConfig
    from orchestrator.planning.resolve import plan_studies, plan_sweep
    from orchestrator.planning.sweep_file import SweepFile
    from orchestrator.spec import DataIdentity
    from orchestrator.tasks import suite as suite_of

    studies = math.ceil(trials / PER_STUDY)
    adapters = ADAPTERS[: math.ceil(studies / 10)]
    names = [task.name for task in suite_of("vtab").tasks][: math.ceil(studies / len(adapters))]
    config = SweepConfig(
        suite="vtab",
        adapter=adapters,
        tasks=tuple(names),
        sampler="random",
        stopping="none",
        trials=CONFIGURATIONS,
        replicate=REPLICATED,
        seeds=SEEDS,
    )
    suite, sweep = plan_sweep(config)
    data = {name: DataIdentity("s" * 64, "t" * 64) for name in sweep.tasks}
    counts = {name: {"train": 800, "val": 200, "test": 200} for name in sweep.tasks}
    SweepFile.new(sweep, suite, counts, data, "w" * 64, "bookkeeping").write(paths)
    return suite, sweep, plan_studies(sweep, data, "w" * 64)


def _slots(in_flight: int) -> int:
    """Of each pool, so that so many trials are in flight, those that wait in the pools included."""
    from orchestrator.backends.plan import spare
    from orchestrator.backends.ray.cluster import cpu_pools

    pools = cpu_pools(len(os.sched_getaffinity(0)))
    fitting = [n for n in range(1, in_flight + 1) if pools * (n + spare(n)) <= in_flight]
    return max(fitting, default=1)


def _recorded(paths: Any) -> list[float]:
    lines = [line.split() for line in paths.trial_log.read_text().splitlines()]
    return sorted(float(when) for when, event, *_ in lines if event == "recorded")


def _between(ends: list[float]) -> float:
    return 1000 * (max(ends) - min(ends)) / (len(ends) - 1)


def measured(arm: str, trials: int, width: int) -> Figures:
    """One arm in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--arm", arm, "--out", out]
        command += ["--trials", str(trials), "--width", str(width)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    print(arm, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--width", type=int, default=4, help="trials in flight")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--arm", choices=("tune", "ours"), help="one arm here, for `--out`")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.arm:
        arm = tune_arm if arguments.arm == "tune" else our_arm
        print(json.dumps(arm(arguments.trials, arguments.width, arguments.out)))
        return
    rounds = []
    for _ in range(arguments.repeats):
        ours = measured("ours", arguments.trials, arguments.width)
        rounds.append((measured("tune", int(ours["trials"]), arguments.width), ours))
    result = {
        **facts("ray", "mlflow", "optuna", "pyarrow"),
        "trials": rounds[0][1]["trials"],
        "in_flight": arguments.width,
        "ratio_of_run": _ratio(rounds, "run"),
        "ratio_between": _ratio(rounds, "between_ms"),
        "ratio_of_command_cpu": _ratio(rounds, "command_cpu"),
        "seconds_until_tracking_is_drained": _median(rounds, "drain"),
        "seconds_of_the_summary": _median(rounds, "summary"),
        "rounds": [{"tune": tune, "ours": ours} for tune, ours in rounds],
    }
    print({name: value for name, value in result.items() if name != "rounds"})
    print(write("bookkeeping", result))


def _ratio(rounds: list[tuple[Figures, Figures]], name: str) -> float:
    return round(statistics.median(ours[name] / tune[name] for tune, ours in rounds), 3)


def _median(rounds: list[tuple[Figures, Figures]], name: str) -> float:
    return round(statistics.median(ours[name] for _, ours in rounds), 2)


if __name__ == "__main__":
    main()
