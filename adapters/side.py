"""Side networks: they read the frozen blocks' inputs, and no gradient passes the blocks they read.

What is read can be computed once for all trials and epochs (`Adapter.reads`). ViT only: the tokens
of all blocks have one width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.fuse import LowRank, thin
from adapters.hyperparameters import hyperparameter
from adapters.sites import MHSA, Sites

FINAL_NORM = "norm"
"""Path of what a ViT does after its last block (nothing, where its norm comes after pooling)."""


@dataclass(frozen=True)
class _Side(Adapter):
    def select(self, sites: Sites) -> Sites:
        if sites.family != "vit":
            raise UnsupportedBackbone(
                f"{self.name} reads tokens of one width; looked for timm's VisionTransformer (ViT, "
                "DeiT), not Swin."
            )
        return sites.select(MHSA, getattr(self, "layers", None))


@dataclass(frozen=True)
class DTL(_Side):
    """Compact side network (arXiv 2312.07856; the authors' code): with x_i the input of block i,

    h_{i+1} = h_i + x_i A_i B_i, h_0 = 0; x_{i+1} = block_i(x_i) + h_{i+1} ⊙ σ(β h_{i+1}), i ≥ M.

    A_i (D, r) and B_i (r, D) in the blocks of `layers`; M = `first`, by default half of the depth
    (6 of 12). DTL+ (`kernel` 3): before it is added, a depthwise convolution (D, k, k), shared by
    all blocks, padded with zeros and without bias, acts on the grid of patch tokens; class and
    register tokens pass by it. The head reads the mean of the patch tokens, after the final norm of
    it (`pool="patches"`), or the backbone's own features (`"backbone"`).
    Start: A uniform ±1/√D, B = 0, kernel uniform ±1/k: nothing is added. Count: 2·r·D per block,
    + k²·D; ViT-B/16 with r = 2: 36,864, DTL+ 43,776. Weight decay spares the head's bias.
    """

    name: ClassVar[str] = "dtl"
    head_start: ClassVar[str] = "normal"
    decays_head_bias: ClassVar[bool] = False
    rank: int = hyperparameter(2, low=1, stacks=True)
    beta: float = hyperparameter(100.0, low=0, stacks=True)
    first: int | None = hyperparameter(None, low=0)
    kernel: int = hyperparameter(0, among=(0, 3, 5, 7))
    pool: str = hyperparameter("patches", among=("patches", "backbone"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        if self.first is not None and self.first >= sites.depth:
            raise AdapterError(
                f"DTL.first is {self.first}; this backbone has blocks 0…{sites.depth - 1}."
            )
        return super().select(sites)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.A` (D, r) and `.B` (r, D) of every chosen block; `kernel` (D, k, k)."""
        width, tensors = sites.width, Tensors()
        for block in sites.blocks:
            prefix = f"blocks.{block.index}"
            tensors[f"{prefix}.A"] = uniform((width, self.rank), 1 / sqrt(width), generator)
            tensors[f"{prefix}.B"] = torch.zeros(self.rank, width)
        if self.kernel:
            shape = (width, self.kernel, self.kernel)
            tensors["kernel"] = uniform(shape, 1 / self.kernel, generator)
        return tensors

    def reads(self, sites: Sites) -> tuple[int, ...]:
        return tuple(b.index for b in sites.blocks if b.index < self._first(sites))

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        read = {block.index for block in sites.blocks}
        added_from = max(self._first(sites), min(read))
        blocks = tuple(
            block.path
            for block in sites.every_block
            if block.index in read or block.index >= added_from
        )
        return (*blocks, FINAL_NORM) if self.pool == "patches" else blocks

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """Of the blocks that are read or added to; of the final norm, the pooling."""
        side: list[Tensor] = []  # h (K, B·N, D), outside the model between two blocks
        added = self._added(tensors, sites, context)

        def of_block(index: int, update: LowRank | None) -> Edit:
            def edit(x: Tensor, base: Any, *arguments: Any, **named: Any) -> Tensor:
                if update is not None:
                    new = update(context.split(x))
                    side.append(side.pop() + new if side else new)
                y: Tensor = base(x, *arguments, **named)
                return y + added(side[0], y.shape) if side and index >= first else y

            return edit

        first, edits = self._first(sites), dict[str, Edit]()
        numbers = {block.path: block.index for block in sites.every_block}
        for path in self.target_modules(sites):
            if path == FINAL_NORM:
                edits[path] = _mean_of_patches(sites.tokens)
                continue
            index = numbers[path]
            pair = [tensors.get(f"blocks.{index}.{factor}") for factor in "AB"]
            update = None if pair[0] is None or pair[1] is None else LowRank(pair[0], pair[1])
            edits[path] = of_block(index, update)
        return edits

    def _first(self, sites: Sites) -> int:
        return sites.depth // 2 if self.first is None else self.first

    def _added(
        self, tensors: Tensors, sites: Sites, context: Context
    ) -> Callable[[Tensor, torch.Size], Tensor]:
        """h (K, B·N, D) → what is added to a block's output (K·B, N, D)."""
        beta, kernel = context.vector("beta"), tensors.get("kernel")

        def added(h: Tensor, shape: torch.Size) -> Tensor:
            swish = (h * torch.sigmoid(beta * h)).view(shape)
            if kernel is None:
                return swish
            before, patches = swish[:, : sites.tokens], swish[:, sites.tokens :]
            return torch.cat((before, _depthwise(patches, kernel)), dim=1)

        return added


def _depthwise(patches: Tensor, kernel: Tensor) -> Tensor:
    """Tokens (K·B, side², D) of square grids, convolved with each trial's kernel (K, D, k, k)."""
    trials, width, size, _ = kernel.shape
    images, count, _ = patches.shape
    side = round(sqrt(count))
    if side * side != count:
        raise AdapterError(
            f"DTL's convolution takes a square grid of patches, not {count} of them."
        )
    grid = patches.view(trials, images // trials, side, side, width)
    grid = grid.permute(1, 0, 4, 2, 3).reshape(-1, trials * width, side, side)
    weight = kernel.reshape(trials * width, 1, size, size)
    found = F.conv2d(grid, weight, padding=size // 2, groups=trials * width)
    found = found.view(-1, trials, width, side, side).permute(1, 0, 3, 4, 2)
    return found.reshape(patches.shape)


def _mean_of_patches(tokens: int) -> Edit:
    def edit(x: Tensor, base: Any, *_: Any, **__: Any) -> Tensor:
        mean: Tensor = base(x[:, tokens:].mean(1, keepdim=True))
        return mean.expand(-1, x.shape[1], -1)  # whichever token or mean the backbone pools

    return edit


@dataclass(frozen=True)
class LAST(_Side):
    """Low-rank attention side-tuning (arXiv 2402.04009, section 3): with z_0 what the first block
    reads and z_j what comes out of the j-th of m groups of `gap` blocks, all of them frozen,

    u_0 = z_0, u_j = F_j(u_{j-1} + z_j); features: the final norm of u_m − Σ_{j<m} z_j.

    F_j is `repeats` times x → x + softmax(q kᵀ/√r) v W_o, with q, k, v = LN(x) W_q, LN(x) W_k,
    LN(x) W_v: attention of one head with r channels. Start: W_q, W_k, W_v uniform ±1/√D, W_o = 0,
    LN γ = 1, β = 0: the frozen features. Count: m·repeats·(4·r·D + 2·D); ViT-B/16: 608,256.
    There is no public code. What was at hand of the paper does not say whether LN is there, how the
    weights start, and with which r and gap its tables were made: those are our choice.
    """

    name: ClassVar[str] = "last"
    rank: int = hyperparameter(16, low=1, stacks=True)
    gap: int = hyperparameter(1, low=1)
    repeats: int = hyperparameter(1, low=1)

    def select(self, sites: Sites) -> Sites:
        chosen = super().select(sites)
        if sites.depth % self.gap:
            raise AdapterError(
                f"LAST.gap is {self.gap}; it must divide the number of blocks, {sites.depth}."
            )
        return chosen

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`side.<j>.<repeat>.q`, `.k`, `.v` (D, r), `.o` (r, D), `.gamma`, `.beta` (D), j ≥ 1."""
        width, tensors = sites.width, Tensors()
        for prefix in self._layers(sites):
            for name in "qkv":
                shape = (width, self.rank)
                tensors[f"{prefix}.{name}"] = uniform(shape, 1 / sqrt(width), generator)
            tensors[f"{prefix}.o"] = torch.zeros(self.rank, width)
            tensors[f"{prefix}.gamma"] = torch.ones(width)
            tensors[f"{prefix}.beta"] = torch.zeros(width)
        return tensors

    def reads(self, sites: Sites) -> tuple[int, ...]:
        return tuple(range(0, sites.depth, self.gap))

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return (*(sites.every_block[index].path for index in self.reads(sites)), FINAL_NORM)

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """Blocks leave their input with the side network; the final norm reads what it has made.

        u_j is kept in two parts, Σ z, which needs no gradient, and the rest w.
        """
        side: list[Tensor] = []  # Σ z and w, both (K·B, N, D)

        def grow(group: int, z: Tensor) -> None:
            if group:
                total = side[0] + z
                side[:] = [total, self._group(group, total, side[1], tensors, context)]
            else:
                side[:] = [z, torch.zeros_like(z)]

        def of_block(group: int) -> Edit:
            def edit(z: Tensor, base: Any, *arguments: Any, **named: Any) -> Tensor:
                grow(group, z)
                return base(z, *arguments, **named)  # type: ignore[no-any-return]

            return edit

        def of_norm(z: Tensor, base: Any) -> Tensor:
            grow(len(blocks), z)
            return base(z + side[1])  # type: ignore[no-any-return]

        blocks = self.target_modules(sites)[:-1]
        return {**{path: of_block(j) for j, path in enumerate(blocks)}, FINAL_NORM: of_norm}

    def _layers(self, sites: Sites) -> list[str]:
        groups = range(1, sites.depth // self.gap + 1)
        return [f"side.{j}.{repeat}" for j in groups for repeat in range(self.repeats)]

    def _group(
        self, group: int, total: Tensor, rest: Tensor, tensors: Tensors, context: Context
    ) -> Tensor:
        """The new w (K·B, N, D) of a group, from Σ z and the old one."""
        for repeat in range(self.repeats):
            own = {n: tensors[f"side.{group}.{repeat}.{n}"] for n in ("q", "k", "v", "o")}
            gamma, beta = (tensors[f"side.{group}.{repeat}.{n}"] for n in ("gamma", "beta"))
            x = context.split(total + rest)
            # LN's γ and β act on the thin matrices instead of on all tokens.
            inner = torch.cat([own["q"], own["k"], own["v"]], dim=-1)
            shift = beta.unsqueeze(1) @ inner
            normal = F.layer_norm(x, x.shape[-1:])
            thin_qkv = thin(normal, gamma.unsqueeze(-1) * inner) + shift
            q, k, v = thin_qkv.reshape(*rest.shape[:2], -1).unsqueeze(1).chunk(3, dim=-1)
            # Ranks are padded with zeros, which no product sees; √r is each trial's own.
            q = (context.split(q) * context.vector("_inverse_root")).view(q.shape)
            mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            rest = rest + (context.split(mixed) @ own["o"]).view(rest.shape)
        return rest

    @property
    def _inverse_root(self) -> float:
        return 1 / sqrt(self.rank)
