"""What class probabilities say beyond top-1 accuracy. Shapes: N images, C classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.statistics import (
    Estimate,
    Floats,
    estimate,
    over_images,
    share_interval,
    t_interval,
)
from orchestrator.analysis.summary import Gain, ProbabilityMetrics
from orchestrator.results.predictions import Predictions

BINS = 15
"""Of `calibration_error`, as in Guo et al."""


def top1(found: Predictions) -> Floats:
    """1 where the most probable class is right, else 0 (N,)."""
    right: Floats = (found.probabilities.argmax(1) == found.labels).astype(np.float64)
    return right


def mean_class_accuracy(found: Predictions) -> float:
    """The mean over the classes that occur of the accuracy on their images."""
    counts = np.bincount(found.labels)
    right = np.bincount(found.labels, weights=top1(found))
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def calibration_error(found: Predictions) -> float:
    """Expected calibration error (Guo et al., ICML 2017, equation 3): over 15 bins of confidence of
    the same width, the mean distance between accuracy and confidence, weighted by images.
    """
    confidence, right = found.probabilities.max(1), top1(found)
    places = np.ceil(confidence * BINS).astype(int)  # a bin is (low, high]
    gaps = np.bincount(places, weights=right - confidence)
    return float(np.abs(gaps).sum() / len(right))


def ensemble(several: Sequence[Predictions]) -> Predictions:
    """Mean of the probabilities of models on the same images (Lakshminarayanan et al., NeurIPS
    2017, section 2.4).
    """
    mean: Floats = np.mean([one.probabilities for one in several], axis=0)
    return Predictions(mean, several[0].labels)


def probability_metrics(several: Sequence[Predictions | None]) -> ProbabilityMetrics | None:
    """Of the predictions of a configuration's final seeds; None where one has none, or where they
    are of different images.
    """
    known = [one for one in several if one is not None]
    if not known or len(known) < len(several):
        return None
    first = known[0]
    if any(one.probabilities.shape != first.probabilities.shape for one in known) or any(
        not np.array_equal(one.labels, first.labels) for one in known
    ):
        return None
    together, gain = None, None
    if len(known) > 1:
        right = top1(ensemble(known))
        together = _share(right)
        differences = right - np.mean([top1(one) for one in known], axis=0)
        mean = float(differences.mean())
        gain = Gain(mean, t_interval(mean, over_images(differences), bounded=False))
    return ProbabilityMetrics(
        ensemble=together,
        gain=gain,
        mean_class=estimate([mean_class_accuracy(one) for one in known]),
        calibration=estimate([calibration_error(one) for one in known]),
    )


def _share(right: Floats) -> Estimate:
    """Of one ensemble: over images, with these models."""
    mean = float(right.mean())
    images = share_interval(mean, over_images(right), len(right))
    return Estimate((mean,), mean, None, None, images, "one ensemble")
