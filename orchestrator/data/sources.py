"""Which task's data comes from where, and tasks prepared from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from orchestrator.data.layouts import LAYOUTS
from orchestrator.data.listing import Listing
from orchestrator.data.prepared.ahead import cores
from orchestrator.data.prepared.manifest import SPLITS, Manifest
from orchestrator.data.prepared.origins import Listed, Made, Origin, report
from orchestrator.data.prepared.prepare import current, prepare, require_space
from orchestrator.data.prepared.store import check
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task, digest

Progress = Callable[[str, int, int], None]
"""Called with what is prepared, the images done and their number."""


def prepare_tasks(
    suite: Suite,
    tasks: Sequence[Task],
    root: Path,
    raw: Path | None,
    progress: Progress = lambda *_: None,
) -> dict[str, Manifest]:
    """Prepare tasks in the store at `root`, after a look at whether there is space for all.

    `raw` is the suite's folder of images; without one, what was prepared before is taken, and its
    content compared with its fingerprints. A task that cannot be prepared is named in the end,
    after all others are done. Raises `DataError` as `prepare`, where there is nothing to prepare a
    task from, and for damaged content.
    """
    found: dict[str, Manifest] = {}
    missing: dict[str, Origin] = {}
    problems: dict[str, str] = {}
    for task in tasks:
        with _noted(problems, task):
            there, origin = _look(suite, task, root, raw)
            if there is not None:
                found[task.name] = there
            elif origin is not None:
                missing[task.name] = origin
            else:
                raise DataError(_no_images(suite, task, root))
    with ThreadPoolExecutor(cores()) as pool:  # hashing runs outside the interpreter's lock
        for name, problem in zip(found, pool.map(_damage(suite, root), list(found)), strict=True):
            if problem:
                problems[name] = problem
    sizes = (origin.size(name) for origin in missing.values() for name in SPLITS)
    require_space(root / suite.store, sum(sizes))
    for name, origin in missing.items():
        task = suite.task(name)
        with _noted(problems, task):
            found[name] = prepare(
                suite, task, origin, root, _counter(suite, task, origin, progress)
            )
    whole = {task.name: found[task.name] for task in tasks if task.name not in problems}
    if problems:
        raise DataError(_unprepared(suite, problems, whole))
    return whole


def _look(
    suite: Suite, task: Task, root: Path, raw: Path | None
) -> tuple[Manifest | None, Origin | None]:
    """What is prepared and still true, and what the task is made of; a damaged file is neither."""
    origin = origin_of(suite, task, root, raw)
    if origin is None:
        return current(suite, task, root), None
    state = digest({name: origin.state(name) for name in SPLITS})
    return current(suite, task, root, state), origin


@contextmanager
def _noted(problems: dict[str, str], task: Task) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        problems[task.name] = str(error)


def _damage(suite: Suite, root: Path) -> Callable[[str], str]:
    """A call that reads a prepared task whole and says what is wrong with it."""

    def call(name: str) -> str:
        try:
            check(suite.store, suite.task(name), root)
        except DataError as error:
            return str(error)
        return ""

    return call


def _counter(suite: Suite, task: Task, origin: Origin, progress: Progress) -> Callable[[], None]:
    done, total = 0, origin.count()

    def tick() -> None:
        nonlocal done
        done += 1
        progress(f"{suite.name}/{task.name}", done, total)

    return tick


def origin_of(suite: Suite, task: Task, root: Path, raw: Path | None) -> Origin | None:
    """What a task is made of; `DataError` if its lists are wrong.

    None if it is not at hand: nothing was named, or not one image is there and it is prepared.
    """
    if suite.layout == "mini":
        return Made("orchestrator.data.mini", ("numpy", "scikit-learn"), task)
    listing = listing_of(suite, task, raw)
    if listing is not None and listing.empty and current(suite, task, root) is not None:
        return None
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
