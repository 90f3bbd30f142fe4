"""What docs/methods.md claims of every built-in adapter: the one row that a new one adds there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters import Adapter
from tests.imports import ROOT

_ROW = re.compile(
    r"^\| `(\w+)` \| `(\w+)` \|[^|]*\| ([^|]*) \| (yes|no) \| ([\d,]+) \|$", re.MULTILINE
)


@dataclass(frozen=True)
class Claim:
    """Class name, start, whether it merges, and trained values on ViT-B/16 at the defaults."""

    cls: str
    start: str
    merges: bool
    count: int

    def identity(self, adapter: Adapter) -> bool:
        """Whether the features at the start are the frozen model's."""
        same = {"identity", "pre-trained", "head 0", "frozen features"}
        chosen = getattr(adapter, "init", ""), getattr(adapter, "pool", "")
        return self.start in same or "zero" in chosen or "backbone" in chosen


CLAIMS = {
    name: Claim(cls, start, merges == "yes", int(count.replace(",", "")))
    for name, cls, start, merges, count in _ROW.findall((ROOT / "docs/methods.md").read_text())
}
