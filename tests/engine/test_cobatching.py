"""A trial trained alone equals the same trial trained with co-batched ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from adapters import AdapterError, build
from adapters.backbones import find_sites
from adapters.stack import start_member
from orchestrator.data.splits import SearchData
from orchestrator.engine.input import epoch_order
from orchestrator.engine.optimiser import learning_rate
from orchestrator.spec import Trial
from tests.engine.worlds import assert_same, backbone, run, search_data, trial

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

OTHER = {"task": "other"}
FAMILIES: dict[str, Sequence[Trial]] = {
    "efft2": (
        trial("efft2", {"rank": 2, "scale": 0.1, "init": "uv", "dropout": 0.3}, 1, drop_path=0.3),
        trial("efft2", {"rank": 6, "scale": 5.0, "ffn_rank": 3, "dropout": 0.0}, 2, **OTHER),
        trial("efft2", {"rank": 3, "init": "uu"}, 3, lr=1e-3, weight_decay=0.1, drop_path=0.1),
        trial("efft2", {"rank": 4, "scale": 1e6}, 4, lr=999.0, **OTHER),
    ),
    "linear": (
        trial("linear", {}, 1, lr=1e-2, drop_path=0.3),
        trial("linear", {}, 2, weight_decay=0.5, drop_path=0.1, **OTHER),
        trial("linear", {}, 3, lr=1e-3, drop_path=0.2, schedule="timm_epoch"),
        trial("linear", {}, 4, lr=999.0, weight_decay=999.0, drop_path=0.1, epochs=30, **OTHER),
    ),
}  # fmt: skip
CROPPED = {"augment": "crop_flip"}
FAMILIES["lora, cropped"] = (
    trial("lora", {"rank": 2, "dropout": 0.3}, 1, drop_path=0.3, **CROPPED),
    trial("lora", {"rank": 6, "alpha": 24.0}, 1, weight_decay=0.1, **CROPPED, **OTHER),
    trial("lora", {"rank": 1}, 3, epochs=4, warmup_epochs=2, **CROPPED),
    trial("lora", {"rank": 3}, 4, lr=999.0, weight_decay=900.0, **CROPPED, **OTHER),
)
KEPT: dict[str, Any] = {"last_batch": "keep", "optimiser": "sgd"}  # of 4 images, and of 1
FAMILIES["lora, sgd, last batch kept"] = (
    trial("lora", {"rank": 2, "dropout": 0.3}, 1, drop_path=0.3, schedule="cosine_step", **KEPT),
    trial("lora", {"rank": 6}, 2, weight_decay=0.1, clip=0.5, **KEPT, **OTHER),
    trial("lora", {"rank": 1}, 3, lr=1e-2, epochs=4, **KEPT),
    trial("lora", {"rank": 3}, 4, lr=999.0, weight_decay=900.0, **KEPT, **OTHER),
)


def data_of(one: Trial) -> SearchData:
    """Two tasks, of which one has fewer images and more classes."""
    view = "whole" if one.recipe.augment == "none" else "centre"
    classes, train = (4, 44) if one.task == "grey" else (7, 33)
    return search_data(one.task, classes, train, view)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_alone_equals_the_cobatched_trial(family: str) -> None:
    """The second trial joins when the others have made seven steps."""
    trials = FAMILIES[family]
    pairs = [(one, data_of(one)) for one in trials]
    together = run([pairs[0], *pairs[2:]], late={7: pairs[1]})
    for one, data in pairs:
        alone = run([(one, data)])
        assert_same(together, alone, one.key)
        assert together.results[one.key].parameters == alone.results[one.key].parameters
    *others, last = (together.results[one.key] for one in trials)
    assert [row.status for row in others] == ["finished"] * 3
    assert (last.status, last.value, last.eval_loss) == ("diverged", None, None)
    assert last.correct == b""
    assert re.fullmatch(r"diverged at step \d+: its (training|evaluation) loss .*", last.message)


@pytest.mark.parametrize("adapter", ["lora", "linear"])
def test_the_same_trial_twice_is_the_same(adapter: str) -> None:
    one = trial(adapter, {}, 3)
    first, second = run([(one, data_of(one))]), run([(one, data_of(one))])
    assert_same(first, second, one.key, to=0)


def test_different_seeds_differ() -> None:
    one, two = trial(seed=1), trial(seed=2)
    seen = run([(one, data_of(one)), (two, data_of(two))])
    assert not np.isclose(
        seen.results[one.key].curve[0].loss, seen.results[two.key].curve[0].loss, atol=1e-4
    )


@pytest.mark.parametrize("batch", [8, 50])
@pytest.mark.parametrize("adapter", ["linear", "mlp_head"])
def test_a_kept_last_batch_is_that_of_a_plain_loop(adapter: str, batch: int) -> None:
    """44 images in batches of 8 (the last has 4) or in one of 50, beside a trial that is elsewhere
    in its epoch: torch's own SGD and layers, batch norm's running statistics too."""
    own = {"hidden": 1, "dropout": 0.0} if adapter == "mlp_head" else {}
    recipe: dict[str, Any] = {"batch": batch, "lr": 0.05, "weight_decay": 0.01,
                              "schedule": "cosine_step", **KEPT}  # fmt: skip
    one, other = trial(adapter, own, 1, **recipe), trial(adapter, own, 2, **recipe, **OTHER)
    data = search_data()
    seen = run([(other, search_data("other", 7, 38))], late={2: (one, data)})

    bone = backbone()
    pixels = torch.from_numpy(data.train.images.copy()).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    features = bone.model((pixels - mean) / std).detach()
    labels = torch.from_numpy(data.train.labels.copy())
    start = start_member(build(adapter, own), find_sites(bone.model), 1, 4).tensors
    norm = torch.nn.BatchNorm1d(32)
    names = [name for name in start if "state" not in name]
    parameters = {name: torch.nn.Parameter(start[name].clone()) for name in names}
    sgd = torch.optim.SGD(parameters.values(), lr=1.0, momentum=0.9, weight_decay=0.01)
    losses, steps = [], -(-44 // batch)
    for epoch in range(one.recipe.epochs):
        order = epoch_order(44, 1, epoch, torch.device("cpu"))
        for step, indices in enumerate(order.split(batch)):
            z = features[indices]
            if adapter == "mlp_head":
                z = torch.relu(z @ parameters["head.0.W"] + parameters["head.0.b"])
                z = norm(z) * parameters["head.0.gamma"] + parameters["head.0.beta"]
            logits = z @ parameters["head.weight"].T + parameters["head.bias"]
            loss = torch.nn.functional.cross_entropy(logits, labels[indices])
            sgd.zero_grad()
            loss.backward()
            sgd.param_groups[0]["lr"] = learning_rate(one.recipe, epoch, step, steps)
            sgd.step()
            losses.append(loss.item())
    found = seen.results[one.key]
    expected = np.array(losses).reshape(one.recipe.epochs, steps).mean(1)
    assert [point.loss for point in found.curve] == pytest.approx(expected, rel=1e-4)
    final = {name: tensor.detach() for name, tensor in parameters.items()}
    if adapter == "mlp_head":
        final |= {"state.0.mean": norm.running_mean, "state.0.var": norm.running_var}
    for name, tensor in final.items():
        torch.testing.assert_close(seen.tensors[one.key][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_last_batch_of_one_image_is_refused_by_batch_norm() -> None:
    one = trial("mlp_head", {"hidden": 1}, 1, last_batch="keep")
    with pytest.raises(AdapterError, match="no variance over a batch of 1 image"):
        run([(one, search_data(train=33))])
