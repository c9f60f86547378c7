"""A server whose cold classes sleep, for tests: moto, which speaks S3 and keeps everything in memory.

It is the one server that knows GLACIER and RestoreObject and can be had here. Copies are there only after so many looks as it is
told (``patience``), and not after hours: what hours do is shown on ``testing.archiving``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import Any

import boto3
from botocore.config import Config

from tests.stores.ports import free_ports

SECRET = "a-secret-of-the-tests"
READY = 60.0  # seconds


class Sleepy:
    """The server, on a free port of the loopback."""

    def __init__(self, folder: str) -> None:
        (self._port,) = free_ports(1)
        self._folder = folder
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with open(f"{self._folder}/moto.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + READY
        while True:
            with suppress(OSError):
                self._ask("/moto-api/")
                return
            assert self._process.poll() is None, "moto did not start; see moto.log"
            assert time.monotonic() < deadline, "moto did not answer in time"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it; its data are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)

    def patience(self, looks: int) -> None:
        """A copy is there after so many looks at it from when it was asked for."""
        wanted = {"progression": "manual", "times": looks} if looks else {"progression": "immediate"}
        body = {"model_name": "s3::keyrestore", "transition": wanted}
        self._ask("/moto-api/state-manager/set-transition", json.dumps(body).encode())

    def client(self) -> Any:
        """boto3's own client, past the store."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="admin",
            aws_secret_access_key=SECRET, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def url(self, bucket: str, prefix: str = "") -> str:
        """What a manifest would say."""
        return f"s3://{bucket}/{prefix}?region=us-east-1&endpoint={self.endpoint}"

    def _ask(self, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(
            self.endpoint + path, data=body, headers={"Content-Type": "application/json"} if body else {}
        )
        with urllib.request.urlopen(request, timeout=5):
            return


def environment() -> dict[str, str]:
    """The variables by which its credentials are found, and no file of the account that runs the tests."""
    return {
        "AWS_ACCESS_KEY_ID": "admin",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
