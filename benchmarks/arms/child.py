"""A process of an arm: `python -m arms.child REQUEST.json`, started by `arms.launch`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch

from arms.work import Log, Work


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    work = Work.read(Path(request["folder"]))
    log = Log(Path(request["log"]), work.device)
    arm = importlib.import_module(f"arms.{request['arm']}")
    arm.run(work, request["trials"], {**request["options"], "log": request["log"]}, log)


if __name__ == "__main__":
    main()
