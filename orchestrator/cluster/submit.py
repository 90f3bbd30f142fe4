"""A sweep as a job: the command line for the head of a cluster, and the files that it reads."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.planning.config import SweepConfig
from orchestrator.storage.addresses import has_secret
from orchestrator.storage.yaml import read_yaml

KIND = "orchestrate"
"""The key of a job's metadata that says what it is: a sweep, or a query about one."""
SWEEP, QUERY = "sweep", "query"
SUITE = "suite"
_FILES = ("config", "space")
"""Options that name a file, which is sent as NAME.yaml."""
# The cluster files install into ~/venv; who starts Ray from elsewhere has it on the PATH.
_FIND = 'export PATH="$PATH:$HOME/venv/bin"; exec'
_REWRITTEN = {
    "suite", "name", "address", "dry_run", "config", "space", "out", "data_root", "suite_root",
}  # fmt: skip
"""Options that are not passed to the head as they were given."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_IMAGE_KEYS = ("root", "train", "val", "test")


@dataclass(frozen=True)
class GivenOption:
    """A command-line option with all its values, such as `--adapter lora --adapter hta`."""

    name: str
    flag: str
    values: Sequence[str]

    @property
    def arguments(self) -> list[str]:
        """For a command line; an option without a value is a switch."""
        if not self.values:
            return [self.flag]
        return [word for value in self.values for word in (self.flag, value)]


class Submission(NamedTuple):
    """A job: its id, the shell command for the head, the files beside it, and metadata."""

    id: str
    entrypoint: str
    files: Mapping[str, bytes]
    metadata: Mapping[str, str]


def prepare(
    config: SweepConfig, given: Sequence[GivenOption], home: Path | None = None
) -> Submission:
    """The submission of a sweep, checked as far as possible without the cluster.

    Args:
        config: the sweep, read as `orchestrate sweep` reads it.
        given: the options that were given.
        home: the local user's, which the shell has put in place of `~`.

    Raises `InvalidInput` for whatever `sweep` refuses before it reads data, for a relative path,
    and for a password.
    """
    from orchestrator.backbones.names import check
    from orchestrator.planning.resolve import plan_sweep
    from orchestrator.storage.sweep_storage import paths_of
    from orchestrator.tracking.locations import check_uri

    if config.backend == "local":
        raise InvalidInput("--backend local runs in one process here; leave it out to submit.")
    if config.out is None:
        raise InvalidInput(
            "submit needs --out, a folder of the cluster that its machines share or an address: "
            "--out '~/shared/NAME', --out s3://BUCKET/NAME."
        )
    by_name = {option.name: option for option in given}
    paths_of(config.out)  # refuses a malformed address
    locations = {
        "--out": config.out, "--data-root": config.data_root, "--suite-root": config.suite_root,
    }  # fmt: skip
    on_cluster = {
        flag: cluster_path(flag, path, home) for flag, path in locations.items() if path is not None
    }
    if config.tracking_uri is not None:
        check_uri(config.tracking_uri)
    suite, sweep = plan_sweep(config)
    check(sweep.backbone)
    _check_backbone(sweep.backbone)
    files = _files(config, by_name)
    arguments = [
        "sweep",
        f"{SUITE}/{Path(config.suite).name}" if _is_file(config.suite) else config.suite,
        *(word for o in given if o.name not in _REWRITTEN for word in o.arguments),
        *(word for name in _FILES if name in by_name for word in (f"--{name}", f"{name}.yaml")),
    ]
    quoted = [f"{flag} {quote_path(path)}" for flag, path in on_cluster.items()]
    line = " ".join([command(*arguments), *quoted, "--address auto"])
    _check_secrets(line, files)
    return Submission(
        id=_id(by_name["name"].values[0] if "name" in by_name else "", suite.name),
        entrypoint=line,
        files=files,
        metadata={KIND: SWEEP, "suite": suite.name, "out": on_cluster["--out"]},
    )


def query(what: str, line: str, files: Mapping[str, bytes] | None = None) -> Submission:
    """A short command on the head that reads from a sweep."""
    return Submission(f"{QUERY}-{what}-{time.time_ns()}", line, files or {}, {KIND: QUERY})


def command(*arguments: str) -> str:
    """A line for the head's shell that runs `orchestrate` with these arguments."""
    return f"{_FIND} orchestrate {shlex.join(arguments)}"


def quote_path(path: str) -> str:
    """A path quoted for the head's shell, which still replaces a leading `~/`."""
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + (shlex.quote(rest) if rest or not home else "")


def cluster_path(option: str, given: str | Path, home: Path | None = None) -> str:
    """The path on the cluster that an option means; `InvalidInput` for a relative path.

    A path in the local user's home is taken as one in the home of the head's user, because the
    shell here has replaced `~`.
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


def _files(config: SweepConfig, given: Mapping[str, GivenOption]) -> dict[str, bytes]:
    """The files that the command reads, by their names beside it."""
    files = {f"{n}.yaml": _read(Path(given[n].values[0])) for n in _FILES if n in given}
    if _is_file(config.suite):
        path = Path(config.suite)
        _check_suite(path)
        files[f"{SUITE}/{path.name}"] = _read(path)
    return files


def _is_file(suite: str) -> bool:
    return suite.endswith((".yaml", ".yml")) or "/" in suite


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}.") from error


def _check_suite(path: Path) -> None:
    """Only the suite's file is sent: it must name the images by their paths on the cluster."""
    from orchestrator.tasks.own import FORMS

    for task, about in read_yaml(path, "suite")["tasks"].items():
        for form, name in itertools.product(FORMS, _IMAGE_KEYS):
            given = (about.get(form) or {}).get(name)
            for value in given if isinstance(given, list) else [given]:
                if isinstance(value, str) and not value.startswith(("/", "~/")):
                    raise InvalidInput(
                        f"'tasks.{task}.{form}.{name}' of the suite file '{path}' is '{value}', "
                        "relative to that file, and only the file is sent. Write the path of the "
                        f"images on the cluster: '/mnt/shared/{value}', '~/shared/{value}'."
                    )


def _check_backbone(backbone: str) -> None:
    file = backbone.partition("@")[2]
    if file and not file.startswith(("/", "~/")):
        raise InvalidInput(
            f"backbone '{backbone}' names a file relative to a folder of this machine; write its "
            "path on the cluster: ARCHITECTURE@/mnt/shared/FILE, ARCHITECTURE@~/shared/FILE."
        )


def _check_secrets(line: str, files: Mapping[str, bytes]) -> None:
    if any(map(has_secret, [line, *(data.decode(errors="replace") for data in files.values())])):
        raise InvalidInput(
            "an address with a password is not submitted: everybody who can open the cluster's "
            "dashboard could read it. Leave --tracking-uri out and set MLFLOW_TRACKING_URI on the "
            "head, before `ray start`; the same holds for credentials of object stores."
        )


def _id(name: str, suite: str) -> str:
    if not name:
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", suite).strip("._-")[:60] or SWEEP
        return f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"--name '{name}' is not an id; allowed are up to 80 letters, digits, dots, dashes and "
            "underscores, the first a letter or digit."
        )
    return name
