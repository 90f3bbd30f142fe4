"""MLflow's environment variables: quiet, no telemetry, and an absent server noticed in seconds.

A variable that is already set is left alone. Imports nothing of MLflow.
"""

from __future__ import annotations

import os
import re

URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""The address that MLflow's own tools use; a sweep's too, unless it is given another."""
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run, with a server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # MLflow's own repetition would send a "create run" again whose answer was lost; the writer
    # tries again itself, after looking which runs exist.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HIDDEN = "***"


def prepare() -> None:
    """Set `VARIABLES` where they are unset; call before MLflow is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def redact(text: str) -> str:
    """`text` without user names and passwords of addresses, nor tokens of the environment."""
    text = re.sub(r"(://)[^/\s]*@", rf"\1{HIDDEN}@", text)
    text = re.sub(r"(?i)((?:password|passwd|token|secret)\w*=)[^&\s]+", rf"\1{HIDDEN}", text)
    for value in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(value, HIDDEN)
    return text
