"""Checks, from the ledger alone, that no choice used the test split.

The checks use what each row records (the data that it could read, how often it read test, the
epochs at which it was evaluated) and select again with `orchestrator.results.selection`. The seals
of the ledger's rows show that nobody edited them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.results.selection import winner
from orchestrator.spec import DataIdentity, Sweep, TrialResult, fold_of

_T = TypeVar("_T", int, str)
Rows = Sequence[TrialResult]
Identities = Mapping[str, DataIdentity]
"""Task → the fingerprints that the folder's sweep recorded."""
MAX_LISTED = 20
"""Violations and notes beyond this many are counted, not printed."""


@dataclass(frozen=True)
class Violation:
    """A row that violates a check, and why; `key` is that of its row in the ledger."""

    study: str
    stage: str
    seed: int
    key: str
    why: str


@dataclass(frozen=True)
class Check:
    """One check over `rows` rows. `notes` are no violations."""

    letter: str
    title: str
    rows: int
    violations: tuple[Violation, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no row violates it."""
        return not self.violations


@dataclass(frozen=True)
class Audit:
    """Every check. `honest` and `paper` count the rows of the two protocols."""

    checks: tuple[Check, ...]
    honest: int
    paper: int

    @property
    def clean(self) -> bool:
        """Whether no choice that the sweep reports as honest used the test split.

        Rows of the protocol `paper` leak by design. Beside honest rows they are ignored; alone they
        are not clean.
        """
        return all(check.ok for check in self.checks) and not (self.paper and not self.honest)

    def lines(self) -> list[str]:
        """The audit as text: a verdict, then each check with its violations and notes."""
        return [self._verdict(), *(line for check in self.checks for line in _lines(check))]

    def _verdict(self) -> str:
        broken = [check.letter for check in self.checks if not check.ok]
        if broken:
            trials = _counted(self.honest, "honest trial")
            return f"NOT CLEAN: broken in {', '.join(broken)}, of {trials}"
        if not self.honest:
            only = "only trials of the protocol paper, which choose on the test split"
            return f"NOT CLEAN: {only}" if self.paper else "nothing to audit: the ledger is empty"
        return f"clean: in {_counted(self.honest, 'honest trial')} no choice saw the test split"


def audit(results: Iterable[TrialResult], sweep: Sweep, data: Identities | None = None) -> Audit:
    """Check all of `results` (the whole ledger of the folder of `sweep`).

    `data` are the fingerprints that the folder's sweep recorded (`SweepFile.data`). Those of the
    rows are compared with them, without `data` only with each other.
    """
    rows = sorted(results, key=lambda row: (row.trial.study, row.started, row.key))
    honest = [row for row in rows if not row.trial.leaks]
    known = data or {}
    choosing = [row for row in honest if row.trial.stage != "final"]
    finals = [row for row in honest if row.trial.stage == "final"]
    reading = [row for row in rows if row.trial.reads_test]
    paper = [row for row in rows if row.trial.leaks]
    checks = (
        _choices_read_no_test(choosing, reading, known, sweep.splits),
        _finals_read_test_once(finals, known),
        _winners_chosen_on_val(honest, sweep),
        _one_read_each(finals),
        _other_images(choosing, finals),
        _labelled(paper, sweep),
    )
    return Audit(checks, len(honest), len(paper))


def _choices_read_no_test(choosing: Rows, reading: Rows, known: Identities, splits: str) -> Check:
    with_test = {(row.trial.task, row.trial.data) for row in reading}
    fingerprints: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in choosing:
        if not _on_fold(row, splits):
            fingerprints[row.trial.task][row.trial.data] += 1

    def why(row: TrialResult) -> str:
        task, found = row.trial.task, row.trial.data
        usual = _usual(fingerprints[task]) if fingerprints[task] else ""
        wanted, what = known[task].search if task in known else usual, "train and val"
        if _on_fold(row, splits) and wanted:
            wanted, what = fold_of(wanted, row.trial.seed), f"fold {row.trial.seed} of these"
        if row.test_reads:
            return f"read test {row.test_reads} time{'s' if row.test_reads > 1 else ''}"
        if (task, found) in with_test:
            return f"its data {found[:12]} is that of trials that read test"
        if wanted and found != wanted:
            return f"its data is {found[:12]}, not {what} ({wanted[:12]})"
        return ""

    title = "search and replicate trials had train and val only, and never read test"
    return Check("a", title, len(choosing), _violations(choosing, why))


def _on_fold(row: TrialResult, splits: str) -> bool:
    return splits == "folds" and row.trial.stage == "replicate"


def _usual(found: Counter[_T]) -> _T:
    """The most frequent value (the smallest of equally frequent ones)."""
    return min(found, key=lambda one: (-found[one], one))


def _finals_read_test_once(finals: Rows, known: Identities) -> Check:
    def why(row: TrialResult) -> str:
        task, found = row.trial.task, row.trial.data
        if task in known and found != known[task].final:
            return f"its data is {found[:12]}, not every split ({known[task].final[:12]})"
        # A final trial that diverged has nothing to evaluate: it may not have come to reading.
        if row.test_reads > 1 or (row.test_reads == 0 and row.status != "diverged"):
            return f"read test {row.test_reads} times, not once"
        seen = [point.epoch for point in row.curve if point.eval_accuracy is not None]
        seen_loss = [point.epoch for point in row.curve if point.eval_loss is not None]
        early = sorted({*seen, *seen_loss} - {row.trial.recipe.epochs})
        if early:
            return f"its curve was evaluated at epoch {', '.join(map(str, early))}"
        if row.status == "finished" and not seen:
            return "its curve lacks the evaluation at the last epoch"
        return ""

    title = "final trials read test once, at their last epoch"
    return Check("b", title, len(finals), _violations(finals, why))


def _winners_chosen_on_val(honest: Rows, sweep: Sweep) -> Check:
    """Select again from the rows; a former winner is what the rows before its final select. The
    default configuration, which nothing chose, may read test too.
    """
    violations: list[Violation] = []
    notes: list[str] = []
    checked = 0
    for rows in _by_study(honest).values():
        finals = [row for row in rows if row.trial.stage == "final"]
        checked += len(finals)
        now = winner(rows)
        for row in finals:
            if row.trial.config in (now, sweep.default_of(row.trial.task, row.trial.adapter)):
                continue
            if row.trial.config in _winners_then(rows, row):
                name = f"{row.trial.study} final seed {row.trial.seed} ({row.key[:12]})"
                notes.append(f"{name} also read test: chosen on val at that time")
            else:
                violations.append(_violation(row, "its configuration is not the one chosen on val"))
    title = "the configurations that read test are those chosen on val, or an adapter's default"
    return Check("c", title, checked, tuple(violations), tuple(notes))


def _winners_then(rows: Rows, final: TrialResult) -> set[str | None]:
    """The selections on val when the final trial began: from the rows that had ended, and from
    those that had begun. The clocks of hosts may differ by more than the pause between two trials,
    but hardly by a whole training.
    """
    ended = [row for row in rows if row.finished <= final.started]
    begun = [row for row in rows if row.started < final.started]
    return {winner(ended), winner(begun)}


def _one_read_each(finals: Rows) -> Check:
    reads: Counter[tuple[str, ...]] = Counter()
    for row in finals:
        reads[_read_of(row)] += row.test_reads

    def why(row: TrialResult) -> str:
        found = reads[_read_of(row)]
        return f"this configuration and seed read test {found} times" if found > 1 else ""

    title = "no configuration read test twice with one seed"
    return Check("d", title, len(finals), _violations(finals, why))


def _read_of(row: TrialResult) -> tuple[str, ...]:
    of = row.trial
    return of.suite, of.backbone, of.study, of.config, str(of.seed)


def _other_images(choosing: Rows, finals: Rows) -> Check:
    """By the number of images of each row's evaluation, and by its data."""
    lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in choosing:
        if row.correct:
            lengths[row.trial.task][len(row.correct)] += 1
    tested = {(row.trial.task, len(row.correct), row.trial.data) for row in finals if row.correct}

    def why(row: TrialResult) -> str:
        task, images = row.trial.task, len(row.correct)
        if not images:
            return ""
        usual = _usual(lengths[task])
        if images != usual:
            return f"compared on {images} images, the task's other trials on {usual}"
        if (task, images, row.trial.data) in tested:
            return f"compared on {images} images of the same data as final trials"
        return ""

    title = "configurations were compared on one set of images, and not on the test images"
    return Check("e", title, len(choosing), _violations(choosing, why))


def _labelled(paper: Rows, sweep: Sweep) -> Check:
    title = "trials of the protocol paper are labelled: they choose on the test split, by design"
    studies = len({row.trial.study for row in paper})
    reads = sum(row.test_reads for row in paper)
    what = f"{_counted(len(paper), 'trial')} of {_counted(studies, 'study', 'studies')}"
    notes = [f"leaking: {what}; they read test {_counted(reads, 'time')}"]
    if "paper" not in sweep.protocols:
        notes.append("this sweep no longer asks for the protocol paper; none of them is reported")
    return Check("f", title, len(paper), (), tuple(notes) if paper else ())


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _violations(rows: Rows, why: Callable[[TrialResult], str]) -> tuple[Violation, ...]:
    return tuple(_violation(row, reason) for row in rows if (reason := why(row)))


def _violation(row: TrialResult, why: str) -> Violation:
    return Violation(row.trial.study, row.trial.stage, row.trial.seed, row.key, why)


def _by_study(rows: Rows) -> dict[tuple[str, str, str], list[TrialResult]]:
    """By suite, backbone and study: a ledger may hold rows that its sweep no longer has."""
    groups: defaultdict[tuple[str, str, str], list[TrialResult]] = defaultdict(list)
    for row in rows:
        groups[row.trial.suite, row.trial.backbone, row.trial.study].append(row)
    return groups


def _lines(check: Check) -> list[str]:
    verdict = "ok" if check.ok else "BROKEN"
    lines = [f"({check.letter}) {verdict}: {check.title} ({check.rows} trials)"]
    found = [f"{b.study} {b.stage} seed {b.seed} ({b.key}): {b.why}" for b in check.violations]
    for some in (found, list(check.notes)):
        lines += [f"    {line}" for line in some[:MAX_LISTED]]
        if len(some) > MAX_LISTED:
            lines.append(f"    and {len(some) - MAX_LISTED} more")
    return lines
