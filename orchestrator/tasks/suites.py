"""The suites that come with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.spec import Suite
from orchestrator.tasks.fewshot import FEWSHOT
from orchestrator.tasks.fgvc import FGVC
from orchestrator.tasks.mini import MINI
from orchestrator.tasks.vtab import VTAB

SUITES: Mapping[str, Suite] = {row.name: row for row in (MINI, VTAB, FGVC, FEWSHOT)}
