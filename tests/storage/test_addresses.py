from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest
from requests.utils import get_environ_proxies

from orchestrator.storage.addresses import has_secret, location, reach_loopback, redacted


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://u:p@host:1/x", "http://***@host:1/x"),
        ("postgresql+psycopg://u:p%40x@host/db", "postgresql+psycopg://***@host/db"),
        ("a://u:1@b and c://v:2@d", "a://***@b and c://***@d"),
        ("https://h/?token=abc&x=1", "https://h/?token=***&x=1"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("s3://anonymous@bucket/x", "s3://anonymous@bucket/x"),
        ("s3://bucket/me@host/x", "s3://bucket/me@host/x"),
        ("postgresql://u:p/w@host/db", "postgresql://***@host/db"),
        ("postgresql://u:12/34@host/db", "postgresql://***@host/db"),
        ("https://u:p@/w@host/x", "https://***@host/x"),
        ("http://me@host/x", "http://***@host/x"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dp", "mssql+pyodbc:///?odbc_connect=***"),
        ("connect failed: SERVER%3Dh%3BPWD%3Dp", "connect failed: SERVER%3Dh%3BPWD%3D***"),
        ("az://c/x?account_key=abc&sig=d&region=e", "az://c/x?account_key=***&sig=***&region=e"),
        ("refused: PGPASSWORD=hush", "refused: PGPASSWORD=***"),
        ("--set batch=9 --out s3://b/x?region=e", "--set batch=9 --out s3://b/x?region=e"),
    ],
)
def test_credentials_are_hidden(text: str, clean: str) -> None:
    assert redacted(text) == clean
    assert has_secret(text) == (text != clean)


def test_secrets_of_the_environment_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter/22")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "short")
    assert redacted("refused: hunter/22") == "refused: ***"
    assert redacted("GET /x?q=hunter%2F22") == "GET /x?q=***"
    assert redacted(f"a short sentence about {tmp_path}") == f"a short sentence about {tmp_path}"


def test_pieces_of_a_secret_are_hidden_in_errors_about_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "postgresql://me:hu%21sh20/slash@h/db"
    assert redacted("no port: 'sh20' or 'slash', me", address) == "no port: '***' or '***', me"
    assert redacted("hush20 of me", "https://h/?token=hush20;x") == "*** of me"
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush30@proxy:80")
    assert redacted("proxy refuses hush30 of me; hush301") == "proxy refuses *** of me; hush301"
    assert redacted("role me is unknown", "postgresql://me:me@h/db") == "role me is unknown"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("spared", ["", "no_proxy", "NO_PROXY"])
def test_a_proxy_is_for_other_machines(
    name: str, spared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [one for one in os.environ if one.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    for variable in ("no_proxy", "NO_PROXY"):  # restored afterwards
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv(name, "http://proxy:3128")
    if spared:
        monkeypatch.setenv(spared, "intern.example, 10.0.0.1")
    reach_loopback()
    reach_loopback()
    for host in ("127.0.0.1:5000", "localhost:8265", "[::1]:80"):
        assert get_environ_proxies(f"http://{host}/api") == {}
        assert urllib.request.proxy_bypass(host), host
    assert get_environ_proxies("http://huggingface.co/x")
    assert not urllib.request.proxy_bypass("huggingface.co")
    assert bool(spared) == (get_environ_proxies("http://a.intern.example") == {})
    assert os.environ["no_proxy"].count("localhost") == 1


def test_no_proxy_at_all_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    reach_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "*"


def test_a_location_has_neither_user_nor_options() -> None:
    assert location("s3://key:secret@bucket/sweep?region=x") == "s3://bucket/sweep"
    assert location("/data/a@b?c") == location(Path("/data/a@b?c")) == "/data/a@b?c"
    assert location("s3://bucket/me@host/x") == "s3://bucket/me@host/x"
