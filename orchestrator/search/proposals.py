"""The configurations of one study: those suggested before, the prior's, the sampler's."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from orchestrator.errors import SweepConflict
from orchestrator.search.configurations import search_trial, searched_values
from orchestrator.search.prior import FIRST, Searched, most_promising, published_point
from orchestrator.search.samplers import Observation, make_sampler, propose
from orchestrator.search.suggestions import Suggestion, SuggestionStore
from orchestrator.spec import Study, Sweep, Trial, TrialResult


class Proposals:
    """The search-stage trials of a study by key, in the order of their suggestion.

    Used by `StudyRun` only.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        store: SuggestionStore,
        rows: Mapping[str, TrialResult],
        others: Callable[[], Sequence[Searched]],
    ) -> None:
        """`others` gives the searches that choose the study's first trials."""
        self.trials: dict[str, Trial] = {}
        self._seed, self._study, self._store = sweep.seed, study, store
        self._sampler = make_sampler(sweep.sampler)
        self._published = published_point(study) if "published" in sweep.prior else None
        self._others = others
        last = -1
        for suggestion in store.load(study.name):
            trial, last = search_trial(study, suggestion.values), suggestion.index
            if trial.key != suggestion.key:
                raise self._conflict(suggestion)
            self.trials[trial.key] = trial
        for key, row in rows.items():
            self._adopt(key, row.trial)
        self._index = max(last + 1, len(self.trials))

    def next(self, rows: Mapping[str, TrialResult], failed: Container[str]) -> Trial | None:
        """The trial of a new configuration, None if there is none left.

        Its suggestion is written to disk before the trial is returned.
        """
        study, index = self._study, self._index
        history = [self._observe(key, rows.get(key), key in failed) for key in self.trials]
        values, informed_by = self._suggest(history)
        if values is None:
            return None
        trial = search_trial(study, values)
        self._store.record(study.name, Suggestion(index, values, trial.key, informed_by))
        self.trials[trial.key] = trial
        self._index += 1
        return trial

    def _suggest(
        self, history: Sequence[Observation]
    ) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
        """The published configuration, then what other searches chose, then the sampler's; and who
        chose it.
        """
        study, first, taken = self._study, self._published, [one.values for one in history]
        if first is not None and first not in taken:
            return first, ("published",)
        if len(taken) < FIRST and (found := most_promising(study, self._others(), taken)):
            return found
        # Without the protocol: a sampler that does not learn suggests the same under both.
        name = f"{study.task}/{study.adapter}"
        identity = (self._seed, study.suite, study.backbone, name, self._index)
        return propose(self._sampler, study.space, history, *identity), ()

    def _adopt(self, key: str, trial: Trial) -> None:
        """Add a configuration that has a result but whose suggestion was lost."""
        if trial.stage == "search" and key not in self.trials:
            rebuilt = search_trial(self._study, searched_values(self._study, trial))
            if rebuilt.key == key:
                self.trials[key] = rebuilt

    def _observe(self, key: str, row: TrialResult | None, failed: bool) -> Observation:
        values = searched_values(self._study, self.trials[key])
        if row is None:
            return Observation(values, "failed" if failed else "running")
        return Observation(values, row.status, row.value, row.epochs_run)

    def _conflict(self, suggestion: Suggestion) -> SweepConflict:
        path = self._store.path(self._study.name, suggestion.index)
        return SweepConflict(
            f"the suggestion '{path}' belongs to trial {suggestion.key}, which study "
            f"'{self._study.name}' no longer has: its data, weights, recipe or fixed fields "
            "changed. Use another --out, or the earlier settings."
        )
