"""Where tracking keeps its things in a sweep's folder, and what it reads of `sweep.json` there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.tracking.environment import redact

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def default_uri(out: Path) -> str:
    """The SQLite database inside the sweep's folder."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


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
        f"has every result, and `orchestrate track {out}{where}` writes what is missing."
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
