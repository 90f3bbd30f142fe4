"""Learning rate by epoch: warm-up, then cosine."""

from __future__ import annotations

from math import cos, pi

from orchestrator.spec import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """AdamW's step size in epoch 0, 1, …, epochs − 1; constant within an epoch.

    `cosine`: linear from warmup_lr (epoch 0) to lr (epoch warmup_epochs), then half a cosine to
    min_lr. `timm_epoch`: what the published EFFT and FacT scripts do with timm's scheduler, which
    counts the cosine from epoch 0 and is stepped after the epoch, so that epochs 0 and 1 run at
    warmup_lr and the peak is below lr (9.76e-4 for 1e-3, 10 of 100 epochs).
    """
    if recipe.schedule == "timm_epoch":
        return _timm(recipe, max(epoch - 1, 0))
    if epoch < recipe.warmup_epochs:
        return _warm(recipe, epoch)
    return _cosine(recipe, (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs))


def _timm(recipe: Recipe, epoch: int) -> float:
    if epoch < recipe.warmup_epochs:
        return _warm(recipe, epoch)
    return _cosine(recipe, epoch / recipe.epochs)


def _warm(recipe: Recipe, epoch: int) -> float:
    return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * epoch / recipe.warmup_epochs


def _cosine(recipe: Recipe, progress: float) -> float:
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + cos(pi * progress))
