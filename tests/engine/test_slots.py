"""Slots: who waits, who is admitted, and what happens where memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.engine import group as group_module
from orchestrator.engine.group import Group
from orchestrator.engine.optimiser import StackedAdamW
from orchestrator.engine.pool import AtRung, Ended
from orchestrator.errors import BackendError
from orchestrator.spec import Trial
from tests.engine.worlds import (
    CPU,
    Watched,
    WatchedPool,
    assert_same,
    backbone,
    final_data,
    run,
    search_data,
    trial,
)  # fmt: skip

DATA = search_data()
OTHER = search_data("other", 7, 33)
TRIALS = [
    trial("mlp_head", {"hidden": 1, "dropout": 0.2}, 1),
    trial("efft2", {"rank": 2, "scale": 0.1, "dropout": 0.3}, 2, drop_path=0.3),
    trial("efft2", {"rank": 4, "dropout": 0.1}, 3, task="other", lr=1e-3),
    trial("efft2", {"rank": 3, "init": "uu"}, 4, epochs=4, warmup_epochs=2),
    trial("efft2", {"rank": 1}, 5, task="other", weight_decay=0.1, augment="none"),
]


def data_of(one: Trial) -> Any:
    return DATA if one.task == "grey" else OTHER


def watched(pool: WatchedPool) -> Watched:
    while len(pool):
        for event in pool.advance():
            if isinstance(event, AtRung):
                pool.seen.rungs.append(event)
                pool.proceed(event.key)
            else:
                pool.seen.results[event.result.key] = event.result
    return pool.seen


def filled(width: int, pauses: tuple[int, ...] = ()) -> WatchedPool:
    pool = WatchedPool(backbone(), CPU, width=width)
    for one in TRIALS:
        pool.add(one, data_of(one), pauses)
    return pool


@pytest.fixture(scope="module")
def alone() -> dict[str, Watched]:
    """Each of `TRIALS` trained by itself."""
    return {one.key: run([(one, data_of(one))]) for one in TRIALS}


@pytest.mark.parametrize(("width", "pauses"), [(1, (1, 2)), (2, ()), (3, (1, 2))])
def test_whatever_the_width_every_trial_is_the_same(
    width: int, pauses: tuple[int, ...], alone: dict[str, Watched]
) -> None:
    pool = filled(width, pauses)
    seen = watched(pool)
    for one in TRIALS:
        assert_same(seen, alone[one.key], one.key)
    assert len(seen.rungs) == len(pauses) * len(TRIALS)


def test_no_more_than_the_width_run_and_a_free_slot_is_taken_at_once() -> None:
    trials = [trial(seed=seed, epochs=1 + seed, warmup_epochs=0) for seed in range(4)]
    pool = WatchedPool(backbone(), CPU, width=2)
    for one in trials:
        pool.add(one, DATA)
    (group,) = pool.groups
    assert pool.running == 4
    running = []
    while len(pool):
        pool.advance()
        running.append(len(group.trainings))
    # Epochs have 5 steps. One slot has those of 1 + 3 epochs, the other those of 2 + 4.
    assert group.work.steps == (2 + 4) * 5
    assert max(running) == 2
    assert group.work.trained == 10 * 40


def test_who_comes_from_a_rung_goes_before_those_who_never_ran() -> None:
    pool = WatchedPool(backbone(), CPU, width=1)
    first, second = trial(seed=1), trial(seed=2)
    pool.add(first, DATA, (1,))
    pool.add(second, DATA, (1,))
    order = []
    while len(pool):
        for event in pool.advance():
            if isinstance(event, AtRung):
                order.append((event.key, event.epoch))
                pool.proceed(event.key)
            else:
                order.append((event.result.key, event.result.epochs_run))
    assert order == [(first.key, 1), (first.key, 3), (second.key, 1), (second.key, 3)]


def test_the_others_run_while_one_waits_for_its_answer() -> None:
    pool = WatchedPool(backbone(), CPU, width=1)
    one, other = trial(seed=1), trial(seed=2)
    pool.add(one, DATA, (1,))
    pool.add(other, DATA)
    ended = []
    for _ in range(20):
        ended += [event.result.key for event in pool.advance() if isinstance(event, Ended)]
    assert ended == [other.key]
    assert pool.at_rung(one.key) is not None


class Scarce:
    """Memory that lasts for so many trials in a step, at a place of it."""

    def __init__(self, place: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self.refused = most, 0
        owner, name = {
            "forward": (Group, "_losses"),
            "backward": (group_module.torch.autograd, "backward"),  # type: ignore[attr-defined]
            "optimiser": (StackedAdamW, "_column"),
            "stacking": (StackedAdamW, "restore"),
        }[place]
        original = getattr(owner, name)
        attempt = Group._attempt

        def noting(group: Group) -> bool:
            self.trials = len(group.trainings)
            return attempt(group)

        def scarce(*arguments: Any) -> Any:
            if self.trials > self.most:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
            return original(*arguments)

        monkeypatch.setattr(Group, "_attempt", noting)
        monkeypatch.setattr(owner, name, scarce)


@pytest.mark.parametrize(
    ("place", "most"), [("forward", 1), ("backward", 2), ("optimiser", 2), ("stacking", 1)]
)
def test_memory_that_runs_out_halves_the_width_and_nothing_is_lost(
    place: str, most: int, alone: dict[str, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = filled(4)
    for _ in range(7):  # all run; memory gets scarce in the middle of the second epoch
        pool.advance()
    scarce = Scarce(place, most, monkeypatch)
    if place == "stacking":  # a trial that joins makes the stack anew
        late = trial("efft2", {"rank": 5}, 9)
        pool.groups[1].width = 5
        pool.add(late, DATA)
    seen = watched(pool)
    assert scarce.refused > 0
    group = pool.groups[1]
    assert group.work.halved > 0
    assert group.width <= 2
    for one in TRIALS:
        assert_same(seen, alone[one.key], one.key)


def test_running_statistics_do_not_see_a_step_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial("mlp_head", {"hidden": 1}, seed) for seed in (1, 2)]
    pool = WatchedPool(backbone(), CPU, width=2)
    for one in trials:
        pool.add(one, DATA)
    pool.advance()
    Scarce("backward", 1, monkeypatch)
    seen = watched(pool)
    for one in trials:
        assert_same(seen, run([(one, DATA)]), one.key)


def test_one_trial_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce("forward", 0, monkeypatch)
    with pytest.raises(BackendError, match=r"cpu does not hold one trial of lora .*--set batch=N"):
        run([(trial("lora"), DATA)])


def test_other_errors_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(Group, "_losses", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        run([(trial(), DATA)])


def test_an_evaluation_without_memory_reads_fewer_images_at_once(
    alone: dict[str, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = group_module.Evaluator._logits

    def scarce(self: Any, split: Any, size: int) -> Any:
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, split, size)

    monkeypatch.setattr(group_module.Evaluator, "_logits", scarce)
    one = TRIALS[1]
    seen = run([(one, DATA)])
    assert sizes[:8] == [256, 128, 64, 32, 16, 8, 4, 2]
    assert_same(seen, alone[one.key], one.key)


def test_a_trial_that_waits_for_a_slot_resumes(tmp_path: Path, alone: dict[str, Watched]) -> None:
    """Checkpoints are of those that ran; one that never ran starts anew."""
    pairs = [(one, data_of(one)) for one in TRIALS[1:]]
    interrupted = run(pairs, checkpoints=tmp_path, stop_after=9)
    assert not interrupted.results
    seen = run(pairs, checkpoints=tmp_path)
    for one, _ in pairs:
        assert_same(seen, alone[one.key], one.key)


def test_groups_of_one_trial_end_with_it() -> None:
    pool = WatchedPool(backbone(), CPU)
    for seed in (1, 2):
        pool.add(trial("full", {}, seed, stage="final", epochs=1, warmup_epochs=0), final_data())
    assert len(pool.groups) == 2
    watched(pool)
    assert (pool.groups, pool.work.trained) == ((), 2 * 64)
