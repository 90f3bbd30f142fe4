"""From reports to findings: each problem has its own, with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator import tasks
from orchestrator.cluster.doctor.checks import GIB, check_all, summary
from orchestrator.cluster.doctor.records import (
    Gpu,
    Inspection,
    Machine,
    ProbeResult,
    TrackingStatus,
    size,
    size_range,
)
from orchestrator.data.prepared.store import Present
from orchestrator.storage.sharing import MarkerReply
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
WITH_GPU: dict[str, Any] = {
    "gpus": (A10,), "driver": "580.1", "driver_gpus": ("A10",), "cuda": "13.0",
}  # fmt: skip
VTAB = tasks.suite("vtab")


def _versions(**changes: str) -> tuple[tuple[str, str], ...]:
    return tuple({**VERSIONS, **changes}.items())


def _data(*missing: str, among: Any = SUITE.tasks, fingerprint: str = "f1") -> tuple[Present, ...]:
    """Prepared tasks, but for the missing ones."""
    lost, there = {"problem": "missing"}, {"fingerprint": fingerprint}
    return tuple(Present(one.name, **(lost if one.name in missing else there)) for one in among)


def _names(among: Any) -> list[str]:
    return [one.name for one in among]


def _silent(trouble: str) -> Inspection:
    return healthy_cluster(worker2=Machine("worker2", None, trouble))


def _blind() -> Inspection:
    def machine(name: str) -> Machine:
        return Machine(
            name, replace(HEALTHY, out_reply=None), out_problem="there is no such folder"
        )

    return healthy_cluster(**{name: machine(name) for name in NAMES[1:]})


def _tracking(**status: str) -> Inspection:
    return replace(healthy_cluster(), tracking=TrackingStatus("http://h:5000", **status))


def _unwritable(out: str) -> Inspection:
    return replace(healthy_cluster(), out=out, out_problem="Permission denied", locks="")


def _locks(state: Any) -> Inspection:
    return one_changed(out_reply=MarkerReply(kind="nfs4", locks=state))


PROBLEMS: list[tuple[str, Inspection, str, str, str]] = [
    ("cluster", _silent("no answer within 90 s"), "wrong", "worker2: no answer within 90 s",
     "ray status"),
    ("cluster", _silent("ModuleNotFoundError: No module named 'x'"), "wrong",
     "worker2: ModuleNotFoundError: No module named 'x'", "install this version"),
    ("code", one_changed(code=(("orchestrator/sweep.py", "zz"), HEALTHY.code[1])), "wrong",
     "worker2: other code than this command's (orchestrator/sweep.py)", "`ray up` again"),
    ("code", one_changed(code=tuple((f"orchestrator/{n}.py", "x") for n in range(5))), "wrong",
     "(orchestrator/0.py, orchestrator/1.py and 5 more)", "`ray up` again"),
    ("versions", one_changed(versions=_versions(timm="0.9")), "wrong",
     "worker2: timm 0.9, this command has 1.0.31", "pip install timm==1.0.31"),
    ("versions", one_changed(versions=_versions(mlflow="0.9")), "warn",
     "worker2: mlflow 0.9, this command has 3.17.2", "pip install mlflow==3.17.2"),
    ("versions", one_changed(versions=_versions(timm="")), "wrong",
     "worker2: timm is not installed", "pip install -e ."),
    ("versions", one_changed(versions=_versions(python="3.12.1")), "wrong",
     "worker2: python 3.12.1", "Python 3.11.7"),
    ("versions", single(versions=_versions(timm="")), "wrong", "this command: timm is not",
     "pip install -e ."),
    ("code", one_changed(hidden=(("profile", "/home/me"),)), "wrong",
     "worker2: 'profile' in /home/me hides", "rename it"),
    ("disk", single(ray_problem="Set RAY_TMPDIR"), "wrong", "no place", "Set RAY_TMPDIR"),
    ("memory", one_changed(memory_free=GIB), "warn", "worker2: only 1.0 GiB free", "end what"),
    ("disk", one_changed(tmp_free=GIB // 2), "warn", "worker2: only 512 MiB free in /tmp",
     "/tmp/ray"),
    ("disk", single(out_free=0), "warn", "only 0 B free in /mnt/shared/mini", "another --out"),
    ("GPUs", one_changed(driver="470.57", driver_gpus=("A10G",), cuda="13.0",
     gpu_problem="The NVIDIA driver is too old"), "wrong", "worker2: torch is built for CUDA 13.0 "
     "and cannot use its 1 with driver 470.57: The NVIDIA driver is too old", "newer driver"),
    ("GPUs", one_changed(driver="580.1", driver_gpus=("A10G",)), "wrong", "built without CUDA",
     "install torch with CUDA"),
    ("GPUs", one_changed({"ray_gpus": 0}, **WITH_GPU), "warn",
     "worker2: Ray counts 0, torch can use 1", "--num-gpus=1"),
    ("GPUs", one_changed({"ray_gpus": 2}, **WITH_GPU), "wrong",
     "worker2: Ray counts 2, torch can use 1", "--num-gpus=1"),
    ("GPUs", single(**WITH_GPU | {"gpus": (replace(A10, bf16=False),)}), "warn", "without bf16",
     "--precision fp32"),
    ("GPUs", replace(single(), device="cuda"), "wrong", "none, and --device cuda", "--device"),
    ("GPUs", replace(healthy_cluster(), device="cuda"), "warn", "none now", "wait for GPU nodes"),
    ("clocks", one_changed({"ahead": -3.25}), "warn", "worker2: 3.2 s behind this machine", "ntp"),
    ("clocks", one_changed({"ahead": 2.5}), "warn", "2.5 s ahead of this machine", "ntp"),
    ("shared", _blind(), "wrong", "/mnt/shared/mini is not shared with worker1, worker2: there is "
     "no such folder", "(NFS), --out s3://BUCKET/PATH, or use a cluster of one node"),
    ("shared", _unwritable("/mnt/shared/mini"), "wrong",
     "/mnt/shared/mini cannot be written: Permission denied", "may write to"),
    ("shared", _unwritable("s3://me:geheim@bucket/x?scheme=http"), "wrong",
     "s3://bucket/x cannot be written", "credentials"),
    ("locks", _locks("ignored"), "wrong", "worker2: do not see this machine's locks", "nolock"),
    ("locks", _locks("refused"), "wrong", "worker2: cannot lock", "nolock"),
    ("locks", replace(single(), locks="refused"), "wrong", "cannot lock files", "nolock"),
    ("data", one_changed(data=_data("textures")), "wrong",
     "worker2: textures is missing in /mnt/shared/data", "--data-root"),
    ("data", one_changed(data=_data(*_names(SUITE.tasks))), "wrong",
     f"worker2: all {len(SUITE.tasks)} tasks are missing in /mnt/shared/data", "--data-root"),
    ("data", one_changed(data=_data(fingerprint="f2")), "wrong", "with another fingerprint",
     "copy it"),
    ("data", replace(single(data=_data(*_names(VTAB.tasks), among=VTAB.tasks)), suite=VTAB),
     "warn", "vtab is not prepared", "orchestrate data prepare vtab"),
    ("data", replace(single(data=_data(*_names(VTAB.tasks[1:]), among=VTAB.tasks)), suite=VTAB),
     "warn", "and 15 more", "orchestrate data prepare vtab"),
    ("weights", one_changed(weights="badc0de"), "wrong",
     "worker2: other weights of vit_mini (badc0de, not c0ffee)", "copy the same file"),
    ("weights", one_changed(weights="", weights_problem="no", weights_fetchable=True), "warn",
     "worker2: vit_mini is not in the cache", "--backbone vit_mini@FILE"),
    ("weights", one_changed(weights="", weights_problem="there is no file 'x'"), "wrong",
     "worker2: there is no file 'x'", "give every node the file"),
    ("tracking", _tracking(problem="does not answer", fix="start it"), "wrong",
     "http://h:5000 does not answer", "start it"),
    ("tracking", _tracking(risk="may be corrupted", fix="give another"), "warn",
     "http://h:5000: may be corrupted", "give another"),
    ("probe", one_changed(troubles=("torch: not ready after 60 s",)), "wrong",
     "worker2: cannot check torch: not ready after 60 s", "repair that first"),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "found", "level", "text", "fix"), PROBLEMS)
def test_each_problem_is_one_finding_that_names_the_machine_and_the_fix(
    subject: str, found: Inspection, level: str, text: str, fix: str
) -> None:
    finding = problem(subject, found)
    assert finding.level == level
    assert text in finding.text
    assert "geheim" not in finding.text
    assert fix in finding.fix


def test_a_healthy_cluster_has_one_line_for_each_subject() -> None:
    lines = check_all(healthy_cluster())
    assert {line.level for line in lines} == {"ok", "note"}
    assert [line.subject for line in lines] == [
        "cluster", "code", "versions", "cores", "memory", "disk", "disk", "GPUs", "clocks",
        "shared", "locks", "data", "weights", "tracking",
    ]  # fmt: skip
    assert summary(lines) == "nothing is wrong"
    assert "Python 3.11.7, torch 2.15.0" in lines[2].text
    assert lines[3].text == "8 on every node"
    assert all("this machine" not in line.text for line in lines), "every line is on the nodes"


def test_one_machine_lists_what_was_not_checked() -> None:
    bare = replace(single(), out="", locks="", tracking=None, suite=None, backbone="")
    lines = check_all(bare)
    notes = {line.subject: line.text for line in lines if line.level == "note"}
    assert set(notes) == {"GPUs", "shared", "data", "weights", "tracking"}
    assert all("give" in notes[subject] for subject in set(notes) - {"GPUs"})
    assert not any("node" in line.text for line in lines)


def test_nodes_are_grouped_by_what_they_have() -> None:
    gpu = replace(HEALTHY, **WITH_GPU | {"gpus": (A10, A10), "driver_gpus": ("A10", "A10")})
    nodes = {name: Machine(name, gpu, ray_gpus=2, ahead=0.0) for name in ("worker1", "worker2")}
    (line,) = findings_on("GPUs", healthy_cluster(**nodes))
    assert line.level == "ok"
    assert line.text == "2 × NVIDIA A10G, 22 GiB, bf16, driver 580.1 on worker1, worker2"
    (cores,) = findings_on("cores", one_changed(cores=4))
    assert cores.text == "8 on head, worker1; 4 on worker2"
    first, _ = findings_on("cluster", _silent("no answer within 90 s"))
    assert first.text == "2 nodes answer: head, worker1"


def test_data_that_an_object_store_carries_is_no_problem() -> None:
    found = replace(one_changed(data=_data("textures")), out="s3://bucket/mini", locks="")
    (line,) = findings_on("data", found)
    assert (line.level, line.fix) == ("note", "")
    assert "sends it through --out" in line.text


def test_data_that_is_not_prepared_yet_needs_a_shared_root() -> None:
    none = _data(*_names(SUITE.tasks))
    machines = {name: Machine(name, replace(HEALTHY, data=none)) for name in NAMES}
    machines["worker2"] = replace(machines["worker2"], data_problem="there is no such folder")
    found = replace(healthy_cluster(**machines), here=Machine("here", replace(HEALTHY, data=none)))
    line = problem("data", found)
    assert line.text == "/mnt/shared/data is not shared with worker2: there is no such folder"
    assert line.level == "wrong"
    one = replace(found, here=Machine("here", replace(HEALTHY, data=(HEALTHY.data[0], *none[1:]))))
    assert [line.level for line in findings_on("data", one)] == ["note", "wrong", "warn"]
    (note, _) = findings_on("data", found)
    assert "the sweep does it on first use" in note.text, "mini is made by formula"


def test_an_answer_of_an_older_copy_is_judged_by_what_it_reports() -> None:
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
