"""Which trial to run next and which to stop: samplers, stopping rules and stages of a sweep.

`Search` is the only object that a backend uses; everything here is plain Python and Optuna.
"""

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
