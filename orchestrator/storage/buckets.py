"""Open the bucket that an address names: its options, credentials and time-outs.

    s3://BUCKET/NAME   gs://BUCKET/NAME   az://CONTAINER/NAME   …?OPTION=VALUE&OPTION=VALUE

`anonymous@` before the bucket signs no request. Options are those of pyarrow's addresses, which
older commands use (`region`, `scheme`, `endpoint_override`, `force_virtual_addressing`,
`tls_ca_file_path`), and every configuration key of obstore's S3Store, GCSStore or AzureStore
(`account_name`, `use_azure_cli`, `request_payer`, …).
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from obstore import store as stores

from orchestrator.storage.addresses import ANONYMOUS

ALLOWED = "s3://BUCKET/NAME, gs://BUCKET/NAME or az://CONTAINER/NAME"
WHERE = {
    "s3": "the environment (AWS_ACCESS_KEY_ID …), ~/.aws, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the "
    "machine's service account",
    "az": "the environment (AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, "
    "AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID …), `az login` with ?use_azure_cli=true, or the "
    "machine's managed identity",
}
"""Where credentials are looked for."""

_CLASSES: dict[str, Any] = {
    "s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore,
}  # fmt: skip
_ENDPOINT = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}
_ONLY_PYARROW = {
    "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "background_writes",
    "check_directory_existence_before_creation", "default_metadata", "retry_limit_seconds",
    "smart_defaults",
}  # fmt: skip
"""Options that change nothing about where the files are."""

# Repetition over minutes is the caller's (`RetryPolicy`); here only a lost packet is repeated.
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
_CLIENT: Any = {"connect_timeout": timedelta(seconds=5), "allow_http": True}
# `timeout` is for a whole file; `read_timeout` for the wait for the next bytes, which begins when
# a piece of an upload is sent.
_SLOW = {"timeout": timedelta(hours=6), "read_timeout": timedelta(seconds=60)}
_QUICK = {"timeout": timedelta(seconds=4)}


def open_bucket(uri: str) -> tuple[Any, Any]:
    """obstore's store of the bucket of an address, for files of any size and for small ones.

    The second has short time-outs. obstore's errors or `ValueError` where an option is wrong.
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in _CLASSES:
        raise ValueError(f"'{scheme}://' is not known")
    address, _, options = rest.partition("?")
    user, _, bucket = address.partition("/")[0].rpartition("@")
    config, client = _config(scheme, dict(parse_qsl(options)))
    if user == ANONYMOUS:
        config["skip_signature"] = True
    elif user and scheme == "s3":
        key, _, secret = user.partition(":")
        config |= {"access_key_id": unquote(key), "secret_access_key": unquote(secret)}
    provider = {}
    if scheme == "s3":
        if "access_key_id" not in config and user != ANONYMOUS:
            provider = _aws_profile(config)
        _find_region(bucket, config)

    def connect(timeouts: dict[str, timedelta]) -> Any:
        return _CLASSES[scheme](
            bucket,
            config=config,
            client_options={**_CLIENT, **client, **timeouts},
            retry_config=_RETRY,
            **provider,
        )

    return connect(_SLOW), connect(_QUICK)


def credentials_hint(scheme: str, message: str) -> str:
    """A sentence about credentials if an error is about them; empty otherwise."""
    about = r"credential|denied|forbidden|unauth|signature|\b40[13]\b|169\.254\.|metadata"
    if scheme not in WHERE or not re.search(about, message, re.IGNORECASE):
        return ""
    return f" Credentials of {scheme}:// are looked for in {WHERE[scheme]}."


def _config(scheme: str, options: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration of obstore's store and of its HTTP client, from an address's options."""
    config: dict[str, Any] = {k: v for k, v in options.items() if k not in _ONLY_PYARROW}
    client: dict[str, Any] = {}
    protocol, endpoint = config.pop("scheme", "https"), config.pop("endpoint_override", "")
    if endpoint:
        config[_ENDPOINT[scheme]] = endpoint if "://" in endpoint else f"{protocol}://{endpoint}"
    if "force_virtual_addressing" in config:
        config["virtual_hosted_style_request"] = config.pop("force_virtual_addressing")
    if "tls_ca_file_path" in config:
        client["root_certificate"] = Path(config.pop("tls_ca_file_path")).read_bytes()
    return config, client


def _aws_profile(config: dict[str, Any]) -> dict[str, Any]:
    """Credentials of `~/.aws`, which obstore does not read: keys into `config`, or a provider.

    The environment goes first. boto3, where it is installed, knows profiles without keys of their
    own too (single sign-on, assumed roles).
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    folder = Path.home() / ".aws"
    profiles = configparser.RawConfigParser()
    profiles.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", folder / "credentials"))
    if profiles.has_option(profile, "aws_access_key_id"):
        names = ("access_key_id", "secret_access_key", "session_token")
        found = {name: profiles.get(profile, f"aws_{name}", fallback="") for name in names}
        config.update({name: value for name, value in found.items() if value})
    elif (folder / "config").exists() and importlib.util.find_spec("boto3"):
        from obstore.auth.boto3 import Boto3CredentialProvider

        with suppress(ValueError):  # the profile has no credentials: the machine may have a role
            return {"credential_provider": Boto3CredentialProvider()}
    return {}


def _find_region(bucket: str, config: dict[str, Any]) -> None:
    """The bucket's region, asked of AWS where neither address nor environment names one."""
    names = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    if {"region", "endpoint"} & config.keys() or any(os.environ.get(name) for name in names):
        return
    from pyarrow.fs import resolve_s3_region

    config["region"] = resolve_s3_region(bucket)
