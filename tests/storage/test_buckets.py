from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LedgerError, StorageError
from orchestrator.storage.buckets import credentials_hint, open_bucket
from orchestrator.storage.object_store import ObjectStore, storage
from tests.object_stores import s3_server

SETTINGS = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "REGION", "ENDPOINT_URL")


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person without credentials."""
    for name in SETTINGS:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/x?region=eu-north-1", {"region": "eu-north-1"}),
        ("s3://bucket/x?scheme=http&endpoint_override=host:9000", {"endpoint": "http://host:9000"}),
        ("s3://bucket/x?endpoint_override=https://host", {"endpoint": "https://host"}),
        ("s3://bucket/x?force_virtual_addressing=true", {"virtual_hosted_style_request": True}),
        ("s3://bucket/x?allow_delayed_open=true&background_writes=false", {}),
        ("s3://anonymous@bucket/x", {"skip_signature": True}),
        ("gs://anonymous@bucket/x?endpoint_override=host&scheme=http", {"base_url": "http://host"}),
        ("az://container/x?account_name=me&use_azure_cli=true", {"account_name": "me"}),
    ],
)
def test_options_of_an_address_are_understood(uri: str, expected: dict[str, object]) -> None:
    for bucket in open_bucket(uri):
        found = {name: bucket.config.get(name) for name in expected}
        assert {k: str(v).lower() for k, v in found.items()} == {
            k: str(v).lower() for k, v in expected.items()
        }


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(LedgerError, match=r"'s3://bucket/x' cannot be used \(.*colour"):
        storage("s3://bucket/x?colour=red")


def test_credentials_of_a_profile_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = hush\n"
        "[work]\naws_access_key_id = two\naws_secret_access_key = hush\n"
    )
    assert open_bucket("s3://bucket/x")[0].config["access_key_id"] == "one"
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert open_bucket("s3://bucket/x")[0].config["access_key_id"] == "two"


def test_an_at_sign_belongs_to_the_path_after_the_bucket() -> None:
    for uri in ("s3://bucket/me@host/run", "s3://anonymous@bucket/me@host/run?region=eu-north-1"):
        found = storage(uri)
        assert isinstance(found, ObjectStore)
        assert found.path("ledger", "x") == "s3://bucket/me@host/run/ledger/x"
        assert found._key("ledger", "x") == "me@host/run/ledger/x"


def test_who_may_not_is_told_where_credentials_are_looked_for() -> None:
    assert "~/.aws" in credentials_hint("s3", "Access Denied")
    assert "AZURE_STORAGE_ACCOUNT_KEY" in credentials_hint("az", "status code: 403 Forbidden")
    assert credentials_hint("s3", "the disk is full") == ""


def test_objects_are_created_once_and_replaced_only_unchanged() -> None:
    with s3_server():
        store = storage("s3://bucket/a/b")
        assert isinstance(store, ObjectStore)
        assert store.create("f", "x", b"1")
        assert not store.create("f", "x", b"2")
        assert store.read("f", "x") == b"1"
        first = store.replace("y", b"1", None)
        assert first is not None
        assert store.replace("y", b"2", None) is None
        second = store.replace("y", b"2", first)
        assert second is not None
        assert store.replace("y", b"3", first) is None
        assert store.read_version("y") == (b"2", second)
        assert store.read_version("z") == (b"", None)
        assert store.walk("") == {"f/x": 1, "y": 1}
        assert store.sizes("") == {"y": 1}
        with pytest.raises(StorageError, match=r"bucket does not exist.*the same command again"):
            storage("s3://missing/a").write("", "x", b"1")
