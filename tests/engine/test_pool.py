"""Rungs, the test firewall, joining and leaving, precision."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters import LoRA, attach
from orchestrator.data.splits import EncodedSplit, FinalData, Part, SearchData, Split
from orchestrator.engine import group as group_module
from orchestrator.engine import input as engine_input
from orchestrator.engine.evaluation import Evaluation, Evaluator
from orchestrator.engine.group import Group
from orchestrator.engine.input import (
    AnySplit,
    DeviceSplit,
    Normaliser,
    augmented_view,
    epoch_order,
)
from orchestrator.engine.pool import AtRung, Pool
from orchestrator.engine.training import Training
from orchestrator.engine.views import View, centre
from orchestrator.errors import DataError
from orchestrator.spec import Trial
from tests.engine.worlds import (
    CPU,
    TEST,
    VAL,
    WatchedPool,
    assert_same,
    backbone,
    encoded,
    final_data,
    run,
    search_data,
    trial,
)  # fmt: skip

DATA = search_data()
LONG = {"epochs": 4, "warmup_epochs": 1}


def test_a_paused_trial_continues_as_if_it_had_not_paused() -> None:
    trials = [
        trial("efft2", {"rank": 3, "dropout": 0.2}, seed, drop_path=0.2, **LONG) for seed in (1, 2)
    ]
    pairs = [(one, DATA) for one in trials]
    through = run(pairs)
    paused = run(pairs, pauses=(1, 3), answer_after=7)
    assert sorted((r.key, r.epoch) for r in paused.rungs) == sorted(
        (one.key, epoch) for one in trials for epoch in (1, 3)
    )
    for one in trials:
        assert_same(paused, through, one.key)
        points = {point.epoch: point.eval_accuracy for point in paused.results[one.key].curve}
        assert all(r.value == points[r.epoch] for r in paused.rungs if r.key == one.key)


def test_a_stopped_trials_record_is_the_rungs_and_others_go_on() -> None:
    stopped, other = trial(seed=1, **LONG), trial(seed=2, **LONG)
    through = run([(stopped, DATA), (other, DATA)])
    seen = run(
        [(stopped, DATA), (other, DATA)],
        pauses=(2,),
        decide=lambda rung: rung.key != stopped.key,
        answer_after=3,
    )
    assert_same(seen, through, other.key)
    result, point = seen.results[stopped.key], through.results[stopped.key].curve[1]
    assert (result.status, result.epochs_run, len(result.curve)) == ("stopped", 2, 2)
    assert result.value == point.eval_accuracy
    assert result.eval_loss == pytest.approx(point.eval_loss, abs=1e-5)
    assert sum(result.correct) / len(result.correct) == result.value


def test_a_waiting_trial_takes_no_steps() -> None:
    pool = Pool(backbone(), CPU)
    one = trial(**LONG)
    pool.add(one, DATA, (1,))
    assert (len(pool), pool.running) == (1, 1)
    events = [event for _ in range(5) for event in pool.advance()]
    assert [type(event) for event in events] == [AtRung]
    assert (len(pool), pool.running, one.key in pool) == (1, 0, True)
    assert [pool.advance() for _ in range(20)] == [[]] * 20
    pool.proceed(one.key)
    assert (pool.running, pool.at_rung(one.key)) == (1, None)
    while one.key in pool:
        pool.advance()
    assert len(pool) == 0


def test_a_final_trial_reads_test_once_at_its_end() -> None:
    data = final_data()
    reads: list[int] = []
    original = Evaluator.evaluate

    def counting(self: Evaluator, split: AnySplit, *rest: Any) -> list[Evaluation]:
        reads.append(len(split))
        return original(self, split, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", counting)
        one = trial("lora", {"rank": 2}, 1, stage="final", **LONG)
        seen = run([(one, data)], pauses=(1, 2))
    result = seen.results[one.key]
    assert reads == [TEST]
    assert (result.test_reads, result.status, len(result.correct)) == (1, "finished", TEST)
    assert [point.eval_accuracy is not None for point in result.curve] == [False] * 3 + [True]
    assert seen.rungs == []
    kept = seen.kept[one.key]
    assert kept.keys() == seen.tensors[one.key].keys()
    assert kept["head.weight"].shape == (4, 32)
    assert all(tensor.device == CPU for tensor in kept.values())


@pytest.mark.parametrize("stage", ["search", "replicate"])
def test_other_stages_evaluate_every_epoch_on_val(stage: str) -> None:
    assert not hasattr(DATA, "test")
    one = trial(stage=stage)
    seen = run([(one, DATA)])
    result = seen.results[one.key]
    assert (result.test_reads, len(result.correct), seen.kept) == (0, VAL, {})
    assert all(point.eval_accuracy is not None for point in result.curve)


@pytest.mark.parametrize(("every", "evaluated"), [(0, [1, 5]), (2, [1, 2, 4, 5]), (9, [1, 5])])
def test_val_is_read_at_rungs_and_the_end_and_else_as_the_recipe_says(
    every: int, evaluated: list[int]
) -> None:
    one = trial(epochs=5)
    often = run([(one, DATA)], pauses=(1,))
    seldom = run([(trial(epochs=5, evaluate_every=every), DATA)], pauses=(1,))
    assert seldom.rungs == often.rungs
    found, expected = seldom.results[one.key], often.results[one.key]
    assert [p.epoch for p in found.curve if p.eval_accuracy is not None] == evaluated
    assert [p.loss for p in found.curve] == [p.loss for p in expected.curve]
    assert (found.value, found.correct) == (expected.value, expected.correct)


def test_search_cannot_be_given_a_test_split() -> None:
    pool = Pool(backbone(), CPU)
    for one in (trial(), trial(stage="replicate")):
        with pytest.raises(ValueError, match="under 'honest' do not read FinalData"):
            pool.add(one, final_data())
    for one in (trial(stage="final"), trial(protocol="paper")):
        with pytest.raises(ValueError, match="do not read SearchData"):
            pool.add(one, DATA)
    assert len(pool) == 0


def _small_chunks(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """So many images times trials in an evaluation's forward pass."""
    original = Evaluator.__init__

    def small(self: Evaluator, *args: Any) -> None:
        original(self, *args[:-1], budget)

    monkeypatch.setattr(Evaluator, "__init__", small)


@pytest.mark.parametrize(("adapter", "view"), [("lora", "centre"), ("linear", "whole")])
def test_an_encoded_test_split_is_evaluated_as_its_pixels(
    adapter: str, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_input, "_READ", 8)
    _small_chunks(monkeypatch, 8)
    data = final_data()
    pixels = replace(data.test, view=view, sizes=np.full((TEST, 2), 32, np.int32))
    assert isinstance(pixels, Split)
    trials = [trial(adapter, {}, seed, stage="final", lr=1e-2) for seed in (1, 2)]
    seen = [
        run([(one, replace(data, test=test)) for one in trials])
        for test in (pixels, encoded(pixels))
    ]
    for one in trials:
        assert_same(*seen, one.key, to=1e-6)
        assert len(set(seen[0].results[one.key].correct)) == 2


def test_the_logits_of_replicates_and_finals_are_kept_in_company_as_alone() -> None:
    """Two tasks of different numbers of classes share a stack; not all trials end together."""
    other, data = search_data("hues", classes=7), final_data()
    kept: list[tuple[Trial, SearchData | FinalData]] = [
        (trial(stage="replicate", seed=1), DATA),
        (trial(stage="replicate", seed=2, task="hues"), other),
        (trial(stage="final", seed=1, epochs=4), data),
        (trial(stage="final", seed=2), replace(data, test=encoded(data.test))),  # type: ignore[arg-type]
    ]
    paper = trial(stage="final", seed=3, protocol="paper")
    diverges = trial(stage="replicate", seed=6, lr=900.0, weight_decay=900.0)
    rest = [(trial(seed=5), DATA), (diverges, DATA)]
    seen = run([*kept, *rest, (paper, data)], pauses=(2,))
    assert seen.results[diverges.key].status == "diverged"
    assert seen.logits.keys() == {one.key for one, _ in kept}
    for one, own in kept:
        logits, labels = seen.logits[one.key]
        split = own.test if isinstance(own, FinalData) else own.val
        assert (logits.dtype, logits.shape) == (torch.float16, (len(split), own.task.classes))
        assert labels.tolist() == split.labels.tolist()
        assert torch.equal(logits.amax(-1), torch.zeros(len(split), dtype=torch.float16))
        right, row = logits.argmax(-1) == labels, seen.results[one.key]
        assert bytes(right.to(torch.uint8).tolist()) == row.correct
        loss = torch.nn.functional.cross_entropy(logits.float(), labels).item()
        assert loss == pytest.approx(row.eval_loss, abs=1e-3)
        alone = run([(one, own)]).logits[one.key][0]
        torch.testing.assert_close(logits, alone, atol=2e-3, rtol=0)


def test_a_streamed_test_split_is_decoded_once_for_all_trials_and_the_wait_is_counted() -> None:
    data, parts = final_data(), []
    original = EncodedSplit.part

    def counting(self: EncodedSplit, start: int, stop: int) -> Part:
        parts.append(start)
        time.sleep(0.1)
        return original(self, start, stop)

    data = replace(data, test=encoded(data.test))  # type: ignore[arg-type]  # pixels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncodedSplit, "part", counting)
        pool = WatchedPool(backbone(), CPU)
        for seed in (1, 2, 3):
            pool.add(trial(stage="final", seed=seed), data)
        while len(pool):
            pool.advance()
    assert parts == [0]
    assert 0.1 < pool.work.waited < 2
    assert len(pool._splits) == 0


def _views(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, View]]:
    """Of every training step and every evaluation: number of images, and what is seen of them."""
    seen: list[tuple[int, View]] = []
    original = Normaliser.__call__

    def noting(self: Normaliser, images: Tensor, view: View) -> Tensor:
        seen.append((len(images), view))
        return original(self, images, view)

    monkeypatch.setattr(Normaliser, "__call__", noting)
    return seen


def test_training_reads_drawn_crops_and_evaluation_its_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, data = _views(monkeypatch), search_data(view="centre")
    one, two = (trial(seed=seed, epochs=1, warmup_epochs=0, augment="crop_flip") for seed in (1, 2))
    run([(one, data), (two, data)])
    assert [count for count, _ in seen] == [16] * 5 + [VAL]
    held = DeviceSplit.of([data.train], CPU)
    for step, (_, (boxes, flips)) in enumerate(seen[:5]):
        assert boxes is not None
        assert flips is not None
        for index, some in enumerate((one, two)):
            order = epoch_order(len(data.train), some.seed, 0, CPU)[8 * step : 8 * step + 8]
            draw = torch.tensor([[some.seed], [step]])
            expected = augmented_view(held.sizes[order], *draw)
            own = slice(8 * index, 8 * index + 8)
            assert torch.equal(boxes[own], expected.boxes)  # type: ignore[arg-type]  # a tensor
            assert torch.equal(flips[own], expected.flips)  # type: ignore[arg-type]
    boxes, flips = seen[5][1]
    assert boxes is not None
    assert torch.equal(boxes, centre(torch.from_numpy(data.val.sizes.copy())))
    assert flips is None


def test_cropped_trials_do_not_make_others_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _views(monkeypatch)
    run([(trial(seed=1, augment="crop_flip"), DATA), (trial(seed=2), DATA)])
    assert {(count, view.boxes is None) for count, view in seen} == {
        (8, True), (8, False), (VAL, True),
    }  # fmt: skip


def test_final_training_on_two_splits_equals_training_on_both_as_one() -> None:
    data, one = final_data(), trial(stage="final", augment="crop_flip", drop_path=0.2)
    joined = Split(
        *(
            np.concatenate([getattr(part, name) for part in data.train])
            for name in ("images", "labels", "sizes")
        ),
        "joined",
    )
    seen = [run([(one, replace(data, train=train))]) for train in (data.train, (joined,))]
    assert_same(*seen, one.key, to=0)
    assert not np.isclose(
        seen[0].results[one.key].curve[0].loss,
        run([(one, replace(data, train=data.train[:1]))]).results[one.key].curve[0].loss,
        atol=1e-4,
    )


PAPER = {"protocol": "paper", "lr": 0.03}


@pytest.mark.parametrize(
    ("stage", "epochs", "read"),
    [("search", 3, [3]), ("replicate", 20, [10, 20]), ("final", 23, [10, 20, 23])],
)  # fmt: skip
def test_a_paper_trial_reads_test_every_tenth_epoch_and_at_its_end(
    stage: str, epochs: int, read: list[int]
) -> None:
    one = trial("linear", stage=stage, epochs=epochs, **PAPER)
    seen = run([(one, final_data())], pauses=(1, 10))
    result = seen.results[one.key]
    assert [p.epoch for p in result.curve if p.eval_accuracy is not None] == read
    assert (result.test_reads, result.epochs_run, seen.rungs) == (len(read), epochs, [])
    assert (one.key in seen.kept) == (stage == "final")


def _evaluations(monkeypatch: pytest.MonkeyPatch, found: list[Evaluation]) -> None:
    coming = iter(found)

    def scripted(self: Group, trainings: list[Training]) -> dict[str, Evaluation]:
        return {training.key: next(coming) for training in trainings}

    monkeypatch.setattr(Group, "evaluate", scripted)


@pytest.mark.parametrize(("protocol", "counted"), [("paper", 1), ("honest", 3)])
def test_what_counts_is_the_first_best_of_paper_and_the_last_of_honest(
    protocol: str, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Evaluation(loss, accuracy, bytes([index]))
        for index, (loss, accuracy) in enumerate([(0.1, 0.4), (3.0, 0.7), (0.2, 0.7), (0.3, 0.6)])
    ]
    _evaluations(monkeypatch, found)
    if protocol == "paper":
        pair = trial("linear", epochs=31, protocol="paper"), final_data()
    else:
        pair = trial("linear", epochs=4), DATA  # type: ignore[assignment]
    result = run([pair]).results[pair[0].key]
    expected = found[counted]
    assert (result.value, result.eval_loss) == (expected.accuracy, expected.loss)
    assert result.correct == expected.correct
    assert [p.eval_accuracy for p in result.curve if p.eval_loss] == [0.4, 0.7, 0.7, 0.6]


def test_a_diverged_paper_trial_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    _evaluations(monkeypatch, [Evaluation(0.1, 0.9, b"1"), Evaluation(float("nan"), 0.1, b"0")])
    one = trial("linear", epochs=30, protocol="paper")
    result = run([(one, final_data())]).results[one.key]
    assert (result.status, result.value, result.eval_loss) == ("diverged", None, None)
    assert (result.correct, result.test_reads, result.epochs_run) == (b"", 2, 20)


def test_paper_trials_share_a_stack_with_honest_ones() -> None:
    pairs = [
        (trial("lora", {}, 1, epochs=11, protocol="paper"), final_data()),
        (trial("lora", {}, 2, stage="final", epochs=2), final_data()),
        (trial("lora", {}, 3), DATA),
    ]
    together = run(pairs)
    for one, data in pairs:
        assert_same(together, run([(one, data)]), one.key)
    assert [together.results[one.key].test_reads for one, _ in pairs] == [2, 1, 0]


def test_a_test_split_is_not_kept_on_the_device() -> None:
    pool = WatchedPool(backbone(), CPU)
    data = final_data()
    for seed in (1, 2):
        pool.add(trial(stage="final", seed=seed, epochs=seed, warmup_epochs=0), data)
    held = []
    while len(pool):
        pool.advance()
        held.append((len(pool), len(pool._splits)))
    assert (1, 2) in held  # the other trial still needs them
    assert held[-1] == (0, 0)


def test_values_agree_with_one_another() -> None:
    one = trial("lora", lr=1e-2, epochs=6)
    result = run([(one, DATA)]).results[one.key]
    assert set(result.correct) <= {0, 1}
    assert sum(result.correct) / VAL == result.value == result.curve[-1].eval_accuracy
    assert result.eval_loss == result.curve[-1].eval_loss
    assert result.curve[-1].loss < result.curve[0].loss
    assert result.value > 0.5  # shades of grey are easy
    assert result.seconds > 0
    assert result.started <= result.finished
    assert result.parameters == 2 * 2 * 2 * 32 * 8


def test_the_last_incomplete_batch_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []
    original = group_module.take

    def noting(splits: list[DeviceSplit], indices: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        taken.append(indices[0].tolist())
        return original(splits, indices)

    monkeypatch.setattr(group_module, "take", noting)
    run([(trial(epochs=2), DATA)])
    assert [len(batch) for batch in taken] == [8] * 10
    first, second = ([i for batch in taken[s : s + 5] for i in batch] for s in (0, 5))
    assert len(set(first)) == len(set(second)) == 40
    assert first != second


def test_flips_are_of_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images are mirrored as by crop_flip, but nothing is cropped."""
    seen = _views(monkeypatch)
    for augment in ("crop_flip", "flip"):
        run([(trial(epochs=1, warmup_epochs=0, augment=augment), search_data())])
    (_, (boxes, flips)), (_, (whole, same)) = seen[0], seen[len(seen) // 2]
    assert boxes is not None
    assert whole is None
    assert flips is not None
    assert torch.equal(flips, same)  # type: ignore[arg-type]  # a tensor
    assert flips.any()


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"batch 64 is larger .* task 'grey'; use --set batch=44"):
        Pool(backbone(), CPU).add(trial(batch=64), DATA)
    whole = trial(batch=44)
    assert run([(whole, DATA)]).results[whole.key].status == "finished"


@pytest.mark.parametrize("precision", ["bf16", "amp", "fp8"])
@pytest.mark.parametrize("adapter", ["efft2", "linear"])
def test_lower_precisions_run_and_stay_finite(adapter: str, precision: str) -> None:
    pairs = [
        (trial(adapter, {}, seed, precision=precision, drop_path=0.1 * seed), DATA)
        for seed in (0, 1)
    ]
    seen = run(pairs)
    for one, _ in pairs:
        assert seen.results[one.key].status == "finished"
        assert all(np.isfinite(point.loss) for point in seen.results[one.key].curve)
        assert all(t.dtype == torch.float32 for t in seen.tensors[one.key].values())
        full = replace(one, recipe=one.recipe.with_values({"precision": "fp32"}))
        expected = run([(full, DATA)]).results[full.key].curve[-1].loss
        assert seen.results[one.key].curve[-1].loss == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("adapter", ["lora", "linear"])
def test_evaluation_does_not_depend_on_the_chunks(
    adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [trial(adapter, {}, seed) for seed in (1, 2)]
    expected = run([(one, DATA) for one in trials])

    _small_chunks(monkeypatch, 6)
    found = run([(one, DATA) for one in trials])
    for one in trials:
        assert_same(found, expected, one.key)


def test_different_recipes_run_side_by_side() -> None:
    """Batch sizes and adapter families differ, so these are groups of their own in one pool."""
    trials = [trial("lora"), trial("hta"), trial("lora", batch=16), trial("linear")]
    together = run([(one, DATA) for one in trials])
    for one in trials:
        assert_same(together, run([(one, DATA)]), one.key)


def test_the_backbone_is_left_alone() -> None:
    bone = backbone()
    before = {name: tensor.clone() for name, tensor in bone.model.state_dict().items()}
    run([(trial("lora"), DATA), (trial("hta"), DATA)], bone=bone)
    assert all(torch.equal(before[n], t) for n, t in bone.model.state_dict().items())
    attach(bone.model, LoRA())  # and free to be used


def test_rates_in_the_curve_are_the_schedules() -> None:
    one = trial(epochs=3, warmup_epochs=1, warmup_lr=1e-4, lr=1e-3, min_lr=0.0)
    curve = run([(one, DATA)]).results[one.key].curve
    assert [point.lr for point in curve] == pytest.approx([1e-4, 1e-3, 5e-4])
