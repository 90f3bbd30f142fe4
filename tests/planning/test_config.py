from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.planning.config import (
    SweepConfig,
    make_config,
    parse_settings,
    read_yaml,
    seconds_of,
)

ALIASES = "".join(
    f"{name}: &{name} [{', '.join([inner] * 10)}]\n"
    for name, inner in zip("abcdef", ("x", "*a", "*b", "*c", "*d", "*e"), strict=True)
)
"""Six lines that stand for a million values."""


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


def test_a_file_gives_the_fields_and_options_win(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "suite: other\nadapter: [lora, linear]\ntasks: digits, textures\nseeds: 5\nepochs: 3\n"
        "time_budget: 90\nset: {lr: 1e-3, batch: 32}\nspace: {lora: {rank: [2]}}\n",
    )
    given = {"suite": "mini", "seeds": 2, "epochs": None, "set": {"lr": 0.5}}
    config = make_config(given, file)
    assert (config.suite, config.seeds, config.epochs) == ("mini", 2, 3)
    assert config.adapter == ("lora", "linear")
    assert config.tasks == ("digits", "textures")
    assert config.budget_seconds == 90
    assert config.set == {"lr": 0.5, "batch": 32}
    assert config.space == {"lora": {"rank": [2]}}


def test_yaml_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "suite: mini\nset: {lr: 1e-3, weight_decay: 1E-4, schedule: cosine}\n")
    assert make_config({}, file).set == {"lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"}


def test_names_are_texts_as_they_are_written(tmp_path: Path) -> None:
    config = make_config({}, written(tmp_path, "suite: mini\nout: 1e-3\naddress: 10:30\n"))
    assert (config.out, config.address) == ("1e-3", "10:30")
    assert make_config({}, written(tmp_path, "suite: mini\nout: ~\n")).out is None


def test_the_output_folder_follows_the_suite() -> None:
    assert SweepConfig(suite="mini").location == "runs/mini"
    assert make_config({"suite": "mini", "out": Path("here")}, None).location == "here"
    assert SweepConfig(suite="mini", out="s3://bucket/name").location == "s3://bucket/name"
    assert SweepConfig(suite="mini").budget_seconds is None


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("adaptor: lora", ["'adaptor'", "Did you mean 'adapter'?"]),
        ("trials: 0", ["'trials' is 0", "greater than or equal to 1"]),
        ("trials: 2.5", ["'trials' is 2.5"]),
        ("seeds: true", ["'seeds' is True"]),
        ("width: 5000", ["'width' is 5000", "1024"]),
        ("backend: slurm", ["'backend' is 'slurm'", "ray"]),
        ("adapter: []", ["'adapter'", "at least 1"]),
        ("device: +1", ["device '+1'", "cuda:N"]),
        ("device: 1e3", ["device '1e3'"]),
        ("device: cuda:-1", ["'cuda:-1'"]),
        ("device: cuda:99999999999", ["'cuda:99999999999'"]),
        ("address: '[/]'", ["--address '[/]'", "HOST:PORT"]),
        ("address: 'x:99999'", ["--address 'x:99999'"]),
        ("tracking_uri: 'http://[::1'", ["--tracking-uri 'http://[::1'"]),
        ("backbone: ''", ["'backbone' is ''", "leave it out"]),
        ("out: " + "x" * 300, ["'out'", "File name too long"]),
        ("data_root: " + "a/" * 3000, ["'data_root'", "File name too long"]),
        ('out: "a\\0b"', ["a\\x00b", "line 1"]),
        ('out: "a\\ud800"', ["ud800", "line 1"]),
        ("set: {lr: !!float x}", ["'x' is no float", "line 1"]),
        ("set: {epochs: " + "9" * 400 + "}", ["99999", "300 digits", "line 1"]),
        ("set: {lr: 0x" + "f" * 300 + "}", ["0xffff", "300 digits"]),
        ("x: [" + "a," * 100_000 + "]", ["more than 100,000 values"]),
        ("trials: 0\nseeds: 0\nx: 1", ["'trials' is 0", "'seeds' is 0", "'x'"]),
        ("time_budget: " + "9" * 30 + "d", ["--time-budget '999", "3650d"]),
        ("space: {lora: [2, 4]}", ["'space.lora' is [2, 4]"]),
        ("time_budget: soon", ["'soon'", "30m"]),
        ("[1, 2]", ["config.yaml", "mapping", "[1, 2]"]),
        ("", ["config.yaml", "mapping", "None"]),
        ("1: 2", ["config.yaml", "mapping"]),
        ("seeds: [1", ["config.yaml", "not valid YAML", "line 2"]),
        ("seeds: 2024-13-45", ["config.yaml", "not valid YAML"]),
        ("seeds: " + "9" * 5_000, ["config.yaml", "not valid YAML"]),
        ("[" * 100_000, ["config.yaml", "nested too deeply"]),
        (ALIASES, ["config.yaml", "aliases expand to more than 100,000 values"]),
        ("set: &a {lr: *a}", ["config.yaml", "aliases expand"]),
        ("seeds: 1000000000", ["'seeds' is 1000000000", "1000"]),
        ("seeds: !!python/object/apply:os.getcwd []", ["config.yaml", "not valid YAML"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_file_is_refused_in_words(text: str, fragments: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_config({"suite": "mini"}, written(tmp_path, f"{text}\n"))
    for fragment in fragments:
        assert fragment in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.yaml"):
        read_yaml(tmp_path / "gone.yaml", "search space")
    file = tmp_path / "bytes.yaml"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidInput, match=r"search space file '.*bytes\.yaml'"):
        read_yaml(file, "search space")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidInput, match="cannot be read: it is no regular file"):
            read_yaml(path, "search space")
    file.write_text("x" * 1_000_001)
    with pytest.raises(InvalidInput, match="larger than 1,000,000 bytes"):
        read_yaml(file, "search space")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("lr=1e-3", {"lr": 1e-3}),
        ("lr=5E+2", {"lr": 500.0}),
        ("lr=-2.5e-1", {"lr": -0.25}),
        ("lr=0.005", {"lr": 0.005}),
        (" lr = 1e-3 ", {"lr": 1e-3}),
        ("epochs=7", {"epochs": 7}),
        ("schedule=cosine", {"schedule": "cosine"}),
        ("a=b=c", {"a": "b=c"}),
        ("lr=1.2.3e4", {"lr": "1.2.3e4"}),
        ("lr=[", {"lr": "["}),
    ],
)
def test_settings_are_yaml_scalars(pair: str, expected: dict[str, Any]) -> None:
    found = parse_settings([pair])
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize("pair", ["lr", "=1", "lr=", "", " =1", "lr= "])
def test_settings_without_a_name_or_value_are_refused(pair: str) -> None:
    with pytest.raises(InvalidInput, match=r"FIELD=VALUE, for example"):
        parse_settings([pair])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("8 h", 28800), ("2d", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "soon", "5 weeks", "1h30m", "inf", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not a duration; write 90s, 30m"):
        seconds_of(text)
