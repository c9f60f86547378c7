"""Places of vaults: what they mean, what is refused, and that no credential is taken or repeated."""

from __future__ import annotations

import pytest

from resurgam.errors import Denied, UsageError
from resurgam.model.system import LockMode, VaultLock
from resurgam.stores.location import Location, is_url, label, parse
from resurgam.stores.registry import open_store


def test_paths_and_buckets() -> None:
    """Each way to write a place."""
    assert parse("/mnt/vault") == "/mnt/vault"
    assert parse("relative/vault") == "relative/vault"
    assert parse("file:///mnt/my%20vault") == "/mnt/my vault"
    assert parse("s3://bucket") == Location("s3", "bucket")
    assert parse("s3://bucket/a/b/?region=eu-north-1&endpoint=https://s3.example.org:9000") == Location(
        "s3", "bucket", "a/b", {"region": "eu-north-1", "endpoint": "https://s3.example.org:9000"}
    )
    assert parse("gs://bucket/a") == Location("gs", "bucket", "a")
    assert parse("az://container/a?account=name") == Location("az", "container", "a", {"account": "name"})
    assert str(parse("s3://bucket/a?endpoint=http://h:1")) == "s3://bucket/a at http://h:1"
    assert [label(text) for text in ("/mnt/vault/", "s3://bucket", "s3://bucket/a/b")] == ["vault", "bucket", "b"]
    assert not is_url("C/x:y")


@pytest.mark.parametrize(
    "text",
    [
        "s3://KEY:hush-hush@bucket/a",
        "s3://hush-hush@bucket",
        "s3://bucket?access_key_id=AKIA&secret_access_key=hush-hush",
        "s3://bucket?region=hush/hush-hush",
        "s3://bucket?endpoint=https://user:hush-hush@host",
        "s3://bucket?endpoint=https://host/?sig=hush-hush",
        "s3://bucket?region=a&region=hush-hush",
        "az://container?sas=hush-hush",
        "gs://bucket?key=hush-hush",
        "s3://bucket/a#hush-hush",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://b",
        "s3:///a",
        "s3://bucket?hush-hush",
        "file://host/a",
        "ftp://hush-hush@host/a",
    ],
)
def test_refused_and_not_repeated(text: str) -> None:
    """P12: credentials and what is no place are refused with a next step, and what may be a secret is not shown."""
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.next_step
    assert "hush" not in str(caught.value)


def test_credentials_in_a_url_are_told_as_such() -> None:
    """P12: who writes a key into a URL hears where it belongs."""
    for text in ("s3://KEY:hush-hush@bucket/a", "s3://bucket?secret_access_key=hush-hush"):
        with pytest.raises(UsageError, match=r"[Cc]redentials .*environment"):
            parse(text)


def test_locks_are_for_buckets_that_speak_s3(tmp_path: object) -> None:
    """P12: a folder cannot promise what the manifest asks for, so it is not opened."""
    lock = VaultLock(mode=LockMode.GOVERNANCE, period=60)
    for place in (str(tmp_path), "gs://bucket/a"):
        with pytest.raises(UsageError, match=r"vault\.lock"):
            open_store(place, lock)


def test_clouds_open_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure names its account by the URL or the environment; credentials that are no good are Denied and not repeated."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaC1odXNo")
    assert open_store("az://container/a?account=name").describe() == "az://container/a"
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(Denied, match="account"):
        open_store("az://container/a")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "{hush-hush")
    with pytest.raises(Denied) as caught:
        open_store("gs://bucket/a")
    assert "hush" not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
