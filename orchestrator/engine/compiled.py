"""Transformer blocks as compiled code, in which what lies between frozen products fuses.

Shapes are static, and nothing in an adapted block names its place: the first block, whose input
needs no gradient, and all others are compiled once each for a stack of one shape. The compiler's
own cache on the disk (`TORCHINDUCTOR_CACHE_DIR`) spares the next process most of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from adapters.sites import Sites

BACKEND = "inductor"
"""Of torch.compile; tests use one that only traces."""
_SHAPES = 64
"""How many versions of a block torch keeps for all stacks of a process (its default is 8); stacks
that need more run as they are."""

_GRAPHS = 2
"""Trials at once up to which launching kernels should take longer than they run: by arithmetic, for
ViT-B/16 and batch 64; not measured."""


class CompilerError(Exception):
    """The blocks of a group cannot be compiled; why."""


def compile_blocks(model: nn.Module, sites: Sites, trials: int) -> None:
    """Have the model's blocks compiled when they next run; see `running`.

    A few `trials` at once leave a GPU idle between kernels: their blocks replay CUDA graphs.
    """
    torch._dynamo.config.recompile_limit = _SHAPES
    on_gpu = next(model.parameters()).is_cuda
    options = {"triton.cudagraphs": True} if on_gpu and trials <= _GRAPHS else None
    for block in sites.every_block:
        module = model.get_submodule(block.path)
        module.compile(backend=BACKEND, dynamic=False, fullgraph=True, options=options)


def running(compiled: bool) -> AbstractContextManager[object]:
    """Within it compiled blocks run as such, or as the plain code that they were made of.

    For one training step: what CUDA graphs gave in the one before is overwritten.
    """
    if compiled:
        begin: Any = torch.compiler.cudagraph_mark_step_begin  # without types
        begin()
    stance: AbstractContextManager[object] = torch.compiler.set_stance(
        "default" if compiled else "force_eager"
    )
    return stance


ERRORS = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)
"""What a step raises that cannot be compiled, or would be compiled once too often."""


def reason(error: BaseException) -> str:
    """The first line of a compiler's error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown")
