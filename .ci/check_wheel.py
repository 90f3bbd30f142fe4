"""Check that a wheel holds every file of the three packages, code and data, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGES = ("orchestrator", "adapters", "search_spaces")
ROOT = Path(__file__).parent.parent


def expected() -> set[str]:
    """The packages' files in the working tree, as paths from its root."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def main(wheel: str) -> int:
    """Print what differs; 1 if anything does."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = expected()
    for name in sorted(wanted - packed):
        print(f"missing from the wheel: {name} (see package-data in pyproject.toml)")
    for name in sorted(packed - wanted):
        print(f"only in the wheel: {name}")
    weights = [name for name in packed if name.endswith(".safetensors")]
    if not weights:
        print("the wheel holds no *.safetensors")
    size = Path(wheel).stat().st_size / 1e6
    print(f"{Path(wheel).name}: {len(packed)} files, {size:.1f} MB, weights: {', '.join(weights)}")
    return 0 if packed == wanted and weights else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
