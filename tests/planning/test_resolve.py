"""From options to frozen studies, and what a second command may change."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from adapters import get
from adapters.names import built_in
from orchestrator import tasks
from orchestrator.errors import InvalidInput
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.extension import check_identities, extend
from orchestrator.planning.resolve import check_batches, plan_studies, plan_sweep
from orchestrator.results.sweep_file import SweepFile, read_sweep
from orchestrator.spec import RECIPE_FIELDS, DataIdentity, Study, Sweep
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tasks.suites import MINI
from search_spaces import grid_size


def sweep(**changes: Any) -> Sweep:
    return plan_sweep(SweepConfig(suite="mini", **changes))[1]


@pytest.mark.parametrize(
    ("device", "gpu", "bf16", "precision"),
    [
        ("cpu", True, True, "fp32"),
        ("cuda", False, False, "bf16"),  # of another machine
        ("cuda:1", False, False, "bf16"),
        ("auto", False, False, "fp32"),
        ("auto", True, False, "fp32"),
        ("auto", True, True, "bf16"),
    ],
)
def test_frozen_weights_are_bf16_on_gpus_that_have_it(
    device: str, gpu: bool, bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: bf16 and not emulated)
    assert sweep(device=device).recipe.precision == precision
    assert sweep(device=device, precision="fp32").recipe.precision == "fp32"


def refused(*fragments: str, **changes: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        sweep(**changes)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_nothing_chosen_is_the_suites_default() -> None:
    suite, found = plan_sweep(SweepConfig(suite="mini"))
    assert (found.tasks, found.adapters) == (suite.default_tasks, suite.default_adapters)
    assert found.recipe == suite.recipe.with_values({"precision": found.recipe.precision})
    assert found.backbone == suite.backbone
    assert (found.sampler, found.stopping, found.seeds) == ("grid", "asha", 3)
    assert found.spaces["lora"] == {"rank": [2, 8]}


@pytest.mark.parametrize(
    ("values", "honest", "paper"),
    [
        ({}, "cosine", "timm_epoch"),
        ({"schedule": "cosine"}, "cosine", "cosine"),
        ({"schedule": "timm_epoch"}, "timm_epoch", "timm_epoch"),
    ],
)
def test_the_paper_protocol_has_its_scripts_schedule_unless_one_is_given(
    values: dict[str, str], honest: str, paper: str
) -> None:
    found = replace(sweep(set=values, protocol="paper"), protocols=("honest", "paper"))
    data = {name: DataIdentity(name, "t") for name in found.tasks}
    studies = plan_studies(found, data, "w")
    assert {(s.protocol, s.recipe.schedule) for s in studies} == {
        ("honest", honest), ("paper", paper)
    }  # fmt: skip


def test_a_published_recipe_holds_per_task_and_what_is_given_wins() -> None:
    config = SweepConfig(
        suite="vtab", adapter=("ssf", "arc", "efft2"), tasks=("kitti", "eurosat"), epochs=22,
        recipe="published", set={"drop_path": 0.3}, precision="fp32",
    )  # fmt: skip
    _, found = plan_sweep(config)
    assert found.spaces["ssf"] == {}, "what the recipe fixes is not searched"
    assert set(found.spaces["efft2"]) == {"scale", "rank", "init"}
    vpt, one, told = (
        plan_sweep(
            SweepConfig(suite="vtab", adapter=("vpt_deep", "ssf"), recipe="published", **also)
        )
        for also in ({}, {"set": {"lr": 0.25}}, {"space": {"ssf": {"lr": [0.1, 0.3]}}})
    )
    assert len(vpt[1].spaces["vpt_deep"]["lr"]) == 10, "what the script searches is searched"
    assert set(vpt[1].spaces["vpt_deep"]) == {"prompts", "lr", "weight_decay"}
    assert set(one[1].spaces["vpt_deep"]) == {"prompts", "weight_decay"}
    assert told[1].spaces["ssf"] == {"lr": [0.1, 0.3]}, "--space wins over the recipe"
    data = {name: DataIdentity(name, "t") for name in found.tasks}
    recipes = {s.name: s.recipe for s in plan_studies(found, data, "w")}
    ssf, other = recipes["kitti/ssf"], recipes["eurosat/ssf"]
    assert (ssf.lr, ssf.weight_decay, other.lr, other.weight_decay) == (0.01, 5e-5, 0.003, 0.05)
    assert (ssf.schedule, ssf.normalisation, ssf.batch) == ("timm", "half", 64)
    arc = recipes["kitti/arc"]
    assert (arc.lr, arc.clip, arc.batch, arc.head_init) == (0.01, 1.0, 32, "zero")
    for recipe in recipes.values():
        assert (recipe.epochs, recipe.warmup_epochs, recipe.cooldown_epochs) == (22, 2, 0)
        assert (recipe.drop_path, recipe.precision) == (0.3, "fp32")
    whole = plan_sweep(config.model_copy(update={"epochs": None}))[1]
    ssf = next(s.recipe for s in plan_studies(whole, data, "w") if s.name == "kitti/ssf")
    assert (ssf.epochs, ssf.warmup_epochs, ssf.cooldown_epochs) == (110, 10, 10)
    with pytest.raises(InvalidInput, match=r"no recipe of hta, linear is known.*efft1"):
        plan_sweep(SweepConfig(suite="vtab", adapter=("hta", "ssf", "linear"), recipe="published"))
    with pytest.raises(InvalidInput, match="unknown recipe 'theirs'"):
        plan_sweep(SweepConfig(suite="vtab", recipe="theirs"))
    shared = plan_sweep(SweepConfig(suite="vtab", adapter=("ssf",), tasks=("kitti",)))[1]
    published = plan_sweep(
        SweepConfig(suite="vtab", adapter=("ssf",), tasks=("kitti",), recipe="published")
    )[1]
    suite = tasks.suite("vtab")
    with pytest.raises(InvalidInput, match="recipe_kind: shared there, published now"):
        extend(shared, published, suite)
    more = plan_sweep(
        SweepConfig(suite="vtab", adapter=("arc",), tasks=("eurosat",), recipe="published")
    )[1]
    both = plan_studies(extend(published, more, suite), data, "w")
    assert {s.name: s.recipe.lr for s in both} == {
        "kitti/ssf": 0.01, "eurosat/ssf": 0.003, "kitti/arc": 0.01, "eurosat/arc": 0.01,
    }  # fmt: skip
    newer = {**published.published_recipes, "kitti/ssf": {"lr": 0.02}}  # of another version
    with pytest.raises(InvalidInput, match=r"published_recipes\[kitti/ssf\]: .*0.02\} now"):
        extend(published, replace(published, published_recipes=newer), suite)


def test_fair_gives_every_adapter_the_same_recipe_fields_and_budget() -> None:
    adapters = ("linear", "lora", "ssf", "hta", "noah")
    for trials, expected in ((None, 35), (20, 20), (500, 35)):
        found = sweep(adapter=adapters, preset="fair", trials=trials)
        assert (found.sampler, found.trials) == ("tpe", expected)
        for name in adapters:
            common = {key: v for key, v in found.spaces[name].items() if key in RECIPE_FIELDS}
            assert common == found.spaces["linear"]
            assert set(common) == {"lr", "weight_decay"}
        assert set(found.spaces["hta"]) == {"lr", "weight_decay", "rank", "dropout"}


def test_the_published_prior_fixes_what_its_number_depended_on() -> None:
    found = sweep(adapter=("efft2", "lora"), prior=("published",))
    assert {"cores": "shared", "dropout": 0.1}.items() <= found.fixed["efft2"].items()
    assert "lora" not in found.fixed
    space = {"efft2": {"cores": "per_layer", "dropout": [0.0, 0.1]}}
    other = sweep(adapter=("efft2",), prior=("published",), space=space)
    assert other.fixed["efft2"]["cores"] == "per_layer"
    assert "dropout" not in other.fixed["efft2"]


def test_studies_hold_what_is_searched_and_what_is_not() -> None:
    found = sweep(adapter=("efft2", "linear"), tasks=("digits", "textures"))
    data = {name: DataIdentity(name, "t") for name in found.tasks}
    studies = plan_studies(found, data, "w")
    assert [s.name for s in studies] == [
        "digits/efft2", "textures/efft2", "digits/linear", "textures/linear",
    ]  # fmt: skip
    first = studies[0]
    assert set(first.space) == {"scale"}
    assert first.params["rank"] == 8
    assert first.params["init"] == "vv"
    assert (first.data, first.weights) == (data["digits"], "w")


def test_tasks_come_in_the_suites_order_and_once() -> None:
    assert sweep(tasks=("textures", "digits", "textures")).tasks == ("digits", "textures")
    assert len(sweep(tasks=("all",)).tasks) == 6
    assert sweep(adapter=("lora", "linear", "lora")).adapters == ("lora", "linear")


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (2, 0), (5, 1), (16, 2), (100, 14)])
def test_epochs_scale_the_warm_up(epochs: int, warmup: int) -> None:
    for found in (sweep(epochs=epochs), sweep(set={"epochs": epochs})):
        assert (found.recipe.epochs, found.recipe.warmup_epochs) == (epochs, warmup)
    chosen = sweep(epochs=100, set={"warmup_epochs": 3}).recipe
    assert (chosen.epochs, chosen.warmup_epochs) == (100, 3)


def test_a_field_is_not_given_two_values() -> None:
    assert sweep(epochs=5, set={"epochs": 5}).recipe.epochs == 5
    refused("'epochs' is given twice", "5", "6", epochs=5, set={"epochs": 6})


def test_a_space_is_narrowed_and_a_single_value_fixes_a_field() -> None:
    space = {"lora": {"rank": 4, "lr": [1e-3, 1e-2], "dropout": {"low": 0.0, "high": 0.2}}}
    found = sweep(adapter=("lora",), space=space, sampler="tpe")
    assert found.fixed["lora"] == {"rank": 4}
    study = plan_studies(found, {t: DataIdentity("s", "t") for t in found.tasks}, "w")[0]
    assert study.space == {
        "lr": CategoricalDistribution([1e-3, 1e-2]),
        "dropout": FloatDistribution(0.0, 0.2),
    }
    assert study.params["rank"] == 4


def planned(found: Sweep) -> Study:
    return plan_studies(found, {task: DataIdentity("s", "t") for task in found.tasks}, "w")[0]


def test_the_ablation_preset_searches_places_and_nothing_else() -> None:
    suite, found = plan_sweep(SweepConfig(suite="mini", adapter=("efft2",), preset="ablation"))
    assert suite == MINI
    assert found.spaces["efft2"] == {
        "layers": [None, "0", "0-1", "1-2", "3"],
        "sites": ["mhsa", "ffn", "mhsa+ffn"],
    }
    assert found.fixed == {}
    assert (found.sampler, found.stopping, found.trials) == ("grid", "none", None)
    study = planned(found)
    assert study.params == get("efft2")().to_dict(), "the rest at its default"
    assert grid_size(study.space) == 15
    assert (found.seeds, found.replicate) == (MINI.seeds, MINI.replicate)
    assert found.recipe == MINI.recipe.with_values({"precision": found.recipe.precision})


def test_a_preset_gives_way_to_what_is_chosen() -> None:
    space = {"efft2": {"sites": ["mhsa", "ffn"], "scale": 10}}
    found = sweep(
        adapter=("efft2",), preset="ablation", space=space, sampler="tpe", stopping="asha", trials=3
    )
    assert grid_size(planned(found).space) == 10
    assert found.fixed["efft2"] == {"scale": 10}
    assert (found.sampler, found.stopping, found.trials) == ("tpe", "asha", 3)


def test_a_preset_in_the_folder_of_another_sweep_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"spaces\[lora\]"):
        extend(sweep(adapter=("lora",)), sweep(adapter=("lora",), preset="ablation"), MINI)


def test_selections_can_be_narrowed_and_fixed() -> None:
    space = {"lora": {"rank": 4, "layers": ["0-1", "2+3"], "sites": "q+v+fc1"}}
    study = planned(sweep(adapter=("lora",), space=space))
    assert study.space == {"layers": CategoricalDistribution(("0-1", "2-3"))}
    assert study.params["sites"] == ["q", "v", "fc1"]


def test_mini_searches_a_handful_of_configurations_of_every_adapter() -> None:
    sizes = {name: grid_size(planned(sweep(adapter=(name,))).space) for name in built_in()}
    assert all(size in (2, 3, 4, 5) for size in sizes.values()), sizes


def test_what_is_set_by_hand_leaves_the_space() -> None:
    space = {"linear": {"lr": [0.1, 0.2], "precision": ["fp32", "bf16"], "epochs": [3, 5]}}
    found = sweep(adapter=("linear",), space=space, set={"lr": 0.3}, precision="fp32", epochs=4)
    assert found.spaces["linear"] == {}
    assert (found.recipe.lr, found.recipe.precision, found.recipe.epochs) == (0.3, "fp32", 4)


def test_epochs_and_warm_up_are_tried_together() -> None:
    both = {"linear": {"epochs": [2, 4], "warmup_epochs": [0, 1]}}
    found = sweep(adapter=("linear",), space=both).spaces["linear"]
    assert both["linear"].items() <= found.items()
    both = {"linear": {"epochs": [2, 4], "warmup_epochs": [1, 3]}}
    refused(
        "adapter 'linear'", "warmup_epochs", "below epochs (2)", adapter=("linear",), space=both
    )


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"tasks": ("digit",)}, ["'digit'", "Did you mean 'digits'?"]),
        ({"adapter": ("lorra",)}, ["'lorra'", "Did you mean 'lora'?"]),
        ({"sampler": "gird"}, ["sampler 'gird'", "grid"]),
        ({"stopping": "asa"}, ["stopping rule 'asa'", "asha"]),
        ({"prior": ("publishd",)}, ["prior 'publishd'", "Did you mean 'published'?"]),
        ({"prior": ("best",)}, ["prior 'best'", "published", "folder"]),
        ({"prior": ("sweep", "none")}, ["--prior none and sweep"]),
        ({"preset": "ablations"}, ["preset 'ablations'", "ablation"]),
        ({"preset": "ablation"}, ["preset 'ablation'", "'linear' has no layers, sites"]),
        ({"space": {"lora": {"layers": ["0-2", "x"]}}}, ["'lora'", "layers is 'x'", "'0-2'"]),
        ({"space": {"lora": {"layers": ["0-99999999999"]}}}, ["'lora'", "0-99999999999"]),
        ({"space": {"lora": {"rank": [4, 10**9]}}}, ["'lora'", "1000000000", "16,384"]),
        ({"space": {"lora": {"rank": {"low": 1, "high": 10**9}}}}, ["'lora'", "16,384"]),
        ({"space": {"lora": {"rank": 10**9}}}, ["'lora'", "16,384"]),
        ({"space": {"lora": {"layers": ["0-1", "3-4"]}}}, ["'lora'", "[4]", "0…3"]),
        ({"space": {"lora": {"sites": "mhssa"}}}, ["'lora'", "'mhssa'", "mhsa"]),
        ({"set": {"lrr": 1}}, ["recipe field 'lrr'", "Did you mean 'lr'?"]),
        ({"set": {"lr": "fast"}}, ["'lr'", "float", "'fast'"]),
        ({"set": {"lr": 10**400}}, ["'lr'", "float"]),
        ({"set": {"lr": float("nan")}}, ["'lr' is nan"]),
        ({"set": {"epochs": True}}, ["'epochs'", "int", "True"]),
        ({"set": {"drop_path": 1}}, ["'drop_path' is 1.0", "[0, 1)"]),
        ({"precision": "fp4"}, ["precision 'fp4'", "bf16"]),
        (
            {"space": {"lora": {"precision": ["auto", "bf16"]}}},
            ["'lora'", "'auto'", "bf16 or fp32"],
        ),
        ({"space": {"lorra": {}}}, ["--space 'lorra'", "lora"]),
        ({"space": {"lora": {"rnk": [1]}}}, ["'rnk'", "rank"]),
        ({"space": {"lora": {"rank": [0, 2]}}}, ["'lora'", "rank", "at least 1"]),
        ({"space": {"lora": {"rank": []}}}, ["'lora'", "no choices"]),
        ({"space": {"lora": {"lr": [-1.0]}}}, ["'lora'", "'lr' is -1.0", "above 0"]),
        ({"space": {"lora": {"dropout": {"low": 0.0, "high": 0.5}}}}, ["grid", "finite", "'lora'"]),
    ],
)
def test_every_typo_is_named_with_the_alternatives(
    changes: dict[str, Any], fragments: list[str]
) -> None:
    refused(*fragments, **changes)


def test_more_of_everything_extends_a_sweep() -> None:
    old = sweep(tasks=("textures",), adapter=("lora",), seeds=2, sampler="tpe", trials=2)
    new = sweep(
        tasks=("digits",), adapter=("linear",), seeds=3, replicate=4, sampler="tpe", trials=5
    )
    both = extend(old, new, MINI)
    assert both.tasks == ("digits", "textures")
    assert both.adapters == ("lora", "linear")
    assert set(both.spaces) == {"lora", "linear"}
    assert (both.seeds, both.replicate, both.trials) == (3, 4, 5)
    assert extend(old, old, MINI) == old
    also = sweep(
        tasks=("textures",), adapter=("lora",), seeds=2, sampler="tpe", trials=2, with_default=True
    )
    assert also.defaults == {"lora": get("lora")().to_dict()}
    for first, second in ((old, also), (also, old), (also, also)):
        assert extend(first, second, MINI) == also, "a default configuration is added, and stays"
    newer = replace(also, defaults={"lora": {**also.defaults["lora"], "rank": 1}})
    with pytest.raises(InvalidInput, match=r"defaults\[lora\]"):
        extend(also, newer, MINI)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"seeds": 2}, ["seeds: 3 there, 2 now"]),
        ({"replicate": 1}, ["replicate: 2 there, 1 now"]),
        ({"trials": 3}, ["trials: 4 there, 3 now"]),
        ({"trials": None}, ["trials: 4 there, None now"]),
        ({"sampler": "random"}, ["sampler: tpe there, random now"]),
        ({"stopping": "none"}, ["stopping: asha there, none now"]),
        ({"prior": ("published",)}, ["prior: () there, ('published',) now"]),
        ({"splits": "folds"}, ["splits: fixed there, folds now"]),
        ({"backbone": "vit_tiny_patch16_224"}, ["backbone: vit_mini there"]),
        ({"set": {"lr": 0.25}}, ["recipe: lr=0.01 there, lr=0.25 now", "another --out"]),
        ({"space": {"lora": {"rank": [4]}}}, ["spaces[lora]", "[2, 8]", "[4]"]),
        ({"space": {"efft2": {"rank": 16}}}, ["fixed[efft2]", "16"]),
    ],
)
def test_another_sweep_is_refused_saying_what_differs(
    changes: dict[str, Any], fragments: list[str]
) -> None:
    base: dict[str, Any] = {"sampler": "tpe", "trials": 4}
    with pytest.raises(InvalidInput, match="holds another sweep") as error:
        extend(sweep(**base), sweep(**{**base, **changes}), MINI)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert "batch" not in str(error.value), "only what differs is shown"


def test_how_often_val_is_read_makes_no_other_sweep() -> None:
    extended = extend(sweep(), sweep(set={"evaluate_every": 3}), MINI)
    assert extended.recipe.evaluate_every == 3


def test_a_batch_must_fit_into_every_training_split() -> None:
    counts = {"digits": {"train": 800}, "textures": {"train": 100}}
    check_batches([planned(sweep(set={"batch": 100}))], counts)
    with pytest.raises(InvalidInput, match=r"batch 101 .*'textures', which has 100 .*--set batch"):
        check_batches([planned(sweep(set={"batch": 101}))], counts)
    searched = sweep(adapter=("lora",), space={"lora": {"batch": [64, 128]}})
    with pytest.raises(InvalidInput, match=r"batch 128 of adapter 'lora' .*--space"):
        check_batches([planned(searched)], counts)


def test_changed_data_and_weights_are_refused() -> None:
    old, new = {"digits": DataIdentity("a", "t")}, {"digits": DataIdentity("b", "t")}
    check_identities("vit_mini", old, {**old, "count": DataIdentity("c", "t")}, "w", "w")
    with pytest.raises(InvalidInput, match=r"the data of digits changed .*another --out"):
        check_identities("vit_mini", old, new, "w", "w")
    with pytest.raises(InvalidInput, match=r"weights of 'vit_mini' changed .*w there, x now"):
        check_identities("vit_mini", old, old, "w", "x")


def test_a_limit_may_be_lifted_from_a_grid_only() -> None:
    assert extend(sweep(trials=1), sweep(), MINI).trials is None
    with pytest.raises(InvalidInput, match="trials: None there, 1 now"):
        extend(sweep(), sweep(trials=1), MINI)


def saved(folder: Path) -> SweepPaths:
    paths = SweepPaths(folder)
    made = sweep(tasks="digits", adapter=("lora",), space={"lora": {"rank": [2, 4], "lr": 0.01}})
    data, counts = {"digits": DataIdentity("s", "t")}, {"digits": {"train": 800}}
    SweepFile.new(made, MINI, counts, data, "w", "orchestrate …").write(paths)
    return paths


def test_a_sweep_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    found = read_sweep(paths)
    space = {"lora": {"rank": [2, 4], "lr": 0.01}}
    assert found.sweep == sweep(tasks="digits", adapter=("lora",), space=space)
    assert (found.suite, found.counts) == (MINI, {"digits": {"train": 800}})
    assert found.data == {"digits": DataIdentity("s", "t")}
    assert extend(found.sweep, replace(found.sweep, seeds=9), found.suite).seeds == 9


def test_a_folder_without_a_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere' holds no sweep"):
        read_sweep(SweepPaths(tmp_path / "nowhere"))
    assert SweepFile.read(SweepPaths(tmp_path)) is None


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (("sweep", "seeds"), "three", "sweep.seeds"),
        (("sweep", "tasks"), "digits", "sweep.tasks"),
        (("sweep", "recipe", "lr"), -1, "above 0"),
        (("sweep", "recipe", "schedule"), "linear", "cosine"),
        (("sweep",), None, "sweep"),
        (("data",), [], "data"),
        (("id",), 5, "id"),
        (("sweep", "tasks"), [], "sweep.tasks: none; allowed: each once, of digits"),
        (("sweep", "tasks"), ["digits", "digits"], "sweep.tasks: digits, digits"),
        (("sweep", "tasks"), ["digits", "roses"], "sweep.tasks: digits, roses"),
        (("sweep", "tasks"), ["count"], "sweep.tasks: count"),  # without a fingerprint
        (("sweep", "adapters"), [], "sweep.adapters: none; allowed: at least one"),
        (("sweep", "protocols"), ["kind"], "sweep.protocols: kind; allowed: each once, of honest"),
        (("sweep", "seeds"), 0, "sweep.seeds: 0; allowed: 1 or more"),
        (("sweep", "replicate"), -1, "sweep.replicate: -1"),
        (("sweep", "suite"), "vtab", "sweep.suite: 'vtab'; its suite is 'mini'"),
        (("data",), {}, "sweep.tasks: digits; allowed: at least one"),
    ],
)
def test_a_damaged_sweep_file_is_named(
    path: tuple[str, ...], value: Any, fragment: str, tmp_path: Path
) -> None:
    paths = saved(tmp_path)
    content = json.loads(paths.sweep.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    del content["checksum"]  # as earlier versions wrote it
    paths.sweep.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=r"sweep\.json' is damaged") as error:
        SweepFile.read(paths)
    assert fragment in str(error.value)


def test_no_flipped_bit_of_a_sweep_file_is_silent(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    content, sweep = paths.sweep.read_bytes(), SweepFile.read(paths)
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        paths.sweep.write_bytes(changed)
        try:
            assert SweepFile.read(paths) == sweep, position  # a space, say
        except InvalidInput as error:
            assert "is damaged" in str(error)


def test_a_sweep_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipe, denied = (SweepPaths(tmp_path / name) for name in ("a", "b", "c"))
    folder.sweep.mkdir(parents=True)
    pipe.out.mkdir()
    os.mkfifo(pipe.sweep)
    for paths in (folder, pipe):
        with pytest.raises(InvalidInput, match=r"sweep\.json' cannot be read: it is no regular"):
            SweepFile.read(paths)
    denied.out.mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InvalidInput, match=r"cannot be read: Permission denied\. Make the folder"):
        SweepFile.read(denied)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\0\0\0", "[" * 100_000, '{"id": 1, "id": 2}', "NaN", "9" * 5000],
    ids=lambda text: text[:20],
)
def test_a_sweep_file_of_other_text_is_named(text: str, tmp_path: Path) -> None:
    paths = SweepPaths(tmp_path)
    paths.sweep.write_text(text)
    with pytest.raises(InvalidInput, match=r"is damaged .* move it away"):
        SweepFile.read(paths)
