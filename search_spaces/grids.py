"""Grids that several papers' spaces share, each with its source."""

from __future__ import annotations

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The coarse scales: EFFT's grid (arXiv 2311.06749), and all that FacT's winners use."""

FINE_SCALES = (0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0, 50.0, 80.0, 100.0)
"""`SCALES` with the points between them that EFFT's published winners use (published.yaml): the
coarse grid and the fine pass after it, in one."""

HTA_LR = (0.2, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0001)
HTA_WEIGHT_DECAY = (0.05, 0.01, 0.005, 0.001, 0.0)
"""HTA's training grid for AdamW (arXiv 2410.22952)."""

VPT_LR = (0.005, 0.001, 0.0005, 0.0001)
VPT_WEIGHT_DECAY = (0.01, 0.001, 0.0001, 0.0)
"""What VPT (arXiv 2203.12119, appendix; `finetune` in its tune_vtab.py) gives AdamW for full,
partial, bias and adapter tuning. There the rate is for a batch of 256 and scaled with it; here it
is used as it stands."""
