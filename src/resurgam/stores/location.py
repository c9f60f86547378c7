"""Where a vault is, as it is written in a manifest or after ``--vault``: a folder, or a bucket as a URL.

    /mnt/vault, file:///mnt/vault                             a folder
    s3://bucket/prefix?region=eu-north-1&endpoint=https://…   S3 and what speaks as it does
    gs://bucket/prefix                                        Google Cloud Storage
    az://container/prefix?account=NAME                        Azure Blob Storage
    https://host:port/prefix?certificate=sha256:…             a gateway (``resurgam vault serve``); http:// on the loopback only

No credential is ever part of it, since a manifest becomes part of every recovery point: credentials come from the environment or
from where the provider's own library looks for them. What might be one is refused, and is not repeated.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from resurgam.errors import UsageError

SETTINGS = {
    "s3": ("region", "endpoint"),
    "gs": (),
    "az": ("account", "endpoint"),
    "https": ("certificate",),
    "http": (),
}  # scheme: what may stand behind the `?`

GATEWAYS = ("https", "http")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}")
_PREFIX = re.compile(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
)  # what no client spells in two ways
_VALUE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST = re.compile(r"(\[[0-9a-f:]{2,45}\]|[a-z0-9][a-z0-9.-]{0,252})(:[1-9][0-9]{0,4})?")
_CERTIFICATE = re.compile(r"sha256:[0-9a-f]{64}")
_ENDPOINT = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?")

_FORMS = {"endpoint": _ENDPOINT, "certificate": _CERTIFICATE}


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket, and the prefix of all names in it; or a gateway (``bucket`` is its host and port) and the path before its own.
    ``settings`` are those of :data:`SETTINGS`."""

    scheme: str
    bucket: str
    prefix: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """For people: without settings, but with the endpoint, which tells two clouds apart."""
        plain = f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        endpoint = self.settings.get("endpoint")
        return f"{plain} at {endpoint}" if endpoint else plain


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL and no path."""
    return bool(_SCHEME.match(text))


def parse(text: str) -> Location | str:
    """The bucket that ``text`` names, or the path of the folder. Raises UsageError; what may be a secret is not in it."""
    if not is_url(text):
        return text
    parts = urlsplit(text)
    if parts.scheme == "file":
        if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
            raise _wrong(
                "A file:// URL is that of an absolute path.", "Write file:///absolute/path, or the path itself."
            )
        return unquote(parts.path)
    if parts.scheme not in SETTINGS:
        raise _wrong(
            f"{parts.scheme}:// is no kind of store.", "Write a path, or s3://, gs://, az://, https:// or file://."
        )
    if parts.scheme in GATEWAYS:
        return _gateway(parts)
    if "@" in parts.netloc or ":" in parts.netloc:
        raise _wrong(
            "A vault's URL names a bucket; credentials and ports are no part of it.",
            "Keep credentials in the environment or in the provider's own files; write the server as endpoint=URL.",
        )
    prefix = parts.path.strip("/")
    if not _BUCKET.fullmatch(parts.netloc) or (prefix and not _PREFIX.fullmatch(prefix)) or parts.fragment:
        raise _wrong(
            "The bucket or the prefix in a vault's URL is not one.",
            "Write s3://bucket/prefix: in the prefix letters, digits, '.', '_' and '-', no empty part.",
        )
    return Location(parts.scheme, parts.netloc, prefix, _settings(parts.scheme, parts.query))


def _gateway(parts: SplitResult) -> Location:
    """The gateway that a URL names. Raises UsageError."""
    prefix = parts.path.strip("/")
    host = _HOST.fullmatch(parts.netloc)
    if host is None or (prefix and not _PREFIX.fullmatch(prefix)) or parts.fragment:
        raise _wrong(
            "A gateway's URL is https://host:port, without user, password or anything else that is secret.",
            "Take the URL that `resurgam vault serve` shows; its token goes into RESURGAM_VAULT_TOKEN.",
        )
    if parts.scheme == "http" and not is_loopback(host[1].strip("[]")):
        raise _wrong(
            "http:// is for a gateway on this host: to any other, the token would go in the clear.", "Write https://."
        )
    return Location(parts.scheme, parts.netloc, prefix, _settings(parts.scheme, parts.query))


def is_loopback(host: str) -> bool:
    """Whether nobody but this host can listen to what is said to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def label(text: str) -> str:
    """The last part of a place, to call a vault by. Raises UsageError."""
    place = parse(text)
    if isinstance(place, Location):
        return (place.prefix or place.bucket).rpartition("/")[2]
    return place.rstrip("/").rpartition("/")[2]


def _settings(scheme: str, query: str) -> dict[str, str]:
    """What stands behind the ``?``. Raises UsageError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8)
    except ValueError:
        pairs = [("", "")]
    allowed = SETTINGS[scheme]
    for key, value in pairs:
        if key not in allowed or sum(key == other for other, _ in pairs) > 1:
            may = f"may say {', '.join(allowed)}, each once" if allowed else "says nothing behind a '?'"
            raise _wrong(
                f"A URL that begins with {scheme}:// {may}.",
                "Credentials never stand in it: keep them in the environment, or where the provider's library looks for them.",
            )
        form = _FORMS.get(key, _VALUE)
        if not form.fullmatch(value):
            raise _wrong(
                f"The {key} in a vault's URL is not one.",
                "Write endpoint=https://host:port, region=eu-north-1, account=name, certificate=sha256:…; no user, no password.",
            )
    return dict(pairs)


def _wrong(message: str, next_step: str) -> UsageError:
    return UsageError(message, untouched="Nothing was read or changed.", next_step=next_step)
