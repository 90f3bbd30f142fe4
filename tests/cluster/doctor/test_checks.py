"""From reports to findings: each problem has its own, with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator import tasks
from orchestrator.cluster.doctor.checks import GIB, check_all, summary
from orchestrator.cluster.doctor.records import (
    Gpu,
    Machine,
    ProbeResult,
    TrackingStatus,
    size,
    size_range,
)
from orchestrator.data.prepared.store import Present
from orchestrator.storage.sharing import Sight
from tests.cluster.doctor.inspections import (
    HEALTHY,
    NAMES,
    SUITE,
    VERSIONS,
    findings_on,
    healthy_cluster,
    one_changed,
    problem,
    single,
)

A10 = Gpu("NVIDIA A10G", 22 * GIB, True)


def _versions(**changes: str) -> tuple[tuple[str, str], ...]:
    return tuple({**VERSIONS, **changes}.items())


def test_a_cluster_that_is_well_has_one_line_for_each_subject() -> None:
    lines = check_all(healthy_cluster())
    assert {line.level for line in lines} == {"ok", "note"}
    assert [line.subject for line in lines] == [
        "cluster", "code", "versions", "cores", "memory", "disk", "disk", "GPUs", "clocks",
        "shared", "locks", "data", "weights", "tracking",
    ]  # fmt: skip
    assert summary(lines) == "nothing is wrong"
    assert "Python 3.11.7, torch 2.15.0" in lines[2].text
    assert all("this machine" not in line.text for line in lines), "every line is on the nodes"


def test_a_machine_alone_says_what_it_did_not_look_at() -> None:
    bare = replace(single(), out="", locks="", tracking=None, suite=None, backbone="")
    lines = check_all(bare)
    notes = {line.subject: line.text for line in lines if line.level == "note"}
    assert set(notes) == {"GPUs", "shared", "data", "weights", "tracking"}
    assert all("give" in notes[subject] for subject in set(notes) - {"GPUs"})
    assert not any("node" in line.text for line in lines)


@pytest.mark.parametrize(
    ("package", "level"), [("timm", "wrong"), ("torch", "wrong"), ("mlflow", "warn")]
)
def test_another_version_is_named_with_its_node(package: str, level: str) -> None:
    found = problem("versions", one_changed(versions=_versions(**{package: "0.9"})))
    assert found.level == level
    assert found.text == f"worker2: {package} 0.9, this command has {VERSIONS[package]}"
    assert f"pip install {package}=={VERSIONS[package]}" in found.fix


def test_a_missing_package_and_another_python_have_their_own_fixes() -> None:
    missing = problem("versions", one_changed(versions=_versions(timm="")))
    assert "worker2: timm is not installed" in missing.text
    python = problem("versions", one_changed(versions=_versions(python="3.12.1")))
    assert "Python 3.11.7" in python.fix
    here = problem("versions", single(versions=_versions(timm="")))
    assert "pip install -e ." in here.fix


def test_changed_code_is_named_by_its_files() -> None:
    code = (("orchestrator/sweep.py", "zz"), ("orchestrator/spec.py", "bb"))
    found = problem("code", one_changed(code=code))
    assert found.level == "wrong"
    assert "worker2: other code than this command's (orchestrator/sweep.py)" in found.text
    many = problem("code", one_changed(code=tuple((f"orchestrator/{n}.py", "x") for n in range(5))))
    assert "and 5 more" in many.text


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("no answer within 90 s", "ray status"),
        (
            "ModuleNotFoundError: No module named 'orchestrator.cluster.doctor'",
            "install this version",
        ),
    ],
)
def test_a_node_that_does_not_answer_is_named(said: str, fix: str) -> None:
    found = problem("cluster", healthy_cluster(worker2=Machine("worker2", None, said)))
    assert found.text == f"worker2: {said}"
    assert fix in found.fix
    (first, _) = findings_on("cluster", healthy_cluster(worker2=Machine("worker2", None, said)))
    assert first.text == "2 nodes answer: head, worker1"


def test_little_memory_and_disk_are_warnings_that_name_the_machine() -> None:
    memory = problem("memory", one_changed(memory_free=GIB))
    assert (memory.level, memory.text) == ("warn", "worker2: only 1.0 GiB free")
    tmp = problem("disk", one_changed(tmp_free=GIB // 2))
    assert tmp.text == "worker2: only 512 MiB free in /tmp"
    out = problem("disk", single(out_free=0))
    assert "only 0 B free in /mnt/shared/mini" in out.text


def test_gpus_are_told_by_kind() -> None:
    gpu = replace(HEALTHY, gpus=(A10, A10), driver="580.1", driver_gpus=("A10", "A10"), cuda="13.0")
    nodes = {name: Machine(name, gpu, ray_gpus=2, ahead=0.0) for name in ("worker1", "worker2")}
    (line,) = findings_on("GPUs", healthy_cluster(**nodes))
    assert line.level == "ok"
    assert line.text == "2 × NVIDIA A10G, 22 GiB, bf16, driver 580.1 on worker1, worker2"


def test_a_driver_older_than_torchs_cuda_is_wrong() -> None:
    found = problem(
        "GPUs",
        one_changed(
            driver="470.57",
            driver_gpus=("NVIDIA A10G",),
            cuda="13.0",
            gpu_problem="The NVIDIA driver on your system is too old (found version 11040)",
        ),
    )
    assert found.level == "wrong"
    assert found.text.startswith("worker2: torch is built for CUDA 13.0 and cannot use its 1")
    assert "driver 470.57" in found.text
    assert "too old" in found.text
    assert "newer driver" in found.fix


def test_gpus_under_a_torch_without_cuda_are_wrong() -> None:
    found = problem("GPUs", one_changed(driver="580.1", driver_gpus=("NVIDIA A10G",)))
    assert "built without CUDA" in found.text
    assert "install torch with CUDA" in found.fix


@pytest.mark.parametrize(("counted", "level"), [(0, "warn"), (2, "wrong")])
def test_ray_must_count_the_gpus_that_torch_can_use(counted: int, level: str) -> None:
    probe = {"gpus": (A10,), "driver": "580.1", "driver_gpus": ("A10",), "cuda": "13.0"}
    found = problem("GPUs", one_changed({"ray_gpus": counted}, **probe))
    assert found.level == level
    assert found.text == f"worker2: Ray counts {counted}, torch can use 1"
    assert "--num-gpus=1" in found.fix


def test_a_gpu_without_bf16_is_a_warning() -> None:
    old = Gpu("Tesla T4", 15 * GIB, False)
    found = problem("GPUs", single(gpus=(old,), driver="580.1", driver_gpus=("T4",), cuda="13.0"))
    assert "--precision fp32" in found.fix


def test_cuda_that_is_wanted_and_missing_is_wrong_alone_and_a_warning_on_a_cluster() -> None:
    assert problem("GPUs", replace(single(), device="cuda")).level == "wrong"
    assert problem("GPUs", replace(healthy_cluster(), device="cuda")).level == "warn"


def test_clocks_apart_are_a_warning() -> None:
    found = problem("clocks", one_changed({"ahead": -3.25}))
    assert (found.level, found.text) == ("warn", "worker2: 3.2 s behind this machine")
    assert "ahead of" in problem("clocks", one_changed({"ahead": 2.5})).text


def test_a_folder_that_is_not_shared_names_the_nodes_and_the_ways_out() -> None:
    blind = {"out_problem": "there is no such folder"}
    nodes = {n: Machine(n, replace(HEALTHY, out_reply=None), **blind) for n in NAMES[1:]}  # type: ignore[arg-type]
    found = problem("shared", healthy_cluster(**nodes))
    assert found.text == (
        "/mnt/shared/mini is not shared with worker1, worker2: there is no such folder"
    )
    assert all(way in found.fix for way in ("NFS", "s3://", "one node"))


def test_a_folder_that_cannot_be_written_is_wrong() -> None:
    found = replace(healthy_cluster(), out_problem="Permission denied", locks="")
    assert "cannot be written: Permission denied" in problem("shared", found).text
    bucket = replace(found, out="s3://me:geheim@bucket/x?scheme=http")
    line = problem("shared", bucket)
    assert "geheim" not in line.text
    assert "credentials" in line.fix


@pytest.mark.parametrize(
    ("state", "told"), [("ignored", "do not see this machine's locks"), ("refused", "cannot lock")]
)
def test_locks_that_do_not_hold_are_wrong(state: str, told: str) -> None:
    found = problem("locks", one_changed(out_reply=Sight(kind="nfs4", locks=state)))  # type: ignore[arg-type]
    assert found.level == "wrong"
    assert f"worker2: {told}" in found.text
    assert "nolock" in found.fix


def test_locks_that_this_machine_cannot_have_are_wrong() -> None:
    assert "cannot lock files" in problem("locks", replace(single(), locks="refused")).text


def _data(**problems: str) -> tuple[Present, ...]:
    return tuple(
        Present(task.name, problem=problems[task.name])
        if task.name in problems
        else Present(task.name, "f1")
        for task in SUITE.tasks
    )


def test_a_node_without_data_is_named_with_its_tasks() -> None:
    found = problem("data", one_changed(data=_data(textures="missing")))
    assert found.text == "worker2: textures is missing in /mnt/shared/data"
    assert "--data-root" in found.fix
    every = {task.name: "missing" for task in SUITE.tasks}
    none = problem("data", one_changed(data=_data(**every)))
    assert none.text == f"worker2: all {len(every)} tasks are missing in /mnt/shared/data"


def test_data_that_an_object_store_carries_is_no_trouble() -> None:
    found = replace(one_changed(data=_data(textures="missing")), out="s3://bucket/mini", locks="")
    (line,) = findings_on("data", found)
    assert (line.level, line.fix) == ("note", "")
    assert "sends it through --out" in line.text


def test_data_with_another_fingerprint_is_wrong() -> None:
    other = tuple(Present(task.name, "f2") for task in SUITE.tasks)
    assert "with another fingerprint" in problem("data", one_changed(data=other)).text


def test_data_that_is_not_prepared_yet_needs_a_shared_root() -> None:
    none = tuple(Present(task.name, problem="missing") for task in SUITE.tasks)
    machines = {name: Machine(name, replace(HEALTHY, data=none)) for name in NAMES}
    machines["worker2"] = replace(machines["worker2"], data_problem="there is no such folder")
    found = replace(healthy_cluster(**machines), here=Machine("here", replace(HEALTHY, data=none)))
    line = problem("data", found)
    assert line.text == ("/mnt/shared/data is not shared with worker2: there is no such folder")
    assert line.level == "wrong"
    one = replace(found, here=Machine("here", replace(HEALTHY, data=(HEALTHY.data[0], *none[1:]))))
    assert [line.level for line in findings_on("data", one)] == ["note", "wrong", "warn"]
    (note, _) = findings_on("data", found)
    assert "the sweep does it on first use" in note.text, "mini is made by formula"


def test_images_that_are_not_prepared_are_a_warning() -> None:
    vtab = tasks.suite("vtab")
    none = tuple(Present(task.name, problem="missing") for task in vtab.tasks)
    found = problem("data", replace(single(data=none), suite=vtab))
    assert found.level == "warn"
    assert "orchestrate data prepare vtab" in found.fix
    some = (Present(vtab.tasks[0].name, "f1"), *none[1:])
    assert "and 15 more" in problem("data", replace(single(data=some), suite=vtab)).text


def test_other_weights_are_wrong_and_uncached_ones_a_warning() -> None:
    other = problem("weights", one_changed(weights="badc0de"))
    assert (other.level, other.text) == (
        "wrong",
        "worker2: other weights of vit_mini (badc0de, not c0ffee)",
    )
    uncached = problem(
        "weights",
        one_changed(weights="", weights_problem="not cached", weights_fetchable=True),
    )
    assert uncached.level == "warn"
    assert "worker2: vit_mini is not in the cache" in uncached.text
    gone = problem("weights", one_changed(weights="", weights_problem="there is no file 'x'"))
    assert (gone.level, gone.text) == ("wrong", "worker2: there is no file 'x'")


def test_tracking_that_does_not_answer_is_wrong_and_doubts_are_warnings() -> None:
    down = TrackingStatus("http://h:5000", problem="does not answer (refused)", fix="start it")
    assert problem("tracking", replace(healthy_cluster(), tracking=down)).level == "wrong"
    doubt = TrackingStatus("sqlite:///x", risk="SQLite on nfs4 gets corrupted", fix="give another")
    assert problem("tracking", replace(healthy_cluster(), tracking=doubt)).level == "warn"


def test_a_probe_that_failed_is_itself_a_finding() -> None:
    found = problem("probe", one_changed(troubles=("torch: it was not ready after 60 s",)))
    assert found.text == "worker2: cannot check torch: it was not ready after 60 s"


def test_an_answer_of_an_older_copy_is_judged_by_what_it_says() -> None:
    """Ray restores an answer without calling its class: what an older copy lacks is a default."""
    old = ProbeResult.__new__(ProbeResult)
    old.__dict__.update({"versions": HEALTHY.versions, "code": (("orchestrator/old.py", "x"),)})
    lines = check_all(healthy_cluster(worker2=Machine("worker2", old)))
    assert any(line.subject == "code" and "worker2" in line.text for line in lines)


def test_a_cluster_without_any_answer_names_every_node() -> None:
    silent = {name: Machine(name, None, "no answer within 90 s") for name in NAMES}
    wrong = [line for line in check_all(healthy_cluster(**silent)) if line.level == "wrong"]
    assert [line.text.partition(":")[0] for line in wrong] == list(NAMES)


def test_the_summary_counts() -> None:
    both = replace(one_changed(memory_free=0, weights="x"), device="cpu")
    assert summary(check_all(both)) == "1 wrong, 1 warning"


def test_sizes_are_for_people() -> None:
    assert (size(0), size(1536), size(22 * GIB)) == ("0 B", "1.5 KiB", "22 GiB")
    assert (size_range([GIB]), size_range([4 * GIB, GIB])) == ("1.0 GiB", "1.0 GiB to 4.0 GiB")
