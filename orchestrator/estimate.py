"""How long a trial-epoch takes here: from the ledger if it has rows, else from a few steps."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.ledger import Ledger

if TYPE_CHECKING:
    from orchestrator.sweep import Planned

_STEPS = 3


def seconds_per_epoch(planned: Planned) -> float:
    """Device seconds per trial-epoch: the median of the ledger's rows, else of a lone trial."""
    rows = Ledger(planned.places.ledger).results() if planned.places.ledger.exists() else []
    known = [row.seconds / row.epochs_run for row in rows if row.epochs_run]
    return median(known) if known else _probe(planned)


def _probe(planned: Planned) -> float:
    """Times a few optimiser steps of one trial of the last study, scaled to an epoch."""
    import torch

    from orchestrator.backbones import load_backbone
    from orchestrator.backends.local import pick_device
    from orchestrator.data.splits import open_search
    from orchestrator.engine.pool import Pool
    from orchestrator.search.configurations import search_trial

    pool = Pool(
        load_backbone(planned.sweep.backbone), torch.device(pick_device(planned.config.device))
    )
    study = planned.studies[-1]
    data = open_search(planned.sweep.suite, planned.suite.task(study.task), planned.data_root)
    pool.add(search_trial(study, {}), data)
    pool.advance()
    began = time.perf_counter()
    for _ in range(_STEPS):
        pool.advance()
    step = (time.perf_counter() - began) / _STEPS
    # An evaluation image costs about half a training image: forward only.
    images = len(data.train) + len(data.val) / 2
    return step * images / study.recipe.batch
