"""Interrupted and resumed is the same as never interrupted; damage is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.engine.checkpoint import path_of
from orchestrator.engine.evaluation import Evaluation
from orchestrator.engine.group import Group
from orchestrator.engine.training import Training
from orchestrator.errors import CheckpointError
from orchestrator.spec import Trial
from tests.engine.worlds import assert_same, final_data, run, search_data, trial

DATA = search_data()
STEPS = 5  # of an epoch


def trials() -> list[Trial]:
    return [
        trial("efft2", {"rank": 3, "dropout": 0.2}, 1, drop_path=0.2, epochs=4),
        trial("efft2", {"rank": 5, "scale": 3.0}, 2, epochs=4),
    ]


@pytest.mark.parametrize("stop_after", [1, 5, 6, 9, 10, 13, 17])
def test_resumed_equals_uninterrupted(stop_after: int, tmp_path: Path) -> None:
    pairs = [(one, DATA) for one in trials()]
    expected = run(pairs)
    run(pairs, checkpoints=tmp_path, stop_after=stop_after)
    files = sorted(path.name for path in tmp_path.iterdir())
    wanted = sorted(path_of(tmp_path, one.key).name for one, _ in pairs)
    assert files == (wanted if stop_after >= STEPS else [])
    resumed = run(pairs, checkpoints=tmp_path)
    for one, _ in pairs:
        assert_same(resumed, expected, one.key, to=1e-6)
        assert resumed.results[one.key].seconds > 0


def test_a_trial_can_be_taken_up_in_other_company(tmp_path: Path) -> None:
    first, second = trials()
    expected = run([(first, DATA)])
    run([(first, DATA), (second, DATA)], checkpoints=tmp_path, stop_after=12)
    assert_same(run([(first, DATA)], checkpoints=tmp_path), expected, first.key, to=1e-5)


@pytest.mark.parametrize("proceed", [True, False])
def test_a_trial_interrupted_at_its_rung_waits_there_again(proceed: bool, tmp_path: Path) -> None:
    one = trials()[0]
    expected = run([(one, DATA)], pauses=(2,), decide=lambda rung: proceed)
    first = run([(one, DATA)], pauses=(2,), checkpoints=tmp_path, answer_after=99, stop_after=15)
    assert [rung.epoch for rung in first.rungs] == [2]
    again = run([(one, DATA)], pauses=(2,), checkpoints=tmp_path, decide=lambda rung: proceed)
    assert again.rungs == first.rungs == expected.rungs
    assert_same(again, expected, one.key, to=1e-6)


def test_rungs_always_have_a_checkpoint(tmp_path: Path) -> None:
    one = trials()[0]
    run([(one, DATA)], checkpoints=tmp_path, every=1e9, stop_after=14)
    assert not list(tmp_path.iterdir())
    run([(one, DATA)], pauses=(1,), checkpoints=tmp_path, every=1e9, stop_after=9)
    assert path_of(tmp_path, one.key).exists()


def test_a_final_trial_resumes_without_another_look_at_test(tmp_path: Path) -> None:
    one = trial(stage="final", epochs=4)
    run([(one, final_data())], checkpoints=tmp_path, stop_after=18)
    resumed = run([(one, final_data())], checkpoints=tmp_path, pauses=(1, 2, 3))
    assert resumed.results[one.key].test_reads == 1
    assert resumed.rungs == []
    assert_same(resumed, run([(one, final_data())]), one.key, to=1e-6)


@pytest.mark.parametrize("stop_after", [49, 83, 109, 165])  # 64 images: 8 steps an epoch
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


def _flip(position: float) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(position * len(data))] ^= 0x10
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b"\x80\x04K\x01."),
        *(_flip(position) for position in (0.0, 0.01, 0.03, 0.5, 0.8, 0.999)),
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    one = trials()[0]
    run([(one, DATA)], checkpoints=tmp_path, stop_after=7)
    path = path_of(tmp_path, one.key)
    damage(path)
    with pytest.raises(CheckpointError, match=r"is damaged .* delete it and run the same") as error:
        run([(one, DATA)], checkpoints=tmp_path)
    assert str(path) in str(error.value)
    path.unlink()
    assert run([(one, DATA)], checkpoints=tmp_path).results[one.key].status == "finished"


def test_another_trials_checkpoint_is_refused(tmp_path: Path) -> None:
    first, second = trials()
    run([(first, DATA)], checkpoints=tmp_path, stop_after=7)
    path_of(tmp_path, first.key).rename(path_of(tmp_path, second.key))
    with pytest.raises(CheckpointError, match="belongs to another trial") as error:
        run([(second, DATA)], checkpoints=tmp_path)
    assert str(path_of(tmp_path, second.key)) in str(error.value)
