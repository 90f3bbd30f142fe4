"""Which trial next, and may it go on: samplers, stopping rules and stages behind one object."""

from __future__ import annotations

from orchestrator.search.samplers import SAMPLERS, planned_configurations
from orchestrator.search.search import Done, Search, Wait
from orchestrator.search.stopping import RULES
from orchestrator.search.study import StudyProgress
from orchestrator.search.suggestions import Suggestion, SuggestionStore

__all__ = [
    "RULES",
    "SAMPLERS",
    "Done",
    "Search",
    "StudyProgress",
    "Suggestion",
    "SuggestionStore",
    "Wait",
    "planned_configurations",
]
