from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.backbones import load_backbone
from orchestrator.backbones.names import MINI_FILE
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.storage import files
from orchestrator.tasks.suites import MINI
from tools.vit_mini import probe
from tools.vit_mini.pretrain import pretrain


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_weights_are_those_that_the_record_describes() -> None:
    record = json.loads(MINI_FILE.with_suffix(".json").read_text())
    assert record["fingerprint"] == files.fingerprint(MINI_FILE)
    assert record["parameters"] == sum(p.numel() for p in vit_mini().parameters())
    assert "tools.vit_mini.pretrain --seed" in record["command"]


def test_the_backbone_is_small() -> None:
    assert MINI_FILE.stat().st_size < 3e6
    assert 0.2e6 < sum(p.numel() for p in vit_mini().parameters()) < 1e6


def test_the_weights_fit_strictly_and_are_finite() -> None:
    weights = load_file(MINI_FILE)
    vit_mini().load_state_dict(weights, strict=True)
    assert all(t.isfinite().all() for t in weights.values())
    features = load_backbone("vit_mini").model(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, 64)
    assert features.isfinite().all()


@pytest.mark.long
def test_pretraining_pays_on_the_probe() -> None:
    rows = probe.table(probe.pretrained())
    assert list(rows) == [task.name for task in MINI.tasks]
    gains = [row["pretrained"] - row["random"] for row in rows.values()]
    assert sum(gain > 0 for gain in gains) >= 4, rows
    assert sum(gains) / len(gains) >= 0.05, rows


@pytest.mark.long
def test_pretraining_is_deterministic() -> None:
    (first, one), (second, other) = (pretrain(3, steps=2, scenes=1000) for _ in range(2))
    assert one == other
    weights = second.state_dict()
    assert all(torch.equal(t, weights[name]) for name, t in first.state_dict().items())
    torch.manual_seed(3)
    start = vit_mini().state_dict()
    assert any(not torch.equal(t, start[name]) for name, t in weights.items()), "it trains"


@pytest.mark.parametrize("scenes", [0, -1000, 1500])
def test_pretraining_refuses_a_wrong_number_of_scenes(scenes: int) -> None:
    with pytest.raises(ValueError, match=f"scenes is {scenes}; allowed"):
        pretrain(0, steps=2, scenes=scenes)
