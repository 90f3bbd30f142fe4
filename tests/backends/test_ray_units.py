"""What the Ray backend decides by itself, without a cluster."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.backends import ray_settings
from orchestrator.backends.plan import HostPlan, spare
from orchestrator.backends.ray.asks import Asks, Rows, Rungs
from orchestrator.backends.ray.cluster import (
    Cluster,
    check_reachable,
    connect,
    cores_on,
    devices_of,
)
from orchestrator.backends.ray.directory import PoolDirectory
from orchestrator.backends.ray.newcomers import Newcomers
from orchestrator.backends.ray.starts import QUICK, Starts
from orchestrator.backends.ray.trainable import PoolTrainable, own_device
from orchestrator.backends.ray.width import Width
from orchestrator.errors import BackendError, DataError, StorageError
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Done, Wait
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tasks import suite
from tests.rows import TRIAL, result

RUNG = {"key": TRIAL.key, "status": "rung", "epoch": 3, "value": 0.5, "pool": "n cpu 0"}


class FakeSearch:
    """Answers from a list; an exception in it is raised."""

    def __init__(self, answers: Iterable[Any] = (), rung: Any = "stop") -> None:
        self.answers, self.verdict = list(answers), rung
        self.told: list[str] = []
        self.lost: list[tuple[str, str]] = []

    def ask(self) -> Any:
        return _give(self.answers.pop(0))

    def rungs(self, trial: Trial) -> tuple[int, ...]:
        return (3,)

    def rung(self, key: str, epoch: int, value: float) -> Any:
        return _give(self.verdict)

    def tell(self, row: TrialResult) -> None:
        self.told.append(row.key)

    def failed(self, key: str, message: str) -> None:
        self.lost.append((key, message))


class FakeActor:
    """Every remote method answers what it was given (`ray.get` is made to hand it through)."""

    def __init__(self, actor_id: str = "a", **answers: Any) -> None:
        self._actor_id = SimpleNamespace(hex=lambda: actor_id)
        self._answers, self.calls = answers, list[tuple[Any, ...]]()

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, *arguments, *options.values()))
            return self._answers.get(name)

        return SimpleNamespace(remote=remote)


def _give(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def make_asks(
    out: Path,
    search: FakeSearch,
    width: int = 2,
    pool: FakeActor | None = None,
    observe: Callable[[], None] = lambda: None,
    heard: Callable[[Any], None] = lambda slots: None,
) -> tuple[Any, FakeActor]:
    """The searcher and the directory that it talks to."""
    plan = HostPlan(out, out, suite("mini"), "vit_mini", "w", "asha", "token")
    directory = FakeActor(pool=pool, slots=7)
    planned: Any = SimpleNamespace(planned=lambda: width, share=lambda: 0.25, heard=heard)
    return Asks(search, plan, planned, directory, observe), directory  # type: ignore[arg-type]


def told(directory: FakeActor) -> list[tuple[Any, ...]]:
    """What the directory was asked to do."""
    return [call for call in directory.calls if call[0] != "slots"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", _give)
    monkeypatch.setattr(ray, "wait", lambda questions, **_: (questions, []))


def test_a_trial_is_handed_over_whole(tmp_path: Path) -> None:
    asks, _ = make_asks(tmp_path, FakeSearch([TRIAL]))
    config = asks.suggest("t1")
    assert Trial.from_dict(config["trial"]) == TRIAL
    assert (config["key"], config["rungs"], config["share"]) == (TRIAL.key, [3], 0.25)


def test_never_more_in_flight_than_planned(tmp_path: Path) -> None:
    asks, _ = make_asks(tmp_path, FakeSearch([result(seed).trial for seed in range(5)]), width=2)
    assert isinstance(asks.suggest("t1"), dict)
    assert isinstance(asks.suggest("t2"), dict)
    assert asks.suggest("t3") is None
    asks.on_trial_complete("t1", {"status": "finished"})
    assert isinstance(asks.suggest("t4"), dict)
    assert asks.suggest("t5") is None


def test_no_trainable_is_started_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that are over at once are handed out as trainables get free."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    asks, _ = make_asks(tmp_path, FakeSearch([result(seed).trial for seed in range(9)]), width=9)
    rows = Rows(asks)

    def start(name: str) -> None:
        rows.on_trial_start(0, [], SimpleNamespace(trial_id=name))

    for name in ("t1", "t2", "t3"):
        assert isinstance(asks.suggest(name), dict), "nothing is known yet: all that is planned"
    start("t1")
    now += QUICK / 2
    asks.on_trial_complete("t1", {"status": "finished"})
    assert asks.suggest("t4") is None, "t2 and t3 wait, and one of them gets what t1 had"
    start("t2")
    asks.on_trial_complete("t2", {"status": "finished"})
    assert asks.suggest("t4") is None
    start("t3")
    assert asks.suggest("t4") is None, "another trainable would not come up in time"
    asks.on_trial_complete("t3", {"status": "finished"})
    assert isinstance(asks.suggest("t4"), dict), "one is free"
    assert asks.suggest("t5") is None, "one only"
    start("t4")
    now += 2 * QUICK
    asks.on_trial_complete("t4", {"status": "finished"})
    assert isinstance(asks.suggest("t5"), dict)
    assert isinstance(asks.suggest("t6"), dict), "trials that last are worth a process each"


def test_trials_that_never_started_say_nothing_about_how_long_they_last() -> None:
    starts = Starts()
    for name in ("a", "b"):
        starts.asked(name)
    starts.ended("a")
    assert starts.pays()


def test_a_search_whose_trials_all_ended_goes_on() -> None:
    """The trainables may be gone by then: nobody waits for one to become free."""
    starts = Starts()
    starts.asked("a")
    starts.started("a")
    starts.ended("a")
    starts.started("b")
    assert starts.pays() is False
    starts.ended("b")
    assert starts.pays()


def test_what_pools_measured_is_heard_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, heard = 100.0, list[Any]()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    asks, directory = make_asks(tmp_path, FakeSearch([Wait()] * 9), heard=heard.append)
    monkeypatch.setattr(ray, "wait", lambda questions, **_: ([], questions))
    asks.suggest("t1")
    assert heard == [], "nobody waits for the answer"
    monkeypatch.setattr(ray, "wait", lambda questions, **_: (questions, []))
    asks.suggest("t1")
    asks.suggest("t1")
    assert heard == [7]
    now += 6
    asks.suggest("t1")
    assert heard == [7, 7]
    assert [call[0] for call in directory.calls] == ["slots", "slots"]


def test_the_widest_pool_speaks_for_all(started: Started, tmp_path: Path) -> None:
    directory = _directory(tmp_path)
    assert directory.slots() is None
    directory.prepare(NODES[0], "cpu", 3)
    for pool, slots in zip(started.pools, (None, 4, 2), strict=True):
        pool._answers["slots"] = slots
    assert directory.slots() == 4
    started.pools[1]._answers["slots"] = ActorDiedError()
    assert directory.slots() == 4, "as it was"


def test_wait_and_done(tmp_path: Path) -> None:
    asks, _ = make_asks(tmp_path, FakeSearch([Wait(), Done()]))
    assert asks.suggest("t1") is None
    assert asks.suggest("t1") == Searcher.FINISHED
    asks.close()


@pytest.mark.parametrize("where", ["ask", "observe", "rung", "tell"])
def test_it_never_raises_but_ends_the_sweep_with_the_error(where: str, tmp_path: Path) -> None:
    trouble = DataError("the share is gone")

    def observe() -> None:
        if where == "observe":
            raise trouble

    search = FakeSearch([trouble if where == "ask" else TRIAL, Done()], rung=trouble)
    asks, directory = make_asks(tmp_path, search, observe=observe)
    asks.suggest("t1")
    if where == "rung":
        assert asks.stops(RUNG)
    elif where == "tell":
        (tmp_path / "ledger" / "fragments").mkdir(parents=True)
        (tmp_path / "ledger" / "fragments" / f"{TRIAL.key}.parquet").write_bytes(b"damaged")
        asks.on_trial_complete("t1", {"status": "finished"})
    assert asks.suggest("t2") == Searcher.FINISHED
    with pytest.raises(Exception, match=TRIAL.key if where == "tell" else "the share is gone"):
        asks.close()
    assert [call[0] for call in told(directory)] == ["close"], "the pools let go, told once"


def test_suggestions_that_storage_refuses_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    full = StorageError("cannot write the suggestion: No space left")
    asks, directory = make_asks(tmp_path, FakeSearch([full, full, TRIAL, *[full] * 100]))
    assert asks.suggest("t1") is None
    assert asks.suggest("t1") is None, "not at every look"
    now += 1
    assert asks.suggest("t1") is None
    now += 1
    assert asks.suggest("t1")["key"] == TRIAL.key
    while (answer := asks.suggest("t2")) is None:
        now += 1
    assert answer == Searcher.FINISHED
    assert 400 < now < 405
    assert told(directory) == [("close", f"the sweep ends: {full}")]
    with pytest.raises(StorageError, match="No space left"):
        asks.close()


def test_a_row_is_looked_up_again_while_storage_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = FakeSearch([TRIAL])
    asks, _ = make_asks(tmp_path, search)
    asks.suggest("t1")
    answers = iter([StorageError("the share is away"), StorageError("still"), result()])
    monkeypatch.setattr(Ledger, "result", lambda *_: _give(next(answers)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    asks.on_trial_complete("t1", error=True)
    assert search.told == [TRIAL.key]


def test_rows_are_told_once_and_a_trial_without_one_is_lost(tmp_path: Path) -> None:
    search = FakeSearch([TRIAL, result(1).trial])
    asks, directory = make_asks(tmp_path, search)
    for name in ("t1", "t2"):
        asks.suggest(name)
    Ledger(SweepPaths(tmp_path).ledger).append(result())
    asks.on_trial_complete("t1", {"status": "finished"})
    asks.on_trial_complete("t2", error=True)
    assert search.told == [TRIAL.key]
    assert search.lost[-1] == (result(1).key, "its process died")
    asks.close()
    assert not told(directory)


def test_a_broken_trial_is_asked_again_and_a_refused_one_ends_the_sweep(tmp_path: Path) -> None:
    search = FakeSearch([TRIAL, TRIAL])
    asks, directory = make_asks(tmp_path, search)
    asks.suggest("t1")
    asks.on_trial_complete("t1", {"status": "broken", "message": "RuntimeError: memory"})
    assert search.lost == [(TRIAL.key, "RuntimeError: memory")]
    asks.suggest("t2")
    asks.on_trial_complete("t2", {"status": "refused", "message": "checkpoint x is damaged"})
    assert asks.suggest("t3") == Searcher.FINISHED
    assert told(directory) == [("close", "the sweep ends: checkpoint x is damaged")]
    with pytest.raises(BackendError, match=r"^checkpoint x is damaged$"):
        asks.close()


@pytest.mark.parametrize(
    ("verdict", "answer", "decision"),
    [
        ("continue", None, TrialScheduler.CONTINUE),
        ("stop", {"status": "stopped"}, TrialScheduler.STOP),
        # Its pool died or began afresh: it goes on, which brings it back to its rung.
        ("stop", ActorDiedError(), TrialScheduler.CONTINUE),
        ("stop", {"status": "broken", "message": "afresh"}, TrialScheduler.CONTINUE),
    ],
)
def test_rungs(verdict: str, answer: Any, decision: str, tmp_path: Path) -> None:
    pool = FakeActor(stop=answer)
    asks, directory = make_asks(tmp_path, FakeSearch(rung=verdict), pool=pool)
    scheduler = Rungs(asks)
    assert scheduler.on_trial_result(None, None, {**RUNG, "status": "finished"}) == "CONTINUE"
    assert not told(directory)
    assert scheduler.on_trial_result(None, None, RUNG) == decision
    assert pool.calls == ([] if verdict == "continue" else [("stop", TRIAL.key)])
    asks.close()


def test_a_record_that_cannot_be_written_at_a_rung_ends_the_sweep(tmp_path: Path) -> None:
    pool = FakeActor(stop={"status": "refused", "message": "no space left"})
    asks, directory = make_asks(tmp_path, FakeSearch(), pool=pool)
    assert asks.stops(RUNG)
    assert ("close", "the sweep ends: no space left") in directory.calls
    assert asks.stops(RUNG), "after that, what waits at a rung just ends"
    assert len(pool.calls) == 1
    with pytest.raises(BackendError, match="no space left"):
        asks.close()


def _nodes(*resources: dict[str, float]) -> Callable[[], list[dict[str, Any]]]:
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    return lambda: [dead, *({"Alive": True, "Resources": found} for found in resources)]


def test_width_follows_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(ray, "nodes", _nodes({"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}))
    cases = [("CPU", False), ("GPU", False), ("GPU", True)]
    widths = [Width(kind, 16, growing) for kind, growing in cases]
    # 16 slots and 4 more to refill them, times 8 pools of cores, 4 GPUs, 4 GPUs and one to come.
    assert [width.planned() for width in widths] == [160, 80, 100]
    monkeypatch.setattr(ray, "nodes", _nodes({"CPU": 3.0, "GPU": 1.0}))
    assert [width.planned() for width in widths] == [160, 80, 100], "not asked at every step"
    now += 6
    assert [width.planned() for width in widths] == [60, 20, 40]
    for width in widths:
        width.heard(3)
        width.heard(None)  # a report that does not say
    assert [width.planned() for width in widths] == [12, 4, 8]


@pytest.mark.parametrize(
    ("nodes", "share"),
    [([{"CPU": 2.0}], 0.125), ([{}, {"CPU": 16.0}], 0.5), ([{"CPU": 2.0}, {"CPU": 16.0}], 0.125)],
)
def test_the_smallest_node_with_cores_sets_a_trials_share(
    nodes: list[dict[str, float]], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", _nodes(*nodes))
    assert Width("CPU", 4, growing=False).share() == share


def test_a_device_has_room_for_all_that_its_pool_can_have() -> None:
    """It only ever gets smaller: every new share starts new processes."""
    width = Width("GPU", 16, growing=True)
    assert width.share() == 1 / 32
    for slots, room in ((8, 32), (25, 32), (26, 32), (27, 64), (64, 128), (2, 128)):
        width.heard(slots)
        assert width.share() == 1 / room
        assert slots + spare(slots) <= room


class Started:
    """Stands for `ray.remote`: notes the pools that were started, and where."""

    def __init__(self) -> None:
        self.pools: list[FakeActor] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.nodes: list[str] = []

    def __call__(self, _: type) -> Any:
        return self

    def options(self, *, scheduling_strategy: Any, **_: Any) -> Any:
        self.nodes.append(scheduling_strategy.node_id)
        assert not scheduling_strategy.soft
        return self

    def remote(self, *arguments: Any) -> FakeActor:
        self.arguments.append(arguments[1:])
        self.pools.append(FakeActor(str(len(self.pools))))
        return self.pools[-1]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    stand_in = Started()
    monkeypatch.setattr(ray, "remote", stand_in)
    return stand_in


NODES = ("1" * 56, "2" * 56)


def _directory(tmp_path: Path) -> Any:
    plan = HostPlan(tmp_path, tmp_path, suite("mini"), "vit_mini", "w", "asha", "token")
    return PoolDirectory(plan)


def test_trials_spread_over_groups_of_cores(started: Started, tmp_path: Path) -> None:
    directory = _directory(tmp_path)
    entered = [directory.enter(f"trial {n}", NODES[0], "cpu", 10)[0] for n in range(8)]
    assert entered == [f"{NODES[0]} cpu {n}" for n in (0, 1, 2, 3)] * 2
    assert started.arguments == [("cpu", 2, str(n), 0.25) for n in range(4)]
    assert directory.enter("far", NODES[1], "cpu", 1)[0] == f"{NODES[1]} cpu 0"
    assert started.arguments[-1] == ("cpu", 1, "", 1.0)
    assert started.nodes == [NODES[0]] * 4 + [NODES[1]]
    directory.leave("trial 6")
    assert directory.enter("next", NODES[0], "cpu", 10)[0] == f"{NODES[0]} cpu 2", "the emptiest"


def test_a_trial_comes_back_to_the_pool_that_has_it(started: Started, tmp_path: Path) -> None:
    directory = _directory(tmp_path)
    name, pool = directory.enter("trial", NODES[0], "cpu", 2)
    assert directory.enter("trial", NODES[1], "cpu", 2) == (name, pool), "its trainable died"
    directory.leave("trial")
    assert directory.enter("trial", NODES[1], "cpu", 2)[0] == f"{NODES[1]} cpu 0"


def test_pools_can_be_started_before_any_trial_comes(started: Started, tmp_path: Path) -> None:
    directory = _directory(tmp_path)
    names = directory.prepare(NODES[0], "cpu", 2)
    assert names == [f"{NODES[0]} cpu 0", f"{NODES[0]} cpu 1"]
    assert started.arguments == [("cpu", 1, "0", 0.5), ("cpu", 1, "1", 0.5)]
    assert directory.enter("trial", NODES[0], "cpu", 2)[0] in names
    assert len(started.pools) == 2, "they are there already"


@pytest.mark.parametrize(
    ("wanted", "kind", "resources", "found"),
    [
        ("auto", "CPU", {"CPU": 4.0}, ["cpu"]),
        ("cpu", "CPU", {"CPU": 4.0, "GPU": 2.0}, ["cpu"]),
        ("cpu", "CPU", {}, []),
        ("cuda", "GPU", {"CPU": 4.0, "GPU": 2.0}, ["cuda:0", "cuda:1"]),
        ("cuda", "GPU", {"CPU": 4.0}, []),
        ("cuda:1", "GPU", {"GPU": 2.0}, []),
    ],
)
def test_what_a_node_has_is_known_before(
    wanted: str, kind: str, resources: dict[str, float], found: list[str]
) -> None:
    assert devices_of(wanted, kind, resources) == found


def test_a_gpu_has_one_pool(started: Started, tmp_path: Path) -> None:
    directory = _directory(tmp_path)
    names = {directory.enter(f"t{n}", NODES[0], f"cuda:{n % 2}", 8)[0] for n in range(6)}
    assert names == {f"{NODES[0]} cuda:0 0", f"{NODES[0]} cuda:1 0"}
    assert started.arguments == [("cuda:0", 8, "", 1.0), ("cuda:1", 8, "", 1.0)]


def test_a_dead_pool_is_replaced_once(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    directory = _directory(tmp_path)
    name, first = directory.enter("trial", NODES[0], "cuda:0", 8)
    dead = first._actor_id.hex()
    directory.lost(name, dead)
    assert killed == [first], "out of reach is not dead: two pools must not share a device"
    second = directory.enter("trial", NODES[1], "cuda:0", 8)
    assert second[0] == f"{NODES[1]} cuda:0 0", "its node may be gone as well"
    third = directory.enter("other", NODES[0], "cuda:0", 8)[1]
    assert third is not first
    directory.lost(name, dead)
    assert killed == [first], "the others who found it dead change nothing"
    assert directory.pool(name) is third


def test_a_closed_directory_closes_its_pools_and_those_to_come(
    started: Started, tmp_path: Path
) -> None:
    directory = _directory(tmp_path)
    directory.enter("one", NODES[0], "cuda:0", 8)
    directory.close("the end")
    directory.enter("two", NODES[0], "cuda:1", 8)
    assert [pool.calls for pool in started.pools] == [[("close", "the end")]] * 2


def _trainable(pools: list[FakeActor]) -> Any:
    """One that entered the first of `pools` and enters the second when it has to."""
    one = object.__new__(PoolTrainable)
    one.config = {"key": TRIAL.key, "trial": TRIAL.to_dict(), "rungs": [3]}
    one._place, one._pool, one._at_rung = "n cpu 0", pools.pop(0), False
    one._directory = FakeActor()
    successor = pools[0] if pools else FakeActor(train=ActorDiedError())

    def enter() -> None:
        one._place, one._pool = "n cpu 1", successor

    one._enter = enter
    return one


def test_a_trainable_goes_on_from_its_rung() -> None:
    pool = FakeActor(
        train=RUNG, proceed={"key": TRIAL.key, "status": "finished", "epoch": 10, "value": 0.6}
    )
    one = _trainable([pool])
    first, last = one.step(), one.step()
    assert (first["status"], first["done"], first["pool"]) == ("rung", False, "n cpu 0")
    assert (last["status"], last["done"]) == ("finished", True)
    assert [call[0] for call in pool.calls] == ["train", "proceed"]


def test_a_trainable_whose_pool_died_at_its_rung_starts_with_its_successor() -> None:
    dying = FakeActor("old", train=RUNG, proceed=ActorDiedError())
    one = _trainable([dying, FakeActor("new", train=RUNG)])
    first, second = one.step(), one.step()
    assert (first["pool"], second["pool"]) == ("n cpu 0", "n cpu 1")
    assert first["status"] == second["status"] == "rung", "the rung is reported again"
    assert one._directory.calls == [("lost", "n cpu 0", "old")]


def test_a_node_has_the_cores_that_ray_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for whoever started the pools beforehand: else a device would get more pools than that."""
    nodes = [
        {"NodeID": "other", "Alive": True, "Resources": {"CPU": 64.0}},
        {"NodeID": "own", "Alive": True, "Resources": {"CPU": 2.0}},
        {"NodeID": "bare", "Alive": True, "Resources": {}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    context = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    directory = FakeActor(enter=("own cpu 1", FakeActor()))
    monkeypatch.setattr(ray, "get_actor", lambda *_, **__: directory)
    one = object.__new__(PoolTrainable)
    one.config = {"key": TRIAL.key, "directory": "d", "device": "cpu"}
    one.setup(one.config)
    one._enter()
    assert directory.calls == [("enter", TRIAL.key, "own", "cpu", 2)]
    assert (cores_on("bare"), cores_on("gone")) == (1, 1)
    asked = FakeActor()
    Newcomers(asked, "cpu", "CPU").look()
    assert ("prepare", "own", "cpu", 2) in asked.calls


def test_pools_that_keep_dying_break_the_trial() -> None:
    one = _trainable([FakeActor(train=ActorDiedError())])
    report = one.step()
    assert (report["status"], report["done"]) == ("broken", True)


def test_an_address_where_nobody_listens_is_named_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(BackendError, match=rf"'{address}'.*--backend local"):
            check_reachable(address)
    with pytest.raises(BackendError, match="cannot be used"):
        check_reachable(f"{'a' * 70}.example:6379")
    assert time.monotonic() - began < 2


def test_an_address_where_somebody_listens_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"127.0.0.1:{server.getsockname()[1]}")
    check_reachable("auto")


@pytest.mark.parametrize("error", [ConnectionError("no token\ndetails"), ray.exceptions.RayError()])
def test_what_ray_says_about_a_cluster_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BackendError, match=r"cannot be used: (no token|RayError)\. Start one"):
        connect(Cluster("auto"))


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [("auto", [], "cpu"), ("auto", ["3"], "cuda:3"), ("cuda", [1], "cuda:1"), ("cpu", [1], "cpu")],
)
def test_a_trainable_uses_the_device_it_was_given(
    wanted: str, gpus: list[Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: gpus)
    assert own_device(wanted) == expected


def test_only_a_cluster_of_one_machine_is_kept_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    ray_settings.apply("10.0.0.1:6379")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    ray_settings.apply(None)
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
