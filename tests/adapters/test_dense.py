"""Each update equals METHODS.md's ΔW, written out densely and independently here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from adapters import EFFT2, HTA, Adapter, LoRA, attach, attached, merge
from adapters.base import Tensors
from adapters.trial_axis import RandomMasks
from tests.adapters.models import DEPTH, WIDTH, close, images, randomise, vit

PLACES = {
    "q": ("attn.qkv", 0), "k": ("attn.qkv", 1), "v": ("attn.qkv", 2), "o": ("attn.proj", 0),
    "fc1": ("mlp.fc1", 0), "fc2": ("mlp.fc2", 0),
}  # fmt: skip
SIZES = {"fc1": (WIDTH, 4 * WIDTH), "fc2": (4 * WIDTH, WIDTH)}


def weight(model: nn.Module, block: int, part: str) -> Tensor:
    """The layer's W (in, out) of `y = x W + b`."""
    module, position = PLACES[part]
    outputs = SIZES.get(part, (WIDTH, WIDTH))[1]
    rows = model.get_parameter(f"blocks.{block}.{module}.weight")
    return rows[position * outputs : (position + 1) * outputs].detach().T


def check(adapter: Adapter, dense: dict[tuple[int, str], Tensor], model: nn.Module) -> None:
    """ΔW of every part of every block is the expected one, or 0."""
    expected = model(images(3))
    merged, plain = merge(copy.deepcopy(model)), vit()
    for block in range(DEPTH):
        for part in PLACES:
            change = weight(merged, block, part) - weight(plain, block, part)
            wanted = dense.get((block, part))
            if wanted is None:
                assert not change.any(), (block, part)
            else:
                assert wanted.abs().max() > 1e-3
                assert close(change, wanted), (block, part)
    with torch.no_grad():  # the same update, once more, as a dense product in a plain model
        for (block, part), change in dense.items():
            weight(plain, block, part).add_(change)
    assert close(plain(images(3)), expected)


def adapted(adapter: Adapter) -> tuple[nn.Module, Tensors]:
    model = attach(vit(), adapter)
    randomise(model)
    return model, attached(model).tensors_of(0)


@pytest.mark.parametrize(
    "adapter",
    [
        LoRA(rank=3),
        LoRA(rank=3, alpha=6.0, sites=("q", "k", "v", "o", "fc1", "fc2")),
        LoRA(rank=2, sites=("k", "fc2"), layers=(0, 2)),
    ],
)
def test_lora(adapter: LoRA) -> None:
    model, tensors = adapted(adapter)
    scale = 1.0 if adapter.alpha is None else adapter.alpha / adapter.rank
    dense = {
        (block, part): scale
        * sum(
            torch.outer(
                tensors[f"blocks.{block}.{part}.A"][:, i], tensors[f"blocks.{block}.{part}.B"][i]
            )
            for i in range(adapter.rank)
        )
        for block in (adapter.layers or range(DEPTH))
        for part in adapter.sites
    }
    check(adapter, dense, model)


def slices(parts: tuple[str, ...], layers: tuple[int, ...]) -> list[tuple[int, str]]:
    return [(block, part) for block in layers for part in PLACES if part in parts]


@pytest.mark.parametrize("cores", ["per_layer", "shared"])
@pytest.mark.parametrize(
    ("parts", "layers"),
    [
        (tuple(PLACES), tuple(range(DEPTH))),
        (("q", "v", "fc2"), (1, 2)),
        (("k", "o"), (0,)),
        (("fc1",), (2,)),
    ],
)
def test_efft2(cores: str, parts: tuple[str, ...], layers: tuple[int, ...]) -> None:
    adapter = EFFT2(rank=3, ffn_rank=2, scale=1.7, cores=cores, sites=parts, layers=layers)
    model, tensors = adapted(adapter)
    dense = {}
    for group, members in (("mhsa", ("q", "k", "v", "o")), ("ffn", ("fc1", "fc2"))):
        own = slices(tuple(p for p in members if p in parts), layers)
        kinds = [part for part in members if part in parts]
        for index, (block, part) in enumerate(own):
            u, v = tensors[f"{group}.U"], tensors[f"{group}.V"]
            core = tensors[f"{group}.core"][kinds.index(part) if cores == "shared" else index]
            change = torch.zeros(u.shape[0], v.shape[1])
            for a in range(core.shape[0]):
                for b in range(core.shape[1]):
                    change += 1.7 * core[a, b] * torch.outer(u[:, a], v[b])
            dense[block, part] = change.T if part == "fc2" else change
    check(adapter, dense, model)


def reflection(v: Tensor, form: str) -> Tensor:
    factor = 1.0 if form == "paper" else 2 / float(v @ v)
    return torch.eye(len(v)) - factor * torch.outer(v, v)


@pytest.mark.parametrize("form", ["paper", "unit"])
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("parts", [("q", "v"), ("q", "k", "v", "o"), ("fc1", "fc2")])
def test_hta(form: str, rank: int, parts: tuple[str, ...]) -> None:
    adapter = HTA(rank=rank, form=form, sites=parts, layers=(0, 2))
    model, tensors = adapted(adapter)
    dense = {}
    for block in (0, 2):
        for part in parts:
            a, b, d, left, right = (
                tensors[f"blocks.{block}.{part}.{name}"] for name in ("A", "B", "d", "v_l", "v_r")
            )
            inputs, outputs = SIZES.get(part, (WIDTH, WIDTH))
            diagonal = torch.zeros(inputs, outputs)
            for i in range(min(inputs, outputs)):
                diagonal[i, i] = d[i]
            dense[block, part] = a @ b + reflection(left, form) @ diagonal @ reflection(right, form)
    check(adapter, dense, model)


def test_the_unit_form_is_orthogonal_and_the_forms_agree_at_the_start() -> None:
    v = torch.randn(7, generator=torch.Generator().manual_seed(0))
    assert close(reflection(v, "unit") @ reflection(v, "unit").T, torch.eye(7))
    v = v / v.norm() * 2**0.5
    assert close(reflection(v, "unit"), reflection(v, "paper"))


def test_lora_gradients_equal_those_of_the_dense_reference() -> None:
    model = attach(vit().double(), LoRA(rank=3, alpha=1.5, sites=("q", "v"), layers=(1,)))
    randomise(model)
    x = images(2).double()
    model(x).square().sum().backward()
    found = {name: p.grad for name, p in attached(model).stacked().items()}

    plain = vit().double().requires_grad_(False)
    own = {n: t.requires_grad_() for n, t in attached(model).tensors_of(0).items()}
    zeros = torch.zeros(WIDTH, WIDTH)
    q, v = (own[f"blocks.1.{p}.A"] @ own[f"blocks.1.{p}.B"] * 0.5 for p in "qv")
    name = "blocks.1.attn.qkv.weight"
    changed = {name: plain.get_parameter(name) + torch.cat([q.T, zeros, v.T])}
    torch.func.functional_call(plain, changed, x).square().sum().backward()
    assert found.keys() == own.keys()
    for name, tensor in own.items():
        gradient = found[name]
        assert gradient is not None
        assert tensor.grad is not None
        assert close(gradient[0], tensor.grad)


def test_efft2_dropout_acts_on_the_factors() -> None:
    """In training the update is ((x dp(U)) dp(Σ)) dp(V), with one draw for the whole step."""
    model = attach(vit(), EFFT2(rank=4, dropout=0.5, sites=("o",)), seed=2)
    randomise(model)
    tensors = attached(model).tensors_of(0)
    stack = attached(model.train())
    model(images(2))
    noise = RandomMasks([2], [0], torch.device("cpu"))
    u, core, v = (
        tensors[f"mhsa.{n}"] * _mask(noise, tensors[f"mhsa.{n}"]) for n in ("U", "core", "V")
    )
    assert not torch.equal(u, tensors["mhsa.U"])
    for block in range(DEPTH):
        edit = stack.edit(f"blocks.{block}.attn.proj")
        assert edit is not None
        nothing = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        torch.nn.init.zeros_(nothing.weight)
        assert close(edit(torch.eye(WIDTH), nothing), u @ core[block] @ v)


def _mask(noise: RandomMasks, tensor: Tensor) -> Tensor:
    mask = noise.dropout([0.5], [tuple(tensor.shape)])
    assert mask is not None
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    return mask[0]


@pytest.mark.parametrize("adapter", [LoRA(rank=2), EFFT2(rank=3), HTA()])
@pytest.mark.parametrize(("parts", "layers"), [(("mhsa",), (0,)), (("ffn",), (2,)), (("k",), (1,))])
def test_a_subset_changes_exactly_its_layers(
    adapter: Adapter, parts: tuple[str, ...], layers: tuple[int, ...]
) -> None:
    values = {**adapter.to_dict(), "sites": parts, "layers": layers}
    model, plain = attach(vit(), type(adapter)(**values)), vit()
    randomise(model)
    model(images(2))
    generator = torch.Generator().manual_seed(1)
    for block in range(DEPTH):
        for suffix in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            path = f"blocks.{block}.{suffix}"
            layer = plain.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            x = torch.randn(2, 5, layer.in_features, generator=generator)
            change = model.get_submodule(path)(x) - layer(x)
            for part, (module, position) in PLACES.items():
                if module == suffix:
                    size = SIZES.get(part, (WIDTH, WIDTH))[1]
                    own = change[..., position * size : (position + 1) * size]
                    group = "ffn" if part in SIZES else "mhsa"
                    chosen = block in layers and not {part, group}.isdisjoint(parts)
                    assert bool(own.abs().max() > 1e-4) is chosen, (path, part)
