"""What the tests' servers that speak S3 have in common: clients past the store, URLs, and two buckets to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

SECRET = "a-secret-of-the-tests"


class Server(Protocol):
    """What ``serving`` needs of a server."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def client(self) -> Any: ...


S = TypeVar("S", bound=Server)


class S3Server:
    """Whoever starts one says its ``endpoint``."""

    endpoint: str

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, identity: str = "admin", secret: str = SECRET) -> Any:
        """boto3's own client, past the store; one for each identity."""
        if (identity, secret) in self._clients:
            return self._clients[identity, secret]
        config = Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20
        )
        made = self._clients[identity, secret] = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", config=config,
            aws_access_key_id=identity, aws_secret_access_key=secret,
        )  # fmt: skip
        return made

    def url(self, bucket: str, prefix: str = "") -> str:
        """What a manifest would say."""
        return f"s3://{bucket}/{prefix}?region=us-east-1&endpoint={self.endpoint}"

    def _answers(self) -> bool:
        """Whether objects can be put: buckets are listed some time before."""
        client = self.client()
        try:
            if not any(bucket["Name"] == "ready" for bucket in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"x")
        except (ClientError, BotoCoreError):
            return False
        return True


def serving(server: S) -> Iterator[S]:
    """For a fixture: it runs, with a bucket ``plain``, and ``locked``, which keeps versions and locks."""
    try:
        server.start()
        server.client().create_bucket(Bucket="plain")
        server.client().create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        yield server
    finally:
        server.kill()
