"""Interrupted and resumed is the same as never interrupted; damage is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.engine.checkpoint import path_of
from orchestrator.engine.evaluation import Evaluation
from orchestrator.engine.group import Group
from orchestrator.engine.training import Training
from orchestrator.errors import CheckpointError
from tests.engine.worlds import Watched, assert_same, final_data, run, search_data, trial

DATA = search_data()
STEPS = 5  # of an epoch
LOW_RANK = trial("efft2", {"rank": 3, "dropout": 0.2}, 1, drop_path=0.2, epochs=4)
TRIALS = (
    LOW_RANK,
    trial("efft2", {"rank": 5, "scale": 3.0}, 2, epochs=4),
    trial("mlp_head", {"hidden": 1, "dropout": 0.2}, 3, epochs=4),  # with running statistics
    trial("full", {}, 4, epochs=4),  # the backbone's own tensors
    trial("lora", {}, 5, epochs=4, optimiser="sgd", schedule="cosine_step"),  # one moment
)
PAIRS = [(one, DATA) for one in TRIALS]


@pytest.fixture(scope="module")
def uninterrupted() -> Watched:
    return run(PAIRS)


@pytest.mark.parametrize("stop_after", [1, 5, 9, 13])
def test_resumed_equals_uninterrupted(
    stop_after: int, tmp_path: Path, uninterrupted: Watched
) -> None:
    run(PAIRS, checkpoints=tmp_path, stop_after=stop_after)
    wanted = {path_of(tmp_path, one.key) for one in TRIALS} if stop_after >= STEPS else set()
    assert set(tmp_path.iterdir()) == wanted
    resumed = run(PAIRS, checkpoints=tmp_path)
    for one in TRIALS:
        assert_same(resumed, uninterrupted, one.key, to=1e-6)
        assert resumed.results[one.key].seconds > 0


def test_a_trial_resumes_without_its_cobatched_ones(tmp_path: Path, uninterrupted: Watched) -> None:
    run(PAIRS[:2], checkpoints=tmp_path, stop_after=12)
    resumed = run(PAIRS[:1], checkpoints=tmp_path)
    assert_same(resumed, uninterrupted, LOW_RANK.key)


@pytest.mark.parametrize("proceed", [True, False])
def test_a_trial_interrupted_at_its_rung_waits_there_again(proceed: bool, tmp_path: Path) -> None:
    pairs = PAIRS[:1]
    expected = run(pairs, pauses=(2,), decide=lambda rung: proceed)
    first = run(pairs, pauses=(2,), checkpoints=tmp_path, answer_after=99, stop_after=15)
    assert [rung.epoch for rung in first.rungs] == [2]
    again = run(pairs, pauses=(2,), checkpoints=tmp_path, decide=lambda rung: proceed)
    assert again.rungs == first.rungs == expected.rungs
    assert_same(again, expected, LOW_RANK.key, to=1e-6)


def test_rungs_always_have_a_checkpoint(tmp_path: Path) -> None:
    run(PAIRS[:1], checkpoints=tmp_path, every=1e9, stop_after=14)
    assert not list(tmp_path.iterdir())
    run(PAIRS[:1], pauses=(1,), checkpoints=tmp_path, every=1e9, stop_after=9)
    assert path_of(tmp_path, LOW_RANK.key).exists()


def test_a_final_trial_resumes_and_reads_test_once(tmp_path: Path) -> None:
    one = trial(stage="final", epochs=4)
    run([(one, final_data())], checkpoints=tmp_path, stop_after=18)
    resumed = run([(one, final_data())], checkpoints=tmp_path, pauses=(1, 2, 3))
    assert resumed.results[one.key].test_reads == 1
    assert resumed.rungs == []
    assert_same(resumed, run([(one, final_data())]), one.key, to=1e-6)


@pytest.mark.parametrize("stop_after", [83, 165])  # 64 images: 8 steps an epoch
def test_the_best_evaluation_of_a_paper_trial_survives(
    stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def scripted(self: Group, trainings: Sequence[Training]) -> dict[str, Evaluation]:
        epoch = trainings[0].epoch
        read.append(epoch)
        return {trainings[0].key: Evaluation(1 / epoch, 0.5 / epoch, bytes([1, 0, epoch]))}

    monkeypatch.setattr(Group, "evaluate", scripted)
    pair = trial("linear", protocol="paper", epochs=22), final_data()
    run([pair], checkpoints=tmp_path, stop_after=stop_after)
    result = run([pair], checkpoints=tmp_path).results[pair[0].key]
    assert read == [10, 20, 22]
    assert result.test_reads == 3
    assert (result.value, result.eval_loss) == (0.05, 0.1)
    assert result.correct == bytes([1, 0, 10])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("checkpoints")
    run(PAIRS[:1], checkpoints=folder, stop_after=7)
    return path_of(folder, LOW_RANK.key).read_bytes()


def _flip(position: float) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        data = bytearray(content)
        data[int(position * len(data))] ^= 0x10
        return bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-10],
        lambda content: content[: len(content) // 2],
        lambda content: b"\x80\x04K\x01.",
        lambda content: content.replace(b'"F32"', b'"I32"', 1),  # the same bytes as other numbers
        lambda content: re.sub(rb'"shape":\[(\d+),(\d+)\]', rb'"shape":[\2,\1]', content, count=1),
        *(_flip(position) for position in (0.0, 0.01, 0.03, 0.5, 0.8, 0.999)),
    ],
)
def test_damage_is_named(
    damage: Callable[[bytes], bytes], checkpoint: bytes, tmp_path: Path
) -> None:
    path = path_of(tmp_path, LOW_RANK.key)
    path.write_bytes(damage(checkpoint))
    with pytest.raises(CheckpointError, match=r"is damaged .* delete it and run the same") as error:
        run(PAIRS[:1], checkpoints=tmp_path)
    assert str(path) in str(error.value)


def test_another_trials_checkpoint_is_refused(checkpoint: bytes, tmp_path: Path) -> None:
    path = path_of(tmp_path, TRIALS[1].key)
    path.write_bytes(checkpoint)
    with pytest.raises(CheckpointError, match="belongs to another trial") as error:
        run(PAIRS[1:2], checkpoints=tmp_path)
    assert str(path) in str(error.value)
