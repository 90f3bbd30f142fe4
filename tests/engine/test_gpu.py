"""What only a GPU shows: bf16 in company, no waiting, and memory that really runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.float8 import Float8Linear
from orchestrator.engine import memory
from orchestrator.engine.pool import Ended, Pool
from orchestrator.spec import TrialResult
from tests.engine.worlds import Data, backbone, search_data, trial

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_float8 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="needs float8 products",
)
GPU = torch.device("cuda")
DATA = search_data()
TOLERANCE = 0.03
"""Of mean losses (about 1 here) in bf16, whose steps are 2^-8: products of other shapes are summed
in another order."""


def results(pool: Pool) -> dict[str, TrialResult]:
    found = {}
    while len(pool):
        for event in pool.advance():
            assert isinstance(event, Ended)
            found[event.result.key] = event.result
    return found


def trained(pairs: list[tuple[object, Data]], width: int) -> dict[str, TrialResult]:
    pool = Pool(backbone(), GPU, width=width)
    for one, data in pairs:
        pool.add(one, data)  # type: ignore[arg-type]
    return results(pool)


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp8", marks=needs_float8)])
@pytest.mark.parametrize("adapter", ["lora", "efft2", "hta", "ssf", "vpt_deep", "adaptformer"])
def test_alone_as_in_company(adapter: str, precision: str) -> None:
    trials = [
        trial(adapter, {}, seed, precision=precision, drop_path=0.1 * seed) for seed in (1, 2, 3)
    ]
    together = trained([(one, DATA) for one in trials], 3)
    for one in trials:
        alone = trained([(one, DATA)], 1)[one.key]
        losses = [[p.loss for p in row.curve] for row in (together[one.key], alone)]
        to = 1e-4 if precision == "fp32" else TOLERANCE
        np.testing.assert_allclose(*losses, rtol=0, atol=to)


@needs_float8
def test_float8_products_are_those_of_a_cpu() -> None:
    torch.manual_seed(0)
    layer = Float8Linear(torch.nn.Linear(768, 2304, dtype=torch.bfloat16))
    x = torch.randn(4, 197, 768, dtype=torch.bfloat16)
    expected = layer(x)
    torch.testing.assert_close(layer.to(GPU)(x.to(GPU)).cpu(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("adapter", ["efft2", "lora", "linear"])
def test_a_step_in_the_middle_of_an_epoch_does_not_wait(adapter: str, augment: str) -> None:
    pool = Pool(backbone(), GPU, width=2)
    for seed in (1, 2):
        pool.add(trial(adapter, {}, seed, augment=augment, drop_path=0.1), DATA)
    pool.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert pool.advance() == []
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_that_really_runs_out_halves_the_width() -> None:
    big = backbone(embed_dim=512, depth=6, num_heads=8)
    trials = [trial("lora", {}, seed, batch=44, epochs=1, warmup_epochs=0) for seed in range(8)]
    pool = Pool(big, GPU, width=8)
    for one in trials:
        pool.add(one, DATA)
    pool.advance()
    room = memory.peak(GPU) - memory.used(GPU)
    taken = torch.empty(memory.free(GPU) - room // 2, dtype=torch.uint8, device=GPU)
    found = results(pool)
    assert pool.groups[0].work.halved > 0
    del taken
    assert {row.status for row in found.values()} == {"finished"}


def test_memory_of_a_gpu_is_what_torch_allocates() -> None:
    memory.reset_peak(GPU)
    before = memory.used(GPU)
    taken = torch.empty(2**26, dtype=torch.uint8, device=GPU)
    assert memory.peak(GPU) - before >= 2**26
    del taken
    assert memory.used(GPU) == before
