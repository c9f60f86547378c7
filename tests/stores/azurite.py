"""Microsoft's own emulator of Azure Blob Storage for the soak: Azurite, on a free port, its data in a folder.

``npm install --global azurite`` brings it; nothing but the soak needs it. The account and its key are those that every Azurite has:
https://learn.microsoft.com/azure/storage/common/storage-connect-azurite
"""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import socket
import subprocess
import time
from email.utils import formatdate
from urllib.request import Request, urlopen

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore

from tests.stores.ports import free_ports
from tests.stores.seaweed import killed

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # every Azurite's
PROGRAM = "azurite-blob"
READY = 60.0  # seconds


class Azurite:
    """A server with one container, ``vaults``; it can be killed and started again over the same data."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        (self._port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        os.makedirs(self.folder, exist_ok=True)
        program = shutil.which(PROGRAM)
        assert program, f"{PROGRAM} is not installed: npm install --global azurite"
        with open(f"{self.folder}/log", "ab") as log:
            self._process = subprocess.Popen(
                [program, "--location", f"{self.folder}/data", "--blobPort", str(self._port), "--skipApiVersionCheck"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Azurite did not start; its log is {self.folder}/log")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            killed(self._process)
            self._process = None

    def bucket(self, prefix: str) -> AzureStore:
        """obstore's own client, past the store."""
        return AzureStore(
            "vaults", prefix=prefix, account_name=ACCOUNT, account_key=KEY, endpoint=f"{self.endpoint}/{ACCOUNT}",
            client_options={"allow_http": True},
        )  # fmt: skip

    def url(self, prefix: str) -> str:
        """What a manifest would say."""
        return f"az://vaults/{prefix}?account={ACCOUNT}&endpoint={self.endpoint}"

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self._port)):
                return False
        try:
            obstore.put(self.bucket("ready"), "ready", b"x")
        except FileNotFoundError:  # no container yet: the next round puts
            self._make_container()
            return False
        except BaseError:
            return False
        return True

    def _make_container(self) -> None:
        """By REST: obstore makes none. The signature is that of "Authorize with Shared Key" in the service's reference."""
        path, now, version = f"/{ACCOUNT}/vaults", formatdate(usegmt=True), "2021-08-06"
        signed = f"PUT{chr(10) * 12}x-ms-date:{now}\nx-ms-version:{version}\n/{ACCOUNT}{path}\nrestype:container"
        mac = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
        headers = {"x-ms-date": now, "x-ms-version": version, "Authorization": f"SharedKey {ACCOUNT}:{mac}"}
        request = Request(f"{self.endpoint}{path}?restype=container", method="PUT", headers=headers)
        with urlopen(request, timeout=10):
            pass
