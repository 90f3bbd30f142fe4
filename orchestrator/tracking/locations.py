"""Where tracking keeps its things in a sweep's folder, and what it reads of `sweep.json` there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.storage.sweep_storage import paths_of
from orchestrator.tracking.environment import URI_VARIABLE, redact

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def default_uri(out: Path) -> str:
    """The SQLite database inside the sweep's folder."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


def chosen_uri(out: Path, given: str | None) -> str:
    """The address to use: the one `given`, else `$MLFLOW_TRACKING_URI`, else the `default_uri`."""
    return given or os.environ.get(URI_VARIABLE) or default_uri(out)


def viewer(name: str, out: Path, uri: str) -> str:
    """How a person sees the runs at `uri` of the sweep called `name`: what to type, or to open."""
    if not is_database(uri):
        return redact(uri)
    return f"orchestrate ui {name}" + (
        "" if uri == default_uri(out) else f" --tracking-uri {redact(uri)}"
    )


def artifact_root(out: Path, uri: str) -> str:
    """`file://` address of the folder for artifacts when there is no server to keep them: beside a
    SQLite database, which several sweeps may share; in the sweep's folder otherwise.
    """
    file = sqlite_file(uri)
    return ((file.parent if file else out).resolve() / "mlartifacts").as_uri()


def log_file(out: Path) -> Path:
    """The writer's log."""
    return out / "logs" / "tracking.log"


def is_database(uri: str) -> bool:
    """Whether MLflow opens `uri` directly, without a server."""
    return uri.split(":", 1)[0].split("+", 1)[0] in DATABASES


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite address; None for every other address."""
    scheme, _, path = uri.partition("?")[0].partition(":///")
    return Path(path) if scheme == "sqlite" and path not in ("", ":memory:") else None


def unreachable(out: Path, uri: str, reason: object) -> TrackingError:
    """The error of every failed exchange with MLflow: where, why and what to do; no secrets."""
    lines = redact(str(reason)).strip().splitlines() or ["no reason given."]
    where = "" if uri == default_uri(out) else f" --tracking-uri {redact(uri)}"
    return TrackingError(
        f"tracking at {redact(uri)} does not work: {lines[0][:300]} Nothing is lost: the ledger "
        f"has every result, and `orchestrate track {paths_of(out).name}{where}` writes what is "
        "missing."
    )


@dataclass(frozen=True)
class SweepFile:
    """What tracking needs of `sweep.json`; `id` stays the same for as long as the folder lives."""

    id: str
    suite: str
    backbone: str
    settings: Mapping[str, Any]
    command: str

    @property
    def experiment(self) -> str:
        """MLflow's name for the shelf on which sweeps of one suite and backbone stand together."""
        return f"orchestrate/{self.suite}/{self.backbone}"


def read_sweep(out: Path) -> SweepFile:
    """The sweep of folder `out`; `InvalidInput` when there is none or the file is damaged."""
    path = out / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sweep = content["sweep"]
        return SweepFile(
            id=str(content["id"]),
            suite=str(sweep["suite"]),
            backbone=str(sweep["backbone"]),
            settings=sweep,
            command=str(content["command"]),
        )
    except FileNotFoundError:
        raise InvalidInput(
            f"'{out}' holds no sweep: {path} is missing. Give the folder of a sweep (its --out)."
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read ({error!r}). Restore it from a copy.") from error
