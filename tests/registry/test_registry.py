"""Export, index, load: a model that comes out is the one whose accuracy the index states."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from adapters import build
from adapters.storage import save_tensors
from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.summary import Summary
from orchestrator.backbones import load_backbone
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.data.splits import open_final, open_search
from orchestrator.engine.pool import Ended, Pool
from orchestrator.errors import CheckpointError, InvalidInput
from orchestrator.registry import INDEX, WEIGHTS, export, export_merged, load, read_index
from orchestrator.registry.index import CONFIG, EVIDENCE
from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import SweepFile
from orchestrator.spec import DataIdentity, Recipe, Stage, Sweep, Trial, TrialResult, digest
from orchestrator.storage import files
from orchestrator.storage.retry import is_transient
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep import earlier_searches
from orchestrator.tasks.suites import MINI

TASK = MINI.task("digits")
RECIPE = Recipe(epochs=1, lr=1e-2, warmup_epochs=0, normalisation="half", drop_path=0.0)
SWEEP = Sweep(
    suite="mini",
    backbone="vit_mini",
    tasks=("digits",),
    adapters=("lora", "linear"),
    sampler="grid",
    stopping="none",
    trials=None,
    seeds=2,
    replicate=1,
    recipe=RECIPE,
    spaces={"lora": {}, "linear": {}},
)


@dataclass(frozen=True)
class Ran:
    """A finished sweep: its rows, its adapters' folder, its summary."""

    results: list[TrialResult]
    adapters: Path
    data: Path

    @property
    def summary(self) -> Summary:
        return summarise(self.results, SWEEP, MINI)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, mini_data: Path) -> Ran:
    """Search and two final seeds of two adapters, trained for one epoch by a real pool."""
    torch.set_num_threads(1)
    backbone, folder = load_backbone("vit_mini"), tmp_path_factory.mktemp("adapters")
    pool, results = Pool(backbone, torch.device("cpu")), []
    search = open_search("mini", TASK, mini_data)
    final = open_final("mini", TASK, mini_data)

    def trial(adapter: str, stage: Stage, seed: int) -> Trial:
        params = build(adapter, {"rank": 2} if adapter == "lora" else {}).to_dict()
        data = final.identity.final if stage == "final" else search.identity
        return Trial(
            "mini", "digits", "vit_mini", adapter, params, RECIPE, seed, stage, data,
            backbone.fingerprint,
        )  # fmt: skip

    for adapter in SWEEP.adapters:
        pool.add(trial(adapter, "search", 0), search)
        for seed in (1, 2):
            pool.add(trial(adapter, "final", seed), final)
    while len(pool):
        for event in pool.advance():
            assert isinstance(event, Ended)
            written: dict[str, str] = {}
            if event.tensors is not None:
                of = event.result.trial
                written = save_tensors(build(of.adapter, of.params), event.tensors, folder / of.key)
            results.append(replace(event.result, files=written))
    return Ran(results, folder, mini_data)


@pytest.fixture(scope="module")
def exported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry = tmp_path_factory.mktemp("sweep") / "registry"
    export(ran.summary, ran.results, ran.adapters, registry)
    return registry


@pytest.fixture
def registry(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "registry"))


@torch.no_grad()
def logits(model: nn.Module, data: Path) -> tuple[Tensor, Tensor]:
    """Logits of the test images, as `config.json` says normalised (half), and their labels."""
    test = open_final("mini", TASK, data).test
    images = torch.from_numpy(test.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    found: Tensor = model(images)
    return found, torch.from_numpy(test.labels.copy())


@pytest.mark.parametrize("adapter", SWEEP.adapters)
def test_a_loaded_model_has_the_accuracy_that_the_index_states(
    adapter: str, exported: Path, ran: Ran
) -> None:
    entry = read_index(exported).find("digits", adapter)
    model = load(exported, "digits", adapter, suite="mini", backbone="vit_mini")
    assert not model.training
    found, labels = logits(model, ran.data)
    assert found.shape == (TASK.test, entry.classes)
    accuracy = (found.argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(entry.test_accuracy, abs=1.5 / TASK.test)
    assert accuracy > 0.2, "it learned something, so that the comparison says something"


def test_a_registry_or_a_sweep_informs_later_searches_by_val_alone(
    exported: Path, ran: Ran, tmp_path: Path
) -> None:
    found = dict(earlier_searches(str(exported)))
    assert found.keys() == {"lora", "linear"}
    ((fields, score),) = found["lora"].trials
    assert (fields["rank"], fields["lr"], score) == (2, RECIPE.lr, 1.0)
    assert found["lora"].name == f"{exported}: digits/lora"

    paths = SweepPaths(tmp_path)
    identity = {"digits": DataIdentity("s", "t")}
    SweepFile.new(SWEEP, MINI, {}, identity, "w", "command").write(paths)
    for row in ran.results:
        Ledger(paths.ledger).append(row)
    found = dict(earlier_searches(str(tmp_path)))
    ((fields, value),) = found["lora"].trials
    (searched,) = [r for r in ran.results if (r.trial.stage, r.trial.adapter) == ("search", "lora")]
    assert (fields["rank"], value) == (2, searched.value), "the search trial, not the finals"
    with pytest.raises(InvalidInput, match="neither a sweep nor a registry"):
        earlier_searches(str(tmp_path / "empty"))
    changed = exported.with_name("changed")
    shutil.copytree(exported, changed)
    config = changed / read_index(exported).entries[0].path / CONFIG
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        earlier_searches(str(changed))


def test_the_index_states_the_first_seed_and_all_of_them(exported: Path, ran: Ran) -> None:
    index = read_index(exported)
    assert [(e.task, e.adapter) for e in index.entries] == [
        ("digits", "lora"),
        ("digits", "linear"),
    ]
    for entry in index.entries:
        finals = {
            row.trial.seed: row
            for row in ran.results
            if row.trial.stage == "final" and row.trial.adapter == entry.adapter
        }
        values = [row.value for row in finals.values()]
        assert (entry.seed, entry.key, entry.seeds) == (1, finals[1].key, 2)
        assert entry.test_accuracy == finals[1].value
        assert entry.test_mean == pytest.approx(sum(v for v in values if v is not None) / 2)
        folder = exported / entry.path
        config = json.loads((folder / CONFIG).read_text())
        assert config["recipe"]["normalisation"] == "half"
        assert config["params"] == finals[1].trial.params
        evidence = json.loads((folder / EVIDENCE).read_text())
        assert [row["key"] for row in evidence["finals"]] == [finals[1].key, finals[2].key]
        searched = [
            row.value
            for row in ran.results
            if (row.trial.stage, row.trial.adapter) == ("search", entry.adapter)
        ]
        assert [evidence["search_value"]] == searched
        images = evidence["test"]["images"]
        assert images["low"] < entry.test_mean < images["high"]


def test_a_seed_that_diverged_counts_as_0_and_another_one_is_exported(
    ran: Ran, tmp_path: Path
) -> None:
    rows = [
        replace(row, status="diverged", value=None, curve=(), correct=b"", files={})
        if (row.trial.stage, row.trial.seed) == ("final", 1)
        else row
        for row in ran.results
    ]
    index = export(summarise(rows, SWEEP, MINI), rows, ran.adapters, tmp_path / "registry")
    for entry in index.entries:
        assert (entry.seed, entry.seeds) == (2, 2)
        assert entry.test_mean == pytest.approx(entry.test_accuracy / 2)
        evidence = json.loads((tmp_path / "registry" / entry.path / EVIDENCE).read_text())
        assert evidence["diverged"].startswith("final seed 1 diverged and counts as 0")


@pytest.mark.parametrize("adapter", SWEEP.adapters)
def test_merged_weights_are_plain_timm(
    adapter: str, exported: Path, ran: Ran, tmp_path: Path
) -> None:
    path = export_merged(exported, "digits", adapter, tmp_path / "merged")
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["architecture"] == "vit_mini"
    assert about["normalisation"] == "half"
    model = vit_mini(num_classes=about["classes"]).eval()
    model.load_state_dict(load_file(path), strict=True)
    merged, _ = logits(model, ran.data)
    adapted, _ = logits(load(exported, "digits", adapter), ran.data)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    assert {p.name for p in path.parent.iterdir()} == {path.name, path.with_suffix(".json").name}


def test_merged_weights_need_a_folder_that_can_be_written(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot be written .* name another folder"):
        export_merged(exported, "digits", "lora", tmp_path / "file" / "merged")


def leaking(ran: Ran, folder: Path) -> tuple[list[TrialResult], Path]:
    """The same rows and weights as the protocol `paper` records them: best epoch above the last."""
    rows = []
    for row in ran.results:
        of = replace(row.trial, protocol="paper")
        last = row.curve[-1].eval_accuracy or 0.0
        rows.append(replace(row, trial=of, value=last + 0.01, test_reads=1))
        if of.stage == "final":
            shutil.copytree(ran.adapters / row.key, folder / of.key)
    return rows, folder


def test_winners_of_paper_alone_are_labelled_and_warn(ran: Ran, tmp_path: Path) -> None:
    rows, adapters = leaking(ran, tmp_path / "adapters")
    sweep = replace(SWEEP, protocols=("paper",))
    registry = tmp_path / "sweep" / "registry"
    export(summarise(rows, sweep, MINI, "paper"), rows, adapters, registry)
    entry = read_index(registry).find("digits", "lora")
    assert (entry.protocol, entry.leaks) == ("paper", True)
    assert entry.warning.startswith("LEAKS: configuration and epoch were chosen on the test split")
    for name in (CONFIG, EVIDENCE):
        content = json.loads((registry / entry.path / name).read_text())
        assert (content["protocol"], content["warning"]) == ("paper", entry.warning)
    with pytest.warns(UserWarning, match="digits/lora: LEAKS: .* test split") as caught:
        model = load(registry, "digits", "lora")
    assert caught[0].filename == __file__
    found, labels = logits(model, ran.data)
    accuracy = (found.argmax(1) == labels).float().mean().item()
    assert TASK.test is not None
    assert accuracy == pytest.approx(entry.test_accuracy, abs=1.5 / TASK.test), "the last epoch's"
    best = [
        row.value or 0.0
        for row in rows
        if row.trial.stage == "final" and row.trial.adapter == "lora"
    ]
    assert entry.test_mean == pytest.approx(sum(best) / 2), "the best epochs'"
    with pytest.warns(UserWarning, match="LEAKS"):
        path = export_merged(registry, "digits", "lora", tmp_path / "merged")
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["protocol"], about["warning"]) == ("paper", entry.warning)


def test_of_both_protocols_the_honest_winners_are_exported(ran: Ran, tmp_path: Path) -> None:
    rows, _ = leaking(ran, tmp_path / "adapters")
    both = [*ran.results, *rows]
    sweep = replace(SWEEP, protocols=("honest", "paper"))
    registry = tmp_path / "sweep" / "registry"
    index = export(summarise(both, sweep, MINI), both, ran.adapters, registry)
    assert {(e.protocol, e.leaks, e.warning) for e in index.entries} == {("honest", False, "")}
    assert [e.key for e in index.entries] == [
        next(r.key for r in ran.results if (r.trial.adapter, r.trial.seed) == (name, 1))
        for name in SWEEP.adapters
    ]
    config = json.loads((registry / index.entries[0].path / CONFIG).read_text())
    assert config["protocol"] == "honest" and "warning" not in config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(registry, "digits", "lora")


def test_exporting_again_replaces_everything(ran: Ran, registry: Path) -> None:
    """Also what a killed export left."""
    for left in (registry, *(registry.parent / f".registry.{name}" for name in ("draft", "old"))):
        (left / "left over").mkdir(parents=True)
    fewer = [row for row in ran.results if row.trial.adapter == "lora"]
    summary = summarise(fewer, SWEEP, MINI)
    told: list[str] = []
    index = export(summary, fewer, ran.adapters, registry, lost=told.append)
    (sentence,) = told
    assert "no longer has 1 of the entries that it had: digits/linear (not started)" in sentence
    assert [e.adapter for e in index.entries] == ["lora"]
    assert read_index(registry) == index
    assert sorted(p.name for p in registry.iterdir()) == [INDEX, "mini"]
    assert {p.name for p in registry.parent.iterdir()} == {"registry", ".registry.lock"}
    with pytest.raises(InvalidInput, match="'digits/linear'"):
        load(registry, "digits", "linear")


def test_an_unfinished_study_is_left_out(ran: Ran, tmp_path: Path) -> None:
    rows = [r for r in ran.results if (r.trial.adapter, r.trial.seed) != ("lora", 2)]
    index = export(summarise(rows, SWEEP, MINI), rows, ran.adapters, tmp_path / "registry")
    assert [entry.adapter for entry in index.entries] == ["linear"]


def test_lost_weights_say_what_to_do_and_keep_the_old_registry(
    ran: Ran, registry: Path, tmp_path: Path
) -> None:
    before = read_index(registry)
    with pytest.raises(CheckpointError, match=r"cannot be copied .*fragments/\w{32}\.parquet away"):
        export(ran.summary, ran.results, tmp_path / "nowhere", registry)
    assert read_index(registry) == before


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_adapter_that_is_not_what_was_trained_is_not_exported(
    name: str, ran: Ran, tmp_path: Path
) -> None:
    adapters, registry = shutil.copytree(ran.adapters, tmp_path / "adapters"), tmp_path / "registry"
    final = next(r for r in ran.results if r.trial.stage == "final" and r.trial.seed == 1)
    victim = adapters / final.key / name
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not what was trained .*SHA-256.*parquet away"):
        export(ran.summary, ran.results, adapters, registry)
    assert not registry.exists()
    earlier = [replace(row, files={}) for row in ran.results]  # without checksums
    assert len(export(summarise(earlier, SWEEP, MINI), earlier, adapters, registry).entries) == 2


def test_a_full_disk_is_not_taken_for_lost_weights(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orchestrator.storage.files.write_whole", full)
    with pytest.raises(CheckpointError, match=r"registry' cannot be written .*No space") as caught:
        export(ran.summary, ran.results, ran.adapters, tmp_path / "registry")
    assert is_transient(caught.value), "it is tried again"


@pytest.mark.parametrize(
    ("names", "fragments"),
    [
        (("digit", "lora"), ["'digit/lora'", "Did you mean 'digits/lora'?"]),
        (("digits", "hta"), ["'digits/hta'", "digits/linear, digits/lora"]),
        (("digits", "lora", "vtab"), ["suite=vtab", "suite=mini"]),
        (("digits", "lora", "mini", "vit_base"), ["backbone=vit_base", "backbone=vit_mini"]),
    ],
)
def test_unknown_names_are_refused_with_the_alternatives(
    names: tuple[str, ...], fragments: list[str], exported: Path
) -> None:
    with pytest.raises(InvalidInput, match="unknown registry entry") as error:
        load(exported, *names)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_two_entries_of_one_name_must_be_told_apart(exported: Path) -> None:
    index = read_index(exported)
    twice = index.model_copy(
        update={"entries": (*index.entries, index.entries[0].model_copy(update={"suite": "vtab"}))}
    )
    with pytest.raises(InvalidInput, match=r"several entries .*suite=vtab.*add suite= or"):
        twice.find("digits", "lora")
    assert twice.find("digits", "lora", suite="vtab").suite == "vtab"


def edit_index(
    registry: Path, change: Callable[[dict[str, Any]], Any], forged: bool = True
) -> None:
    """Changes the index; `forged`: with the checksum that it must have then."""
    index = json.loads((registry / INDEX).read_text())
    change(index)
    if forged:
        index.pop("checksum", None)
        index["checksum"] = digest(index)
    (registry / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 9},
        {"test_accuracy": 0.99},
        {"test_mean": 0.99},
        {"test_std": 0.0},
        {"seeds": 5},
        {"seed": 2},
        {"key": "f" * 32},
        {"config": "f" * 16},
        {"protocol": "paper", "leaks": True, "warning": "LEAKS"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:digits/lora. LEAKS")
def test_an_index_that_was_edited_is_refused(change: dict[str, Any], registry: Path) -> None:
    edit_index(registry, lambda index: index["entries"][0].update(change), forged=False)
    with pytest.raises(CheckpointError, match=r"damaged or edited by hand.*export DIR"):
        load(registry, "digits", "lora")
    edit_index(registry, lambda index: index.pop("checksum"), forged=False)
    with (
        pytest.warns(UserWarning, match=r"index\.json' has no checksum .*cannot be seen"),
        pytest.raises(CheckpointError, match=r"index.*export DIR"),
    ):
        load(registry, "digits", "lora")  # as one of earlier versions, which lacked it


def test_the_checksum_of_an_index_covers_all_of_it(registry: Path) -> None:
    edit_index(registry, lambda index: index.update(created=1.0), forged=False)
    with pytest.raises(CheckpointError, match="damaged or edited by hand"):
        read_index(registry)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"classes": 0}, "entries.0.classes"),
        ({"classes": 10**9}, "entries.0.classes"),
        ({"classes": "10"}, "entries.0.classes"),
        ({"test_accuracy": 1.5}, "entries.0.test_accuracy"),
        ({"test_mean": -0.1}, "entries.0.test_mean"),
        ({"test_std": "NaN"}, "entries.0.test_std"),
        ({"seeds": 0}, "entries.0.seeds"),
        ({"seed": -1}, "entries.0.seed"),
        ({"parameters": -1}, "entries.0.parameters"),
        ({"protocol": "best"}, "entries.0.protocol"),
        ({"protocol": "paper"}, "entries.0.*leaks.*protocol 'paper'"),
        ({"leaks": True}, "entries.0.*leaks"),
        ({"sha256": {CONFIG: "x"}}, "entries.0.sha256.config.json"),
        ({"task": ""}, "entries.0.task"),
        ({"task": "x" * 10_000}, "entries.0.task"),
        ({"classes": 0, "seeds": 0}, "entries.0.classes.*entries.0.seeds"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_an_entry_cannot_be_is_refused_all_at_once(
    change: dict[str, Any], where: str, registry: Path
) -> None:
    edit_index(registry, lambda index: index["entries"][0].update(change))
    with pytest.raises(CheckpointError, match=rf"is damaged at .*{where}"):
        read_index(registry)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda index: index.update(format=2), "format"),
        (lambda index: index.update(extra=1), "extra"),
        (lambda index: index["entries"][0].pop("path"), "entries.0.path"),
        (lambda index: index["entries"][1].update(classes="many"), "entries.1.classes"),
        (lambda index: index.update(entries=None), "entries"),
    ],
)
def test_a_damaged_index_is_named(
    change: Callable[[dict[str, Any]], Any], where: str, registry: Path
) -> None:
    edit_index(registry, change)
    with pytest.raises(CheckpointError, match=rf"index\.json' is damaged at {where}.*export DIR"):
        read_index(registry)


def test_an_index_that_is_no_json_or_not_there_is_named(registry: Path) -> None:
    (registry / INDEX).write_bytes((registry / INDEX).read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"index\.json' is damaged at its text"):
        read_index(registry)
    for text in (
        "[" * 100_000,
        '{"created": 1.0, "created": 2.0}',
        '{"created": NaN}',
        "9" * 5000,
        b"\xff\xfe",
    ):
        (registry / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(CheckpointError, match=r"index\.json' is damaged at its text: "):
            read_index(registry)
    (registry / INDEX).unlink()
    with pytest.raises(InvalidInput, match=r"is no registry .*export DIR"):
        load(registry, "digits", "lora")
    os.mkfifo(registry / INDEX)
    with pytest.raises(InvalidInput, match=r"is no registry .*it is no regular file"):
        load(registry, "digits", "lora")


@pytest.mark.parametrize("path", ["../../etc", "/etc", "mini/../../..", "a\0b"])
def test_an_entry_cannot_point_outside_its_registry(path: str, registry: Path) -> None:
    edit_index(registry, lambda index: index["entries"][0].update(path=path))
    with pytest.raises(CheckpointError, match="points outside its registry"):
        load(registry, "digits", "lora")


@pytest.mark.parametrize("name", [CONFIG, *WEIGHTS, "", "loop"])
def test_a_link_cannot_lead_outside_its_registry(name: str, registry: Path, tmp_path: Path) -> None:
    place = registry / read_index(registry).find("digits", "lora").path
    victim = place / (WEIGHTS[1] if name == "loop" else name)
    moved = tmp_path / "elsewhere"
    victim.rename(moved)
    victim.symlink_to(victim if name == "loop" else moved)
    for read in (load, lambda *at: export_merged(*at, registry.parent / "merged")):
        with pytest.raises(CheckpointError, match="points outside its registry"):
            read(registry, "digits", "lora")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(registry: Path) -> None:
    victim = registry / read_index(registry).find("digits", "lora").path / WEIGHTS[1]
    victim.unlink()
    os.mkfifo(victim)
    with pytest.raises(CheckpointError, match=r"cannot be read: it is no regular file"):
        load(registry, "digits", "lora")


def test_names_that_are_paths_stay_inside(ran: Ran, tmp_path: Path) -> None:
    hostile = [
        replace(row, trial=replace(row.trial, backbone="../../up@/etc/x.safetensors"))
        for row in ran.results
    ]
    adapters = tmp_path / "adapters"
    for old, new in zip(ran.results, hostile, strict=True):
        if old.trial.stage == "final":
            shutil.copytree(ran.adapters / old.key, adapters / new.key)
    sweep = replace(SWEEP, backbone="../../up@/etc/x.safetensors")
    registry = tmp_path / "sweep" / "registry"
    index = export(summarise(hostile, sweep, MINI), hostile, adapters, registry)
    assert len(index.entries) == 2
    assert all(
        (registry / entry.path).resolve().is_relative_to(registry) for entry in index.entries
    )
    assert all(len(Path(entry.path).parts) == 4 for entry in index.entries)


@pytest.mark.parametrize("name", [CONFIG, *WEIGHTS])
def test_a_changed_file_is_refused(name: str, registry: Path) -> None:
    victim = registry / read_index(registry).find("digits", "lora").path / name
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for read in (load, lambda *at: export_merged(*at, registry.parent / "merged")):
        with pytest.raises(
            CheckpointError, match=r"is not what was exported .*export DIR"
        ) as error:
            read(registry, "digits", "lora")
        assert str(victim) in str(error.value)
    victim.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file .*export DIR"):
        load(registry, "digits", "lora")


def with_content(registry: Path, name: str, content: bytes) -> None:
    """Puts `content` in a file of the entry and its fingerprint in the index, as a forger would."""
    path = registry / read_index(registry).find("digits", "lora").path / name
    path.write_bytes(content)
    sha256 = files.fingerprint(path)
    edit_index(registry, lambda index: index["entries"][0]["sha256"].update({name: sha256}))


def test_loading_executes_nothing(registry: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with_content(registry, WEIGHTS[1], f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load(registry, "digits", "lora")
    assert not marker.exists()


@pytest.mark.parametrize(
    "config",
    [
        b"{",
        b'{"format": 1, "adapter": "os.system", "hyper_parameters": {}}',
        b'{"format": 1, "adapter": "lora", "hyper_parameters": {"rank": 16}}',
        b'{"format": 1, "adapter": "lora", "hyper_parameters": {"rank": 1000000000}}',
        b'{"format": 1, "adapter": "linear", "hyper_parameters": {}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_forged_adapter_configuration_is_an_error(config: bytes, registry: Path) -> None:
    with_content(registry, WEIGHTS[0], config)
    with pytest.raises(CheckpointError):
        load(registry, "digits", "lora")


@pytest.mark.parametrize("wrong", ["int32", "float16", "float8_e8m0fnu"])
def test_weights_of_another_type_are_refused(wrong: str, registry: Path) -> None:
    """The header of a safetensors file may call its bytes what they are not."""
    tensors = load_file(registry / read_index(registry).find("digits", "lora").path / WEIGHTS[1])
    kind = getattr(torch, wrong)
    lied = {n: t.contiguous().view(kind).reshape(*t.shape, -1)[..., 0] for n, t in tensors.items()}
    with_content(registry, WEIGHTS[1], save({n: t.contiguous() for n, t in lied.items()}))
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        load(registry, "digits", "lora")


def test_other_backbone_weights_are_refused(registry: Path) -> None:
    edit_index(registry, lambda index: index["entries"][0].update(weights="f" * 64))
    with pytest.raises(CheckpointError, match=r"'vit_mini' here have fingerprint .*ffffffffffff"):
        load(registry, "digits", "lora")
