"""Who leads in every study of a ledger, from its columns: no object per row, any number of rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.results.selection import best_first

STUDY = ("suite", "backbone", "task", "adapter", "protocol")
COLUMNS = (*STUDY, "stage", "config", "status", "value", "eval_loss", "parameters")
"""What `standings` and `leaders` need of `Ledger.table`."""

_CLOSE = 1e-9
"""Means that differ by less are compared again without rounding."""


@dataclass(frozen=True)
class Measured:
    """What decides between configurations, of one row."""

    value: float | None
    eval_loss: float | None
    parameters: int


def standings(table: pa.Table) -> pa.Table:
    """One row per study, stage and configuration that ran to the end at least once.

    Columns: `STUDY`, `stage`, `config`; `n` rows that finished or diverged; of their values
    `mean`, `sd` (ddof 1, null for one row) and `best`; `finished` of them. A diverged row has
    value 0, as in `orchestrator.results.selection`.
    """
    full = _full(table)
    groups = full.group_by([*STUDY, "stage", "config"]).aggregate(
        [
            ("value", "count"),
            ("value", "mean"),
            ("value", "stddev", pc.VarianceOptions(ddof=1, min_count=2)),
            ("value", "max"),
            ("ended", "sum"),
        ]
    )
    names = {
        "value_count": "n",
        "value_mean": "mean",
        "value_stddev": "sd",
        "value_max": "best",
        "ended_sum": "finished",
    }
    named = groups.rename_columns([names.get(name, name) for name in groups.column_names])
    return named.filter(pc.greater(named["finished"], 0))


def leaders(table: pa.Table) -> dict[tuple[str, ...], str]:
    """The configuration that `selection.winner` chooses, by study (as `STUDY`)."""
    found = standings(table)
    ahead = pa.concat_tables([_ahead(found, "search"), _ahead(found, "replicate")])
    rows = _full(table).join(
        ahead, [*STUDY, "stage", "config"], join_type="inner", use_threads=False
    )
    groups: defaultdict[tuple[str, ...], dict[str, dict[str, list[Measured]]]] = defaultdict(dict)
    for row in rows.to_pylist():
        study = groups[tuple(row[name] for name in STUDY)]
        measured = Measured(row["value"], row["eval_loss"], row["parameters"])
        study.setdefault(row["stage"], {}).setdefault(row["config"], []).append(measured)
    return {
        study: best_first(stages.get("replicate") or stages["search"])[0]
        for study, stages in groups.items()
    }


def _full(table: pa.Table) -> pa.Table:
    """Rows that count towards a mean, with `ended`: 1 where it finished, 0 where it diverged."""
    rows = table.filter(pc.is_in(table["status"], pa.array(["finished", "diverged"])))
    ended = pc.cast(pc.equal(rows["status"], "finished"), pa.int64())
    place = rows.schema.get_field_index("value")
    values = pc.fill_null(rows["value"], 0.0)
    return rows.set_column(place, "value", values).append_column("ended", ended)


def _ahead(found: pa.Table, stage: str) -> pa.Table:
    """The configurations of each study that have its highest mean, or nearly."""
    of_stage = found.filter(pc.equal(found["stage"], stage))
    best = of_stage.group_by(list(STUDY)).aggregate([("mean", "max")])
    both = of_stage.join(best, list(STUDY), use_threads=False)
    ahead = both.filter(pc.greater_equal(both["mean"], pc.subtract(both["mean_max"], _CLOSE)))
    return ahead.select([*STUDY, "stage", "config"])
