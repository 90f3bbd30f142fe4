from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.search import Suggestion, SuggestionStore

VALUES = {"scale": 1.0, "rank": 8, "init": "vv", "shared": True, "alpha": None}


def test_suggestions_come_back_in_order_with_their_types(tmp_path: Path) -> None:
    store = SuggestionStore(tmp_path / "asks")
    assert store.load("digits/lora") == []
    written = [Suggestion(index, VALUES, f"key{index}") for index in (11, 2, 0)]
    for suggestion in written:
        store.record("digits/lora", suggestion)
    read = SuggestionStore(tmp_path / "asks").load("digits/lora")
    assert read == sorted(written, key=lambda suggestion: suggestion.index)
    assert [type(value) for value in read[0].values.values()] == [float, int, str, bool, type(None)]
    assert store.path("digits/lora", 2) == tmp_path / "asks" / "digits--lora" / "00002.json"
    assert store.load("digits/efft2") == []
    assert store.load("digits/lora/paper-leaks") == []


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    SuggestionStore(tmp_path / "asks").record("../up/a", Suggestion(0, {}, "k"))
    assert [path.name for path in tmp_path.iterdir()] == ["asks"]
    assert SuggestionStore(tmp_path / "asks").load("../up/a") == [Suggestion(0, {}, "k")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"index": 0, "values": {"ra',
        b"[]",
        b'{"index": 0, "key": "k"}',
        b'{"index": 7, "values": {}, "key": "k"}',
        b'{"index": 0, "values": {}, "key": 3}',
        b'{"index": 0, "values": 5, "key": "k"}',
        b'{"index": "x", "values": {}, "key": "k"}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    store = SuggestionStore(tmp_path)
    store.record("t/a", Suggestion(0, {}, "k"))
    store.path("t/a", 0).write_bytes(content)
    with pytest.raises(LedgerError, match=r"t--a/00000\.json.*Move the file away"):
        store.load("t/a")


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LedgerError, match=r"cannot write the suggestion '.*file/t--a/00000\.json'"):
        SuggestionStore(tmp_path / "file").record("t/a", Suggestion(0, {}, "k"))


def test_leftovers_of_a_killed_write_are_ignored(tmp_path: Path) -> None:
    store = SuggestionStore(tmp_path)
    store.record("t/a", Suggestion(0, {}, "k"))
    (tmp_path / "t--a" / "00001.4711.abcd").write_text('{"index"')
    assert store.load("t/a") == [Suggestion(0, {}, "k")]
