"""AWS, simulated: an API that answers, and a host that starts for every instance it launches."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.hosts.hosts import LAPTOP, Hosts
from tests.hosts.image import SERVED
from tests.hosts.rack import wait_for

NETWORK = "172.31.0.0/16"
"""The default network of a fresh AWS account."""
PORT = 5077
# The laptop has the network's last address but one; it stands for the whole world outside too.
API = f"http://172.31.255.254:{PORT}"
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": API,
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-west-2",
}
_IMAGE = """
import boto3
ec2 = boto3.client("ec2")
group = ec2.create_security_group(GroupName="orchestrate", Description="Ray sweeps")["GroupId"]
image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
print(group, image)
"""


@dataclass
class Instance:
    """A virtual machine: its host's name, and whether it is still wanted."""

    id: str
    spot: bool
    addresses: list[str]
    ended: bool = False


@dataclass
class Cloud:
    """A laptop and an AWS account; `instances` are what was launched in it, in order."""

    spot: bool = True
    instances: dict[str, Instance] = field(default_factory=dict)
    refused: int = 0
    problem: BaseException | None = None

    def __enter__(self) -> Self:
        self.hosts = Hosts(network=NETWORK, shared=SERVED, environment=ENVIRONMENT)
        self.hosts.up()
        try:
            self._start()
        except BaseException:
            self.hosts.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hosts.down()
        self._api.wait()
        self._reader.join()

    def fill_in(self, text: str) -> str:
        """A cluster file with the account's own security group and image."""
        group, image = self.hosts.run(LAPTOP, f"python -c '{_IMAGE}'").text.split()
        return text.replace("sg-00000000000000000", group).replace("ami-00000000000000000", image)

    @property
    def alive(self) -> list[Instance]:
        """The instances that are running."""
        if self.problem:
            raise RuntimeError("an instance did not start") from self.problem
        return [instance for instance in self.instances.values() if not instance.ended]

    def _start(self) -> None:
        address = self.hosts.addresses[LAPTOP]
        command = f"exec python tests/hosts/mock_aws.py {address} {PORT}"
        self._log = self.hosts.path(LAPTOP, "/home/ubuntu/aws.log")
        self._api = self.hosts.popen(
            LAPTOP,
            f"{command} {'' if self.spot else 'no-spot'} 2> ~/aws.log",
            stdout=subprocess.PIPE,
            environment={"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_for("the mock AWS", self._ready.is_set, seconds=40)
        except TimeoutError as error:
            raise RuntimeError(f"the mock AWS did not start: {self._log.read_text()}") from error

    def _read(self) -> None:
        assert self._api.stdout
        for line in self._api.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self._heed(json.loads(line))

    def _heed(self, event: dict[str, Any]) -> None:
        try:
            match event["event"]:
                case "ready":
                    self._ready.set()
                case "refused":
                    self.refused += 1
                case "launched":
                    instance = Instance(event["id"], event["spot"], event["addresses"])
                    addresses, key = instance.addresses, event["public_key"]
                    self.hosts.add(instance.id, *addresses, public_key=key)
                    self.instances[instance.id] = instance
                case "terminated":
                    self.hosts.kill(event["id"])
                    self.instances[event["id"]].ended = True
        except Exception as problem:  # shown by whoever asks for the instances
            self.problem = problem
