"""vault serve, and the tokens by which a gateway knows who asks."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

import typer

from resurgam.capture.manifest_form import CENTURY
from resurgam.cli import output
from resurgam.cli.context import JsonOption, duration
from resurgam.clock import SystemClock
from resurgam.errors import UsageError
from resurgam.gateway import serve as serving
from resurgam.gateway.tokens import HOLDERS, Tokens

FolderArgument = Annotated[str, typer.Argument(help="The vault's folder; an empty one is made if it is not there.")]
StateOption = Annotated[
    str | None, typer.Option(help="Where tokens, certificate and locks lie.", show_default="FOLDER.gateway")
]

tokens = typer.Typer(no_args_is_help=True, help="Make, list and end the tokens of a gateway.", rich_markup_mode=None)


def serve(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")] = serving.PORT,
    name: Annotated[
        str | None, typer.Option(help="What clients call this machine.", show_default="its host name, or the address")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Nothing is deleted for so long after it came, whoever asks: 30d.")
    ] = None,
    certificate: Annotated[
        str | None, typer.Option(help="A PEM file; without it one is made, which clients know by its fingerprint.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The certificate's private key, a PEM file.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="No TLS; on the loopback only.")] = False,
    user: Annotated[str | None, typer.Option(help="Become this user for good, before anything is read.")] = None,
    as_root: Annotated[bool, typer.Option("--as-root", help="Run with root's rights all the same.")] = False,
    state: StateOption = None,
    concurrent: Annotated[int, typer.Option(min=1, max=256, help="Requests that are worked on at a time.")] = 32,
    access_log: Annotated[
        bool,
        typer.Option("--access-log", help="A JSON line on standard error for every request, not only refused ones."),
    ] = False,
    json: JsonOption = False,
) -> int:
    """Serve a vault in a folder to other machines: append-only, over HTTPS, each role with its own token.

    A token may do what its role may (docs/gateway.md), and only a pruner's deletes. SIGTERM stops it when what is under way has
    ended.

    Examples:

        resurgam vault serve /srv/handbook --host 0.0.0.0 --name vault.example.org --keep 30d

        resurgam vault serve /srv/handbook --host 0.0.0.0 --port 443 --user resurgam --access-log
    """
    settings = serving.Settings(
        folder=os.path.abspath(folder),
        state=serving.state_folder(folder, state),
        host=host,
        port=port,
        name=_name(name or host),
        certificate=certificate,
        key=key,
        plain=plain_http,
        keep=_kept(keep) if keep is not None else 0.0,
        user=user,
        as_root=as_root,
        concurrent=concurrent,
        every=access_log,
    )

    def ready(url: str) -> None:
        if json:
            output.as_json({"folder": settings.folder, "state": settings.state, "url": url, "keep": settings.keep})
        else:
            output.line(f"Serving {settings.folder} at")
            output.line(f"  {url}", style="bold")
            kept = (
                f"for {keep} after it came"
                if keep
                else "only by rights: --keep would hold back a stolen pruner's token"
            )
            output.line(f"Tokens are in {settings.state}; what is there is kept {kept}.")
        sys.stdout.flush()

    serving.serve(settings, SystemClock(), ready)
    return 0


@tokens.command("add")
def add(
    folder: FolderArgument,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(HOLDERS)}.")],
    name: Annotated[str, typer.Option(help="For people: where it will be used.")] = "",
    state: StateOption = None,
    json: JsonOption = False,
) -> int:
    """Make a token for a role; it is shown once, and only its hash is kept.

    A role may have several: give out the new one, then revoke the old. Run it as the user that the gateway runs as.

    Examples:

        resurgam vault tokens add /srv/handbook --role capture --name web-1
    """
    made, text = _tokens(folder, state).add(role, output.on_one_line(name), SystemClock())
    if json:
        output.as_json({"id": made.id, "role": made.role, "name": made.name, "token": text})
        return 0
    output.line(text, style="bold")
    output.note(
        f"token {made.id} for {made.role}: shown once. Set it as RESURGAM_VAULT_TOKEN, or write it to a file of mode 600"
    )
    output.note("named gateway.token in the keys' folder, on the one machine that uses it")
    return 0


@tokens.command("list")
def list_(folder: FolderArgument, state: StateOption = None, json: JsonOption = False) -> int:
    """Show which tokens there are; never their text.

    Examples:

        resurgam vault tokens list /srv/handbook
    """
    found = _tokens(folder, state).all()
    if json:
        output.as_json([{"id": t.id, "role": t.role, "name": t.name, "added": t.added} for t in found])
        return 0
    if not found:
        output.line("There are no tokens: nobody is let in.")
        return 0
    output.table(("id", "role", "added", "name"), [(t.id, t.role, t.added, t.name) for t in found])
    return 0


@tokens.command("revoke")
def revoke(
    folder: FolderArgument,
    token: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    state: StateOption = None,
    json: JsonOption = False,
) -> int:
    """End a token; a running gateway refuses it from the next request on.

    Examples:

        resurgam vault tokens revoke /srv/handbook 3f9a01c2
    """
    ended = _tokens(folder, state).revoke(token)
    if json:
        output.as_json({"id": ended.id, "role": ended.role, "name": ended.name})
        return 0
    output.line(f"token {ended.id} for {ended.role} is no more")
    return 0


def _kept(words: str) -> float:
    """The seconds of ``--keep``. Raises UsageError."""
    seconds = duration(words)
    if not 0 < seconds <= CENTURY:
        raise UsageError(
            f"Nothing can be kept for {words}.",
            untouched="Nothing is served.",
            next_step="Give --keep a time of at most 100 years, or leave it out.",
        )
    return seconds


def _name(host: str) -> str:
    """What clients on other machines would call this one."""
    if ip := _address(host):
        return socket.getfqdn().lower() if ip.is_unspecified else f"[{host}]" if ip.version == 6 else host
    return host.lower()


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _tokens(folder: str, state: str | None) -> Tokens:
    return Tokens(os.path.join(serving.state_folder(folder, state), serving.TOKENS))
