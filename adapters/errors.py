"""What can go wrong with an adapter, as errors that name the value and the alternatives."""

from __future__ import annotations


class AdapterError(ValueError):
    """A hyper-parameter, selection or saved adapter cannot be used."""


class UnsupportedBackbone(AdapterError):
    """The model is not built of the blocks that adapters know."""
