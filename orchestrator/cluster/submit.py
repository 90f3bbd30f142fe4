"""What `orchestrate submit` hands to a cluster: a command for the head, and the files it reads."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.planning.config import SweepConfig
from orchestrator.storage.addresses import has_secret
from orchestrator.storage.yaml import read_yaml

KIND = "orchestrate"
"""The key of a job's metadata that says what it is for: `sweep`, or a look at one."""
SWEEP, LOOK = "sweep", "look"
CONFIG, SPACE, SUITE = "config.yaml", "space.yaml", "suite"
# The cluster files install into ~/venv; whoever starts Ray from elsewhere has it on their PATH.
_FIND = 'export PATH="$PATH:$HOME/venv/bin"; exec'
_ELSEWHERE = {
    "suite", "name", "address", "dry_run", "config", "space", "out", "data_root", "suite_root",
}  # fmt: skip
"""Options that do not go to the head as they were typed: each has its own line below."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PLACES = ("root", "train", "val", "test")


@dataclass(frozen=True)
class Typed:
    """An option as it was typed, such as `--adapter` with every value that it was given."""

    name: str
    flag: str
    values: Sequence[str]

    @property
    def words(self) -> list[str]:
        """For a command line; without a value it is a switch."""
        if not self.values:
            return [self.flag]
        return [word for value in self.values for word in (self.flag, value)]


@dataclass(frozen=True)
class Work:
    """A command for the head: its id, the line for the shell there, and the files beside it."""

    id: str
    entrypoint: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def prepare(config: SweepConfig, typed: Sequence[Typed], home: Path | None = None) -> Work:
    """The submission of a sweep. Everything is checked that can be without the cluster.

    Args:
        config: the sweep, read as `orchestrate sweep` reads it.
        typed: the options that were given.
        home: of whoever typed it; the shell has put it in place of `~`.

    `InvalidInput` for whatever `sweep` would refuse before it looks at data, for a place that is
    none on the cluster, and for a password.
    """
    from orchestrator.backbones.names import check
    from orchestrator.planning.resolve import plan_sweep
    from orchestrator.storage.sweep_storage import paths_of

    if config.backend == "local":
        raise InvalidInput("--backend local runs in one process here; leave it out to submit.")
    if config.out is None:
        raise InvalidInput(
            "submit needs --out, a folder of the cluster that its machines share or an address: "
            "--out '~/shared/NAME', --out s3://BUCKET/NAME."
        )
    given = {option.name: option for option in typed}
    paths_of(config.out)  # an address that can be none
    places = _places(config, home or Path.home())
    suite, sweep = plan_sweep(config)
    check(sweep.backbone)
    _check_backbone(sweep.backbone)
    files = _files(config, given)
    words = [
        "sweep",
        *(f"{SUITE}/{Path(config.suite).name}" if _is_file(config.suite) else config.suite,),
        *(word for option in typed if option.name not in _ELSEWHERE for word in option.words),
        *(word for name in (CONFIG, SPACE) if name in files for word in (_flag(name), name)),
    ]
    line = " ".join([command(*words), *places, "--address auto"])
    _check_secrets([line], files)
    return Work(
        id=_id(given["name"].values[0] if "name" in given else "", suite.name),
        entrypoint=line,
        files=files,
        metadata={KIND: SWEEP, "suite": suite.name, "out": str(there("--out", config.out, home))},
    )


def look(what: str, line: str, files: Mapping[str, bytes] | None = None) -> Work:
    """A short command on the head that shows something of a sweep."""
    return Work(f"{LOOK}-{what}-{time.time_ns()}", line, files or {}, {KIND: LOOK})


def command(*words: str) -> str:
    """A line for the head's shell that runs `orchestrate`, wherever the environment has it."""
    return f"{_FIND} orchestrate {shlex.join(words)}"


def place_word(place: str) -> str:
    """A place of the cluster as a shell's word, `~/` still to be replaced by the head's home."""
    home, rest = ("~/", place[2:]) if place.startswith("~/") else ("", place)
    return home + (shlex.quote(rest) if rest or not home else "")


def there(option: str, given: str | Path, home: Path | None = None) -> str:
    """The place on the cluster that was meant; `InvalidInput` if it could be none.

    A path in the home of whoever typed it is one in the home of the head's user: the shell here
    has replaced `~`.
    """
    text, own = str(given), home or Path.home()
    if "://" in text or text.startswith("~/"):
        return text
    if own != Path("/") and Path(text).is_relative_to(own):
        return f"~/{Path(text).relative_to(own)}"
    if not text.startswith("/"):
        raise InvalidInput(
            f"{option} '{text}' is relative to a folder of this machine, which the cluster does "
            "not have. Name one of the cluster: '~/shared/NAME', /mnt/shared/NAME, s3://BUCKET/NAME."
        )
    return text


def _places(config: SweepConfig, home: Path) -> list[str]:
    """The options that name places, as they are there."""
    named = {
        "--out": config.out, "--data-root": config.data_root, "--suite-root": config.suite_root,
    }  # fmt: skip
    return [
        f"{flag} {place_word(there(flag, value, home))}"
        for flag, value in named.items()
        if value is not None
    ]


def _files(config: SweepConfig, given: Mapping[str, Typed]) -> dict[str, bytes]:
    """The files that the command reads, by their names beside it."""
    files = {
        name: _read(Path(given[option].values[0]))
        for name, option in ((CONFIG, "config"), (SPACE, "space"))
        if option in given
    }
    if _is_file(config.suite):
        path = Path(config.suite)
        _check_suite(path)
        files[f"{SUITE}/{path.name}"] = _read(path)
    return files


def _flag(file: str) -> str:
    return f"--{file.partition('.')[0]}"


def _is_file(suite: str) -> bool:
    return suite.endswith((".yaml", ".yml")) or "/" in suite


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}.") from error


def _check_suite(path: Path) -> None:
    """Only the suite's file travels: its images must be named as the cluster knows them."""
    for where, value in _image_places(read_yaml(path, "suite")):
        if not value.startswith(("/", "~/")):
            raise InvalidInput(
                f"'{where}' of the suite file '{path}' is '{value}', relative to that file, and "
                "only the file is sent. Write where the images lie on the cluster: "
                f"'/mnt/shared/{value}', '~/shared/{value}'."
            )


def _image_places(file: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from orchestrator.tasks.own import FORMS

    for task, about in file["tasks"].items():
        for form in FORMS:
            places = about.get(form) or {}
            yield from (
                (f"tasks.{task}.{form}.{name}", places[name])
                for name in _PLACES
                if isinstance(places.get(name), str)
            )


def _check_backbone(backbone: str) -> None:
    file = backbone.partition("@")[2]
    if file and not file.startswith(("/", "~/")):
        raise InvalidInput(
            f"backbone '{backbone}' names a file relative to a folder of this machine; write where "
            "it lies on the cluster: ARCHITECTURE@/mnt/shared/FILE, ARCHITECTURE@~/shared/FILE."
        )


def _check_secrets(lines: Sequence[str], files: Mapping[str, bytes]) -> None:
    texts = [*lines, *(data.decode(errors="replace") for data in files.values())]
    if any(map(has_secret, texts)):
        raise InvalidInput(
            "an address with a password is not submitted: whoever may look at the cluster's "
            "dashboard could read it. Leave --tracking-uri out and set MLFLOW_TRACKING_URI on the "
            "head, before `ray start`; credentials of object stores belong there as well."
        )


def _id(name: str, suite: str) -> str:
    if not name:
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", suite).strip("._-")[:60] or SWEEP
        return f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"--name '{name}' is no id; allowed are up to 80 letters, digits, dots, dashes and "
            "underscores, the first a letter or digit."
        )
    return name
