"""Transformer blocks as compiled code, in which what lies between frozen products fuses.

Shapes are static, and nothing in an adapted block names its place: the first block, whose input
needs no gradient, and all others are compiled once each for a stack of one shape. The compiler's
own cache on the disk (`TORCHINDUCTOR_CACHE_DIR`) spares the next process most of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from adapters.sites import Sites

BACKEND = "inductor"
"""Of torch.compile; tests use one that only traces."""
_SHAPES = 64
"""How many versions of a block torch keeps for all stacks of a process (its default is 8); stacks
that need more run as they are."""


class CompilerError(Exception):
    """The blocks of a group cannot be compiled; why."""


def compile_blocks(model: nn.Module, sites: Sites) -> None:
    """Have the model's blocks compiled when they next run; see `running`."""
    torch._dynamo.config.recompile_limit = _SHAPES
    for block in sites.every_block:
        module = model.get_submodule(block.path)
        module.compile(backend=BACKEND, dynamic=False, fullgraph=True)


def running(compiled: bool) -> AbstractContextManager[object]:
    """Within it compiled blocks run as such, or as the plain code that they were made of."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance(
        "default" if compiled else "force_eager"
    )
    return stance


ERRORS = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)
"""What a step raises that cannot be compiled, or would be compiled once too often."""


def reason(error: BaseException) -> str:
    """The first line of a compiler's error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown")
