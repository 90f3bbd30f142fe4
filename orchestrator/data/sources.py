"""Which suite's data comes from where: one row per suite."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from orchestrator.data.prepare import Arrays, prepare
from orchestrator.data.store import default_root
from orchestrator.errors import unknown
from orchestrator.spec import DataIdentity, Task


@dataclass(frozen=True)
class Source:
    """`package.make(task name)` gives the splits, with the help of the distributions in `uses`."""

    package: str
    uses: tuple[str, ...]

    def maker(self, task: str) -> Callable[[], Arrays]:
        """A call without arguments that makes the splits; imports the package when called."""
        return lambda: importlib.import_module(self.package).make(task)

    def state(self) -> str:
        """Changes with the package's code and the versions it uses."""
        found = find_spec(self.package)
        assert found is not None and found.submodule_search_locations is not None
        digest = hashlib.sha256()
        for folder in found.submodule_search_locations:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
        for name in self.uses:
            digest.update(f"{name} {version(name)}".encode())
        return digest.hexdigest()


SOURCES: Mapping[str, Source] = {
    "mini": Source("orchestrator.data.mini", ("numpy", "scikit-learn")),
}


def prepare_task(suite: str, task: Task, root: Path | None = None) -> DataIdentity:
    """Prepare one task of a suite in the store at `root` (default: `default_root()`).

    Raises `InvalidInput` for a suite without a source, `DataError` as `prepare`.
    """
    if suite not in SOURCES:
        raise unknown("suite", suite, SOURCES)
    source = SOURCES[suite]
    return prepare(suite, task, source.maker(task.name), root or default_root(), source.state())
