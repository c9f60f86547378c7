"""Google Cloud Storage and Azure Blob Storage, opened with the credentials that their own environments hold.

Google: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, or the machine's account. Azure: AZURE_STORAGE_ACCOUNT_NAME with a
key, a client's secret, a federated token, or the machine's identity. obstore looks for them when it opens a bucket.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore

from resurgam.errors import Denied
from resurgam.stores.location import Location
from resurgam.stores.objects import CLIENT, RETRY, Bucket, ObjectStore

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig

_ACCOUNT = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")


def open_bucket(place: Location) -> ObjectStore:
    """The store at ``place``; nothing is asked of the server. Raises Denied where credentials are missing or no good."""
    try:
        bucket = _azure(place) if place.scheme == "az" else _google(place)
    except BaseError as error:  # its text may quote what it found in the environment
        raise Denied(
            f"{place} cannot be opened: its credentials are missing or no good ({type(error).__name__}).",
            untouched="Nothing was read or written.",
            next_step="Set GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and its key; docs/stores.md has more.",
        ) from None
    return ObjectStore(bucket, str(place))


def _google(place: Location) -> Bucket:
    return GCSStore(place.bucket, prefix=place.prefix or None, client_options=CLIENT, retry_config=RETRY)


def _azure(place: Location) -> Bucket:
    account = place.settings.get("account") or next((os.environ[name] for name in _ACCOUNT if name in os.environ), None)
    if account is None:
        raise Denied(
            f"{place} does not say in which account it is.",
            untouched="Nothing was read or written.",
            next_step="Write az://container/prefix?account=NAME, or set AZURE_STORAGE_ACCOUNT_NAME.",
        )
    options: ClientConfig = CLIENT
    config: AzureConfig = {"account_name": account}
    if endpoint := place.settings.get("endpoint"):
        options = {**CLIENT, "allow_http": endpoint.startswith("http://")}
        config["endpoint"] = f"{endpoint.rstrip('/')}/{account}" if _is_address(endpoint) else endpoint
    return AzureStore(
        place.bucket, config=config, prefix=place.prefix or None, client_options=options, retry_config=RETRY
    )


def _is_address(endpoint: str) -> bool:
    """Whether the account is the first part of the path, as where the host is an address, and not of the host's name."""
    try:
        ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False
    return True
