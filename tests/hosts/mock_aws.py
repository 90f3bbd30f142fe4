"""A mock AWS for one network: `python mock_aws.py ADDRESS PORT`, and what happens in it, as lines.

The API is moto's. It runs on the laptop; this file is run there, not imported. One JSON object per
event: `ready`, then `launched` (id, addresses, the key pair's public half) and `terminated` (id).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.server import ThreadedMotoServer

REGION = "us-west-2"


class SoldOut(EC2ClientError):
    """What AWS answers where it has no spot instance to give."""

    code = "InsufficientInstanceCapacity"
    message = "There is no Spot capacity available that matches your request."


def main(address: str, port: str, *scarce: str) -> None:
    """Serves until it is killed. With `no-spot` it has no spot instances to give."""
    if "no-spot" in scarce:
        _refuse_spot()
    ThreadedMotoServer(ip_address=address, port=int(port)).start()
    _say("ready")
    for name, facts in _events(ec2_backends[DEFAULT_ACCOUNT_ID][REGION]):
        _say(name, **facts)


def _refuse_spot() -> None:
    give = EC2Backend.run_instances

    def run_instances(self: EC2Backend, *args: Any, **options: Any) -> Any:
        if options.get("instance_market_options") == "spot":
            _say("refused")
            raise SoldOut
        return give(self, *args, **options)

    EC2Backend.run_instances = run_instances  # type: ignore[method-assign,assignment]


def _events(cloud: EC2Backend) -> Iterator[tuple[str, dict[str, Any]]]:
    states: dict[str, str] = {}
    while True:
        for instance in list(cloud.all_instances()):
            before, now = states.get(instance.id), instance.state
            states[instance.id] = now
            if before is None and now in ("pending", "running"):
                key = cloud.key_pairs[str(instance.key_name)]
                facts = {"id": instance.id, "spot": instance.lifecycle == "spot"}
                facts["addresses"] = [instance.private_ip, instance.public_ip]
                facts["public_key"] = key.material_public.decode()
                yield "launched", facts
            elif before not in (None, "terminated") and now == "terminated":
                yield "terminated", {"id": instance.id}
        time.sleep(0.1)


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
