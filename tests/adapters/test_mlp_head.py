"""The multi-layer head against torch's own layers, and its running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import AdapterError, attach, attached, merge
from adapters.backbones import find_sites
from adapters.base import Kind
from adapters.heads import MLPHead
from adapters.stack import start_member
from adapters.trial_axis import RandomMasks
from tests.adapters.models import WIDTH, close, images, uniform, vit


def reference(tensors: dict[str, Tensor], hidden: int) -> nn.Sequential:
    """[Linear, ReLU, BatchNorm1d] × hidden and the last linear layer, of torch's own modules."""
    layers: list[nn.Module] = []
    for i in range(hidden):
        linear, norm = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)
        linear.weight.data = tensors[f"head.{i}.W"].T.clone()
        linear.bias.data = tensors[f"head.{i}.b"].clone()
        norm.weight.data = tensors[f"head.{i}.gamma"].clone()
        norm.bias.data = tensors[f"head.{i}.beta"].clone()
        layers += [linear, nn.ReLU(), norm]
    head = nn.Linear(*reversed(tensors["head.weight"].shape))
    head.weight.data = tensors["head.weight"].clone()
    head.bias.data = tensors["head.bias"].clone()
    return nn.Sequential(*layers, head)


@pytest.mark.parametrize("hidden", [1, 3])
def test_it_is_torch_s_own_layers(hidden: int) -> None:
    """Outputs, gradients and running statistics over four steps, then in evaluation."""
    model = attach(vit(), MLPHead(hidden=hidden, dropout=0.0), num_classes=4, seed=1)
    stack = attached(model)
    own = reference(stack.tensors_of(0), hidden)
    labels = torch.arange(6) % 4
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (stack, own)]
    for step in range(4):
        x = images(6, seed=step)
        features = vit()(x).detach()
        found, expected = model.train()(x), own.train()(features)
        assert close(found, expected, 1e-4)
        for logits, optimiser in zip((found, expected), optimisers, strict=True):
            optimiser.zero_grad()
            F.cross_entropy(logits, labels).backward()
        for name, theirs in (("head/0/W", "0.weight"), ("head/0/beta", "2.bias")):
            gradient, expected = stack.get_parameter(name).grad, own.get_parameter(theirs).grad
            assert gradient is not None
            assert expected is not None
            assert close(gradient[0].mT if gradient.dim() == 3 else gradient[0], expected, 1e-3)
        for optimiser in optimisers:
            optimiser.step()
    tensors = stack.tensors_of(0)
    for i in range(hidden):
        norm = own[3 * i + 2]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert close(tensors[f"head.{i}.W"].T, own.get_parameter(f"{3 * i}.weight"), 1e-4)
        assert close(tensors[f"head.{i}.gamma"], norm.weight, 1e-4)
        assert close(tensors[f"state.{i}.mean"], norm.running_mean, 1e-4)
        assert close(tensors[f"state.{i}.var"], norm.running_var, 1e-4)
    before = stack.tensors_of(0)
    assert close(model.eval()(images(5)), own.eval()(vit()(images(5))), 1e-4)
    assert all(torch.equal(value, before[n]) for n, value in stack.tensors_of(0).items())


def test_dropout_comes_after_batch_norm_from_the_trials_seed() -> None:
    model = attach(vit(), MLPHead(hidden=1, dropout=0.5), num_classes=4, seed=3)
    stack, features = attached(model), vit()(images(6))
    own = reference(stack.tensors_of(0), 1)
    found = model.train()(images(6))
    mask = RandomMasks([3], [0], torch.device("cpu")).dropout([0.5], [(6, WIDTH)])
    assert mask is not None
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert close(found, own[3](own[:3](features) * mask[0]))


def test_the_features_alone_give_the_same() -> None:
    """As the engine trains it: features of the frozen backbone, no pass through the model."""
    model = attach(vit(), [MLPHead(hidden=2), MLPHead(hidden=2, dropout=0.4)], num_classes=4)
    other, x = copy.deepcopy(model), images(8)
    features = vit()(x)
    for _ in range(2):
        expected = model.train()(x)
        stack = attached(other.train())
        stack.prepare(8, torch.float32)
        assert close(stack.logits(features), expected)
    for index in range(2):
        for name, value in attached(model).tensors_of(index).items():
            assert close(attached(other).tensors_of(index)[name], value), name


def test_what_trains_and_how_it_starts() -> None:
    member = start_member(MLPHead(hidden=2), find_sites(vit()), 0, None)
    head, state = (member.of_kind(kind) for kind in (Kind.HEAD, Kind.STATE))
    assert sum(t.numel() for t in head.values()) == 2 * (WIDTH**2 + 3 * WIDTH)
    assert set(state) == {f"state.{i}.{n}" for i in "01" for n in ("mean", "var")}
    assert set(member.tensors) == {*head, *state}
    for i in range(2):
        assert all(uniform(head[f"head.{i}.{name}"], WIDTH**-0.5) for name in ("W", "b"))
        assert (head[f"head.{i}.gamma"] == 1).all()
        assert not head[f"head.{i}.beta"].any()


def test_what_is_refused() -> None:
    model = attach(vit(), MLPHead(hidden=1), num_classes=3)
    with pytest.raises(AdapterError, match="mlp_head cannot be merged: what it does at the head"):
        merge(model)
    with pytest.raises(AdapterError, match="no variance over a batch of 1 image"):
        model.train()(images(1))
    assert model.eval()(images(1)).shape == (1, 3)
    with pytest.raises(AdapterError, match="only trials of one adapter family"):
        attach(vit(), [MLPHead(hidden=1), MLPHead(hidden=2)], num_classes=3)
