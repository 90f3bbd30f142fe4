"""Which task's data comes from where, and tasks prepared from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.data.layouts import LAYOUTS
from orchestrator.data.listing import Listing
from orchestrator.data.manifest import SPLITS, Manifest
from orchestrator.data.origins import Listed, Made, Origin, report
from orchestrator.data.prepare import current, prepare
from orchestrator.data.store import default_root
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task

Progress = Callable[[str, int, int], None]
"""Called with what is prepared, the images done and their number."""


def prepare_task(
    suite: Suite,
    task: Task,
    root: Path | None = None,
    raw: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Manifest:
    """Prepare one task of a suite in the store at `root` (default: `default_root()`).

    `raw` is the suite's folder of images; without one, what was prepared before is taken. Raises
    `DataError` as `prepare`, and where there is nothing to prepare it from.
    """
    root = root or default_root()
    origin = origin_of(suite, task, raw)
    if origin is None:
        found = current(suite, task, root)
        if found is None:
            raise DataError(_no_images(suite, task, root))
        return found
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(f"{suite.name}/{task.name}", done, origin.count())

    return prepare(suite, task, origin, root, tick)


def prepare_tasks(
    suite: Suite,
    tasks: Sequence[Task],
    root: Path,
    raw: Path | None,
    progress: Progress = lambda *_: None,
) -> dict[str, Manifest]:
    """Prepare several tasks. One that cannot be is named in the end, after all others are done."""
    found: dict[str, Manifest] = {}
    problems: dict[str, str] = {}
    for task in tasks:
        try:
            found[task.name] = prepare_task(suite, task, root, raw, progress)
        except DataError as error:
            problems[task.name] = str(error)
    if problems:
        raise DataError(_unprepared(suite, problems, found))
    return found


def origin_of(suite: Suite, task: Task, raw: Path | None) -> Origin | None:
    """What a task is made of, None if it is not at hand; `DataError` if its lists are wrong."""
    if suite.layout == "mini":
        return Made("orchestrator.data.mini", ("numpy", "scikit-learn"), task)
    listing = listing_of(suite, task, raw)
    if listing is not None and listing.problems:
        raise DataError(report(f"{suite.name}/{task.name}", listing.problems))
    return None if listing is None else Listed(suite, task, listing)


def listing_of(suite: Suite, task: Task, raw: Path | None) -> Listing | None:
    """What the suite's folder lists for a task, with all problems; None without a folder."""
    if raw is None and suite.variable:
        return None
    return LAYOUTS[suite.layout](raw or Path(), task, suite.files.get(task.name, {}))


def deviations(suite: Suite, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Tasks whose numbers of images, by task and split, are not the benchmark's, one text each."""
    found = []
    for name, own in counts.items():
        wanted = {split: getattr(suite.task(name), split) for split in SPLITS}
        parts = [
            f"{split} {own[split]:,} instead of {count:,}"
            for split, count in wanted.items()
            if count is not None and count != own[split]
        ]
        if parts:
            found.append(
                f"{name} has other numbers of images than {suite.name}: {', '.join(parts)}"
            )
    return found


def _unprepared(suite: Suite, problems: Mapping[str, str], found: Mapping[str, Manifest]) -> str:
    texts = list(problems.values())
    if len(problems) == 1 and not found:
        return texts[0]
    kept = f"; prepared: {len(found)}" if found else ""
    names = ", ".join(problems)
    shown = "\n".join(dict.fromkeys(texts))
    return (
        f"{len(problems)} of {len(problems) + len(found)} tasks of '{suite.name}' cannot be used "
        f"({names}){kept}.\n{shown}\nMend them, or leave them out with --tasks."
    )


def _no_images(suite: Suite, task: Task, root: Path) -> str:
    return (
        f"the data of '{suite.name}/{task.name}' is not prepared in '{root}', and there is no "
        f"folder of images to prepare it from. Name it with --suite-root or in the variable "
        f"{suite.variable}, or get it: `orchestrate data fetch {suite.name} --from SOURCE`."
    )
