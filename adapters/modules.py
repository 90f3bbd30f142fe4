"""What `attach` puts in the place of a backbone's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from adapters.stack import Stack


class Edited(nn.Module):
    """A frozen module and the stack's edit of it."""

    def __init__(self, base: nn.Module, stack: Stack, path: str) -> None:
        super().__init__()
        self.base = base
        self._stack = (stack,)  # in a tuple, so that its parameters are not registered here again
        self._path = path

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """As the frozen module, with the batch of all trials."""
        edit = self._stack[0].edit(self._path)
        y: Tensor
        if edit is None:
            y = self.base(x, *arguments, **named)
        else:
            y = edit(x, self.base, *arguments, **named)
        return y


class StackedHead(nn.Module):
    """The heads of all trials."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self._stack = (stack,)

    def forward(self, x: Tensor) -> Tensor:
        """x (K·B, D) → (K·B, classes)."""
        return self._stack[0].logits(x)


class TrialDropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016) whose masks come from each trial's own seed."""

    def __init__(self, stack: Stack, place: int) -> None:
        super().__init__()
        self._stack = (stack,)
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        """x (K·B, …), scaled by 0 or 1/(1-rate) per image in training."""
        paths = self._stack[0].paths
        if paths is None or not self.training:
            return x
        return x * paths[self._place].view(-1, *[1] * (x.dim() - 1))


class Replaced(nn.Module):
    """Parametrisation: the stack's tensor instead of a parameter of the backbone."""

    def __init__(self, stack: Stack, name: str) -> None:
        super().__init__()
        self._stack = (stack,)
        self._name = name

    def forward(self, original: Tensor) -> Tensor:
        """The original, unless a forward pass has been prepared."""
        return self._stack[0].replacement(self._name, original)
