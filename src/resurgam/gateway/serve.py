"""The life of a gateway's process.

    the socket   bound first, since a port below 1024 is root's to bind
    the user     root's rights are given up for good, before anything is read or made
    the state    FOLDER.gateway/: tokens.json, certificate.pem, key.pem, locks.sqlite; outside of the vault, for nobody else to read
    the server   until SIGTERM: then nothing new is taken on, what is under way ends or leaves nothing, and the process ends with 0

Without TLS it serves on the loopback only, for what stands before it there and speaks TLS itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import pwd
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from resurgam.clock import Clock
from resurgam.errors import Denied, MissingExtra, UsageError
from resurgam.gateway.account import Account
from resurgam.gateway.app import Gateway
from resurgam.gateway.certificate import fingerprint, make_certificate
from resurgam.gateway.keeping import Keeping
from resurgam.gateway.tokens import Tokens
from resurgam.stores.local import LocalStore
from resurgam.stores.location import is_loopback, parse

PORT = 7319
TOKENS = "tokens.json"
LOCKS = "locks.sqlite"
_PAUSE = 75  # seconds between two requests on one connection; clients let go of it sooner
_GRACE = 60  # seconds that uploads have to end after SIGTERM; systemd waits 90


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``vault serve`` was told. ``host`` is listened on, ``name`` is what clients call this machine; ``keep`` in seconds."""

    folder: str
    state: str
    host: str
    port: int
    name: str
    certificate: str | None = None
    key: str | None = None
    plain: bool = False
    keep: float = 0.0
    user: str | None = None
    as_root: bool = False
    concurrent: int = 32
    every: bool = False


def state_folder(folder: str, state: str | None) -> str:
    """Where the gateway of ``folder`` keeps what is its own. Raises UsageError where that lies in the vault."""
    folder = os.path.realpath(folder)
    own = os.path.realpath(state) if state else f"{folder}.gateway"
    if os.path.commonpath([own, folder]) == folder:
        raise UsageError(
            f"{own} lies in the vault's folder.",
            untouched="Nothing is served.",
            next_step="Name a folder beside it with --state.",
        )
    return own


def serve(settings: Settings, clock: Clock, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM; ``ready`` is given the URL for clients. Raises UsageError, Denied, MissingExtra."""
    name = _require_name(settings.name)
    _require_tls(settings)
    _load()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # of the usual 1024, those who only connect would leave none
    listening = bind(settings.host, settings.port)
    _give_up_root(settings)
    os.umask(0o077)
    state = settings.state
    _make(state)
    pin, context = _tls(settings, clock)
    scheme, port = ("http" if settings.plain else "https"), listening.getsockname()[1]
    url = f"{scheme}://{name}:{port}{pin}"
    keeping = Keeping(os.path.join(state, LOCKS), settings.keep, clock)
    tokens, account = Tokens(os.path.join(state, TOKENS)), Account(clock, settings.every)
    tokens.all()  # P12: what would keep everybody out is told now, and not to them
    with LocalStore.create(settings.folder, not_empty=True, clock=clock) as store:
        gateway = Gateway(store, tokens, keeping, account, clock, concurrent=settings.concurrent)
        run(gateway, listening, context, lambda: ready(url))
    keeping.close()


def _load() -> None:
    """Load all that is needed later: who has given up root's rights may not be able to read it any more. Raises MissingExtra."""
    try:
        for module in ("uvicorn.lifespan.off", "resurgam.gateway.connection", "cryptography.x509"):
            import_module(module)
        import_module("uvicorn.loops.auto").auto_loop_factory()
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"A gateway needs {error.name}, which is not installed.",
            untouched="Nothing is served.",
            next_step="Install it: pip install 'resurgam[gateway]'.",
        ) from error


def run(application: Any, listening: socket.socket, context: ssl.SSLContext | None, ready: Callable[[], None]) -> None:
    """Run an ASGI application on a socket until SIGTERM; ``ready`` is called when it listens."""
    import uvicorn

    from resurgam.gateway.connection import HEAD_SECONDS, Connection

    class Server(uvicorn.Server):
        """Tells when it listens."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            if (
                context is not None
            ):  # uvicorn has no setting for it: else who never ends a handshake is waited for a minute
                loop = asyncio.get_running_loop()
                patient = partial(loop.create_server, ssl_handshake_timeout=HEAD_SECONDS)
                loop.create_server = patient  # type: ignore[method-assign]
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # whoever asks could say any address
        server_header=False,
        timeout_keep_alive=_PAUSE,
        timeout_graceful_shutdown=_GRACE,
        ssl_context_factory=(lambda *_: context) if context else None,
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at the end: by then all is done
    Server(config).run(sockets=[listening])


def _require_name(name: str) -> str:
    """``name``, which can stand in the URL of a vault. Raises UsageError."""
    try:
        parse(f"https://{name}:1")
    except UsageError as error:
        raise UsageError(
            f"{name!r} is no name by which clients could call this machine.",
            untouched="Nothing is served.",
            next_step="Give a host name or an address with --name, without a port; a name in another script as xn--….",
        ) from error
    return name


def _require_tls(settings: Settings) -> None:
    if settings.plain and not is_loopback(settings.host):
        raise UsageError(
            f"--plain-http is for the loopback; {settings.host} is seen by others, and tokens would be too.",
            untouched="Nothing is served.",
            next_step="Leave it out, or listen on 127.0.0.1 with what speaks TLS before it.",
        )
    if bool(settings.certificate) != bool(settings.key):
        raise UsageError(
            "--certificate and --key belong together.",
            untouched="Nothing is served.",
            next_step="Give both or neither.",
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError, Denied."""
    try:
        family = socket.AF_INET6 if ":" in host and ipaddress.ip_address(host).version == 6 else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, ValueError) as error:
        raise Denied(
            f"{host} port {port} cannot be listened on: {getattr(error, 'strerror', None) or 'no such address'}.",
            untouched="Nothing is served.",
            next_step="Choose an address of this machine with --host, and a free port with --port.",
        ) from error


def _give_up_root(settings: Settings) -> None:
    """Become ``--user`` for good. Raises UsageError for root who was not told to stay, Denied."""
    if settings.user is not None:
        try:
            user = pwd.getpwnam(settings.user)
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        except (KeyError, OSError) as error:
            raise Denied(
                f"The gateway could not become the user {settings.user}.",
                untouched="Nothing is served.",
                next_step="Name a user of this machine; only root can become another.",
            ) from error
    if os.geteuid() == 0 and not settings.as_root:
        raise UsageError(
            "A gateway needs none of root's rights, and does not run with them.",
            untouched="Nothing is served.",
            next_step="Run it as a user of its own, or give --user NAME; --as-root if this machine has no other.",
        )


def _make(state: str) -> None:
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        os.chmod(state, 0o700)
    except OSError as error:
        raise Denied(
            f"{state} cannot be made: {error.strerror}.",
            untouched="Nothing is served.",
            next_step="Make it for the user that the gateway runs as, or name another with --state.",
        ) from error


def _tls(settings: Settings, clock: Clock) -> tuple[str, ssl.SSLContext | None]:
    """What the URL says of the certificate, and the server's half of TLS 1.3. Raises Denied."""
    if settings.plain:
        return "", None
    own = not (settings.certificate and settings.key)
    certificate, key = (
        make_certificate(settings.state, settings.name, clock)
        if own
        else (settings.certificate or "", settings.key or "")
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Denied(
            f"{certificate} and {key} are no certificate and its key, or cannot be read.",
            untouched="Nothing is served.",
            next_step="Give a PEM file each that this user may read, or neither.",
        ) from error
    return (f"?certificate={fingerprint(certificate)}" if own else ""), context
