"""People train with autocast: every adapter must bear it, forward and backward."""

from __future__ import annotations

import pytest
import torch

from adapters import attach
from tests.adapters.models import ADAPTERS, vit


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: repr(adapter)[:40])
def test_a_step_under_autocast(adapter: object) -> None:
    torch.manual_seed(0)
    model = attach(vit(), adapter, num_classes=3).train()  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(4, 3, 32, 32))
    logits.float().square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert any(grad is not None for grad in grads)
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)
