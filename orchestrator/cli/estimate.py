"""How long a trial-epoch of each adapter takes here: from a few steps of a pool."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.pool import Pool
    from orchestrator.spec import Study
    from orchestrator.sweep import Planned

_STEPS = 3


def seconds_per_epoch(planned: Planned) -> dict[str, float]:
    """Adapter → device seconds per trial-epoch, measured on one trial of its first study."""
    import torch

    from orchestrator.backbones import load_backbone
    from orchestrator.backends.local import pick_device
    from orchestrator.engine.pool import Pool

    backbone = load_backbone(planned.sweep.backbone)
    device = torch.device(pick_device(planned.config.device))
    first = {study.adapter: study for study in reversed(planned.studies)}
    return {name: _measure(Pool(backbone, device), planned, first[name]) for name in first}


def _measure(pool: Pool, planned: Planned, study: Study) -> float:
    """Times a few optimiser steps and scales them to an epoch with its evaluation."""
    from orchestrator.data.splits import open_search
    from orchestrator.search.configurations import search_trial

    data = open_search(planned.suite.store, planned.suite.task(study.task), planned.data_root)
    # A leaking trial takes as long as an honest one.
    pool.add(search_trial(replace(study, protocol="honest"), {}), data)
    pool.advance()
    began = time.perf_counter()
    for _ in range(_STEPS):
        pool.advance()
    step = (time.perf_counter() - began) / _STEPS
    # An evaluation image costs about half a training image: forward only.
    images = len(data.train) + len(data.val) / 2
    return step * images / study.recipe.batch
