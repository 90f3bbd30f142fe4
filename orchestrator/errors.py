"""The error classes; every message names the value, what is allowed, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class OrchestrateError(Exception):
    """Base class of expected errors; the command line prints them without a traceback."""

    exit_code = 2


class InvalidInput(OrchestrateError):
    """A given value (option, file, field) is not allowed."""


class DataError(OrchestrateError):
    """Images, labels or splits on disk are missing, damaged or contradictory."""


class CheckpointError(OrchestrateError):
    """Saved weights or an adapter folder cannot be used."""


class LedgerError(OrchestrateError):
    """A ledger fragment or compacted table cannot be read or written."""


class StorageError(LedgerError):
    """A storage operation failed that may succeed later: full, read-only or unreachable."""


class SweepConflict(OrchestrateError):
    """The output folder holds a different sweep, or another command is running this one."""


class BackendError(OrchestrateError):
    """A cluster, device or pool cannot be reached or used."""


class TrackingError(OrchestrateError):
    """The MLflow store cannot be used; ends `track` and `ui`, but never a sweep."""


def together(errors: Sequence[OrchestrateError]) -> OrchestrateError:
    """One error with the messages of all, so that a person repairs everything at once."""
    return errors[0] if len(errors) == 1 else InvalidInput("\n".join(map(str, errors)))


def unknown(kind: str, value: object, allowed: Iterable[str]) -> InvalidInput:
    """An `InvalidInput` for a name that is not among `allowed`, with the closest match."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return InvalidInput(
        f"unknown {kind} '{value!s:.200}'.{hint} Available: {', '.join(names) or 'none'}."
    )
