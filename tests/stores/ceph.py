"""Ceph's object gateway for the soak: one monitor, one OSD over files, one RADOS gateway, on free ports of the loopback.

Debian has it (``radosgw``, ``ceph-mon``, ``ceph-osd``, ``ceph-common``); nothing but the tests needs it. No manager daemon and no
authentication between the daemons: neither is asked for by the gateway. The order of making one is that of Ceph's manual
deployment, https://docs.ceph.com/en/pacific/install/manual-deployment/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid

from tests.stores.ports import free_ports
from tests.stores.s3_server import SECRET, S3Server
from tests.stores.seaweed import killed

TOOLS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_CONFIGURATION = """[global]
fsid = {fsid}
mon_host = {address}
mon_initial_members = a
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
ms_client_mode = crc
ms_bind_ipv6 = false
public_network = 127.0.0.0/8
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_cluster_log_to_file = false
osd_data = {folder}/osd
osd_objectstore = bluestore
bluestore_block_size = 8589934592
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_crush_chooseleaf_type = 0
rgw_data = {folder}/rgw
run_dir = {folder}
crash_dir = {folder}
keyring = {folder}/keyring
log_file = {folder}/$name.log
admin_socket = {folder}/$name.$pid.asok
pid_file =
"""
READY = 120.0  # seconds; fifteen on a quiet machine


def missing() -> list[str]:
    """The programs that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Ceph(S3Server):
    """A gateway that can be killed and started again over the same data."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        mon, mon_v1, self._port = free_ports(3)
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._fsid, self._address = str(uuid.uuid4()), f"[v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]"
        self._daemons: list[subprocess.Popen[bytes]] = []
        with open(f"{folder}/ceph.conf", "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION.format(folder=folder, fsid=self._fsid, address=self._address))

    def start(self) -> None:
        """Make the cluster where there is none yet, start all of it, and wait until objects can be put."""
        new = not os.path.exists(f"{self.folder}/mon")
        if new:
            self._run(
                "monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._address, f"{self.folder}/monmap"
            )
            os.makedirs(f"{self.folder}/mon")
            self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{self.folder}/monmap")
        self._daemon("ceph-mon", "-i", "a")
        if new:
            os.makedirs(f"{self.folder}/osd")
            osd = str(uuid.uuid4())
            self._run("ceph", "osd", "new", osd)
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        if new:
            self._run(
                "radosgw-admin", "user", "create", "--uid=admin", "--display-name=admin", "--access-key=admin",
                f"--secret={SECRET}",
            )  # fmt: skip
        self._daemon("radosgw", f"--rgw_frontends=beast endpoint=127.0.0.1:{self._port}")
        deadline = time.monotonic() + READY
        while not self._answers():
            if any(daemon.poll() is not None for daemon in self._daemons) or time.monotonic() > deadline:
                raise AssertionError(f"Ceph did not start; its logs are in {self.folder}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut would."""
        while self._daemons:
            killed(self._daemons.pop())

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [command[0], *self._conf(command[0]), *command[1:]], capture_output=True, text=True, timeout=READY, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"

    def _daemon(self, *command: str) -> None:
        with open(f"{self.folder}/{command[0]}.out", "ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [command[0], *self._conf(command[0]), *command[1:], "-f"],
                    stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                )
            )  # fmt: skip

    def _conf(self, program: str) -> list[str]:
        return [] if program == "monmaptool" else ["-c", f"{self.folder}/ceph.conf"]
