"""Hosted models through the proxy: a copy behind walls asks one address outside, within limits, and never holds the key (P6).

A real server of its own stands for the provider, on the host's loopback, which the sandbox does not have.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from resurgam.capture.manifest import load_manifest
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Budget, Component, Hosted, Json, Probe, System, VaultPlace
from resurgam.probes.command import CommandProbe
from resurgam.probes.desk import Request
from resurgam.probes.proxy import Proxy, is_allowed
from resurgam.probes.replay import HostedRunner, hosted_words
from resurgam.probes.runner import LiveRunner
from resurgam.probes.upstream import Upstream
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox
from resurgam.restore.verify import let_through
from tests.threads import none_left

walled = pytest.mark.skipif(not sandbox.available()[0], reason=f"no namespaces here: {sandbox.available()[1]}")
KEY = "sk-correct/horse+battery~staple"
ALLOW = ("POST /v1/chat", "GET /v1/*")

PROVIDER = """
import base64, gzip, http.server, json, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open("asked", "a") as file:
            file.write(json.dumps([self.command, self.path, dict(self.headers.items()), body.decode()]) + "\\n")
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        getattr(self, self.path.split("?")[0].rsplit("/", 1)[1])(body, key)
    do_GET = do_POST = do_DELETE = serve
    def say(self, said, status=200, kind="application/json", **headers):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(said), "Set-Cookie": "s=theirs", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(said)
    def chat(self, body, key): self.say(json.dumps({"text": "I say: " + json.loads(body)["prompt"]}).encode())
    def echo(self, body, key):
        said = {"error": f"key {key} / {base64.b64encode(key.encode()).decode()}"}
        self.say(json.dumps(said).encode(), 401, f"text/{key}")
    def elsewhere(self, body, key):
        self.say(b"", 302, Location="http://127.0.0.1:" + open("other").read() + "/stolen")
    def big(self, body, key): self.say(b"x" * 3_000_000, kind="text/plain")
    def busy(self, body, key): self.say(b"{}", 503)
    def short(self, body, key): self.say(b"half", kind="text/plain", **{"Content-Length": 8}); self.close_connection = True
    def zipped(self, body, key): self.say(gzip.compress(key.encode()), Content_Encoding="gzip")
    def hang(self, body, key): time.sleep(600)
    def deep(self, body, key): self.say(b"[" * 5000 + b"]" * 5000)
    def wobbly(self, body, key):
        if os.path.exists("up"): return self.say(b'"up"')
        open("up", "w").close(); self.say(b"{}", 500)
    def drip(self, body, key):
        self.send_response(200); self.end_headers()
        while True: self.wfile.write(b"."); self.wfile.flush(); time.sleep(0.05)
    def chunked(self, body, key):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"one ", b"two"): self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
        self.wfile.write(b"0\\r\\n\\r\\n")
    def stream(self, body, key):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for word in ("a", "b"): self.wfile.write(f"data: {word}\\n\\n".encode()); self.wfile.flush(); time.sleep(0.1)
        self.close_connection = True
    def log_message(self, *_): pass
    def log_error(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
CLIENT = """
import http.client, json, os, socket, sys, urllib.parse
place = urllib.parse.urlsplit(os.environ["LLM"])
def ask(method, path, body=None, **headers):
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    sent = json.dumps(body) if body is not None else None
    connection.request(method, path, sent, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    return response.status, response.read().decode()
def chat(prompt, **headers):
    status, said = ask("POST", "/v1/chat", {"prompt": prompt}, **headers)
    return json.loads(said)["text"] if status == 200 else status
def raw(sent):
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(sent)
        return connection.makefile("rb").readline().decode().strip()
answers = {}
"""


class Provider:
    """A hosted model's server, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", PROVIDER], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self) -> list[tuple[str, str, dict[str, str], str]]:
        """Method, path, headers and body of each request that came."""
        file = self.folder / "asked"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path / "provider")
    yield made
    made.end()


class Copy:
    """A copy behind walls, whose one command is a client of the hosted model."""

    def __init__(self, folder: Path, url: str, **more: Json) -> None:
        for name in ("app", "restore"):
            (folder / name).mkdir(exist_ok=True)
        declared: dict[str, Json] = {"mode": "proxy", "allow": ALLOW, "key": "${LLM_KEY}"}
        hosted = Hosted(name="llm", url=url, **declared | more)
        live = System(
            name="s",
            vault=VaultPlace(path=str(folder / "vault"), keys=str(folder / "keys")),
            components=(Component(name="prompts", driver="files", location=str(folder / "app/prompts")),),
            hosted=(hosted,),
            root=str(folder / "app"),
        )
        self.system = live.bound_to({"prompts": str(folder / "restore/prompts")})
        self.box = Sandbox(str(folder / "restore"), live)
        self.runner = HostedRunner(self.box, self.system, through=let_through(self.system, live))

    def ask(self, code: str, timeout: float = 60.0, runner: HostedRunner | None = None) -> Observation:
        """What ``code`` answers, which puts it into ``answers``."""
        whole = f"{CLIENT}\n{textwrap.dedent(code)}\nprint(json.dumps({{'answers': answers}}))"
        probe = Probe(
            name="p", kind="command", run=(sys.executable, "-I", "-c", whole.replace("{", "{{").replace("}", "}}")),
            env={"LLM": "{hosted:llm}", "LLM_KEY": "${LLM_KEY}"}, timeout=timeout,
        )  # fmt: skip
        return CommandProbe().ask(probe, self.system, runner or self.runner)


@pytest.fixture
def copy(tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Copy]:
    monkeypatch.setenv("LLM_KEY", KEY)
    return lambda **more: Copy(tmp_path, more.pop("url", provider.url), **more)


# --- the way through -------------------------------------------------------------------------------------------------


@walled
def test_a_copy_asks_through_the_wall_and_it_is_told(copy: Callable[..., Copy], provider: Provider) -> None:
    """P6: the key is put in outside; P4: how many requests and bytes belongs to the verdict."""
    one = copy(headers=["X-Kept", "Host", "Connection"])
    more = {
        "Authorization": "Bearer mine",
        "Cookie": "x",
        "X-HTTP-Method-Override": "DELETE",
        "X-Kept": "y",
        "Host": "x",
    }
    seen = one.ask(f"answers['a'] = chat('a'); answers['b'] = chat('b', **{more})")
    assert seen.error is None, seen.error
    assert seen.answers == {"a": "I say: a", "b": "I say: b"}
    assert hosted_words(seen.by) == "hosted llm through the proxy: 2 requests, 70 bytes"
    (_, _, first, _), (_, path, second, body) = provider.asked()
    assert first["Authorization"] == second["Authorization"] == f"Bearer {KEY}"
    assert (path, body) == ("/v1/chat", '{"prompt": "b"}')
    assert {name.lower() for name in second} == {
        *("host", "accept-encoding", "content-length", "content-type", "authorization", "x-kept")
    }
    assert first["Host"] == second["Host"] == f"127.0.0.1:{provider.port}"
    assert one.runner.recorded["llm"][0] == {
        "method": "POST", "path": "/v1/chat", "request": {"prompt": "a"},
        "status": 200, "type": "application/json", "response": {"text": "I say: a"},
    }  # fmt: skip


@walled
def test_answers_in_chunks_and_streams_of_events_come_whole(copy: Callable[..., Copy]) -> None:
    seen = copy().ask("""
        answers = {path: ask('GET', '/v1/' + path) for path in ('chunked', 'stream')}
        answers['sent'] = raw(b'POST /v1/chat HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'
                              b'5\\r\\n{"pro\\r\\n9;x=1\\r\\nmpt": "c"\\r\\n1\\r\\n}\\r\\n0\\r\\nT: 1\\r\\n\\r\\n')
    """)
    assert seen.error is None, seen.error
    assert seen.answers["chunked"] == [200, "one two"]
    assert seen.answers["stream"] == [200, "data: a\n\ndata: b\n\n"]
    assert seen.answers["sent"] == "HTTP/1.1 200 OK"


@walled
def test_requests_at_once_are_all_answered(copy: Callable[..., Copy], provider: Provider) -> None:
    seen = copy().ask("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(12) as pool:
            answers = dict(zip(map(str, range(40)), pool.map(lambda n: chat(str(n)), range(40))))
    """)
    assert seen.error is None, seen.error
    assert seen.answers == {str(n): f"I say: {n}" for n in range(40)}
    assert len(provider.asked()) == 40
    assert seen.by["hosted llm"].startswith("through the proxy: 40 requests, ")


@walled
def test_a_header_of_its_own_carries_the_key(copy: Callable[..., Copy], provider: Provider) -> None:
    copy(header="X-Api-Key").ask("answers['a'] = chat('a', **{'x-api-key': 'mine', 'Authorization': 'Bearer mine'})")
    ((_, _, headers, _),) = provider.asked()
    assert {name.lower(): value for name, value in headers.items()}["x-api-key"] == KEY
    assert "Authorization" not in headers


@walled
def test_the_path_of_the_url_stands_in_front(copy: Callable[..., Copy], provider: Provider) -> None:
    seen = copy(url=f"{provider.url}/v1/", allow=["POST /chat"]).ask(
        "answers['a'] = ask('POST', '/chat', {'prompt': 'a'})[0]"
    )
    assert seen.answers == {"a": 200}
    assert [path for _, path, _, _ in provider.asked()] == ["/v1/chat"]


# --- what is refused -------------------------------------------------------------------------------------------------


@walled
@pytest.mark.parametrize(
    "sent",
    [
        "POST /v1/files HTTP/1.1",  # another path
        "GET /v1/chat/../../admin HTTP/1.1",
        "GET /v1/%2e%2e/admin HTTP/1.1",
        "GET //127.0.0.1:1/v1/chat HTTP/1.1",
        "DELETE /v1/chat HTTP/1.1",  # another method
        "BREW /v1/chat HTTP/1.1",
        "POST http://other.example/v1/chat HTTP/1.1",  # another host, in absolute form (RFC 9112, 3.2.2)
        "CONNECT other.example:443 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "POST /v1/chat HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5",  # smuggled, if a length were believed
        "POST /v1/chat HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked",
        "POST /v1/chat HTTP/1.1\r\nContent-Length: -1",
        "POST /v1/chat HTTP/1.1\r\nContent-Length: 99999999999",
        "POST /v1/chat HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        "nonsense",
    ],
)
def test_what_is_not_allowed_reaches_nobody(copy: Callable[..., Copy], provider: Provider, sent: str) -> None:
    """P6, P4: refused, counted, and the probe says nothing about the system."""
    whole = sent.encode() + b"\r\n\r\n"
    seen = copy().ask(f"answers['said'] = raw({whole!r})")
    assert not seen.asked
    assert "refused: 1 request; first: " in str(seen.error)
    assert provider.asked() == []


@walled
def test_a_host_that_a_request_names_is_not_believed(
    copy: Callable[..., Copy], provider: Provider, tmp_path: Path
) -> None:
    other = Provider(tmp_path / "other")
    try:
        seen = copy().ask(
            f"answers['a'] = chat('a', **{{'Host': '127.0.0.1:{other.port}', 'X-Forwarded-Host': 'other'}})"
        )
        assert seen.answers == {"a": "I say: a"}
        assert other.asked() == []
        ((_, _, headers, _),) = provider.asked()
        assert headers["Host"] == f"127.0.0.1:{provider.port}"
    finally:
        other.end()


@walled
def test_a_redirection_is_not_followed(copy: Callable[..., Copy], provider: Provider, tmp_path: Path) -> None:
    other = Provider(tmp_path / "other")
    try:
        (provider.folder / "other").write_text(str(other.port))
        one = copy()
        seen = one.ask("answers['a'] = ask('GET', '/v1/elsewhere')[0]")
        assert "unanswered: 1 request; first: GET /v1/elsewhere was answered with a redirection (302)" in str(
            seen.error
        )
        assert one.runner.recorded["llm"][0]["status"] == 502
        assert other.asked() == []
    finally:
        other.end()


@walled
def test_the_copy_has_no_other_way_out(copy: Callable[..., Copy], provider: Provider) -> None:
    """P6: neither the provider itself, nor a descriptor that leads out, nor another port of the host."""
    seen = copy().ask(f"""
        def tried(other):
            try:
                with socket.create_connection(other, timeout=5): return 'reached'
            except OSError as error: return type(error).__name__
        answers['provider'] = tried(('127.0.0.1', {provider.port}))
        answers['net'], answers['name'] = tried(('192.0.2.1', 80)), tried(('example.com', 80))
        links = [f'/proc/{{pid}}/fd/{{n}}' for pid in os.listdir('/proc') if pid.isdigit() for n in os.listdir(f'/proc/{{pid}}/fd')]
        answers['open'] = {{link: os.readlink(link) for link in links if os.path.lexists(link)}}
        answers['sockets'] = len(open('/proc/net/unix').readlines()) - 1
        answers['a'] = chat('a')
    """)
    assert seen.error is None, seen.error
    assert seen.answers.pop("a") == "I say: a"
    assert "reached" not in seen.answers.values(), seen.answers
    assert any(link.startswith("/proc/1/") for link in seen.answers["open"]), "the walls' own process is looked at too"
    assert not [name for name in seen.answers["open"].values() if name.startswith("socket:")], seen.answers["open"]
    assert seen.answers["sockets"] == 0


# --- the key ---------------------------------------------------------------------------------------------------------


@walled
def test_the_key_is_never_seen_inside(copy: Callable[..., Copy]) -> None:
    """P6, P12: not in the environment, not in any process's, not in an answer that repeats it, not in what is kept."""
    one = copy()
    seen = one.ask("""
        answers['echo'] = ask('GET', '/v1/echo')
        answers['own'] = sorted(os.environ.items())
        for pid in filter(str.isdigit, os.listdir('/proc')):
            for name in ('environ', 'cmdline'):
                try: answers[pid + name] = open(f'/proc/{pid}/{name}', 'rb').read().decode()
                except OSError as error: answers[pid + name] = type(error).__name__
        answers['zipped'] = ask('GET', '/v1/zipped')
        print(answers, file=sys.stderr)
    """)
    everything = json.dumps([msgspec.to_builtins(seen), one.runner.recorded])
    assert "horse" not in everything
    assert "a2stY29ycmVjd" not in everything  # in base64
    assert "***" in json.dumps(one.runner.recorded)
    assert "unanswered: 1 request; first: GET /v1/zipped was answered in an encoding" in str(seen.error)


@walled
@pytest.mark.parametrize("key", [None, "short", "with\nnewline-in-it"])
def test_a_key_that_is_none_is_told_before_anything_is_asked(
    copy: Callable[..., Copy], provider: Provider, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    from resurgam.errors import Denied

    one = copy()
    monkeypatch.delenv("LLM_KEY") if key is None else monkeypatch.setenv("LLM_KEY", key)
    with pytest.raises(Denied, match="LLM_KEY is") as caught:
        one.ask("answers['a'] = chat('a')")
    assert key is None or key not in str(caught.value)
    assert provider.asked() == []


# --- the budget, and the provider's bad days -------------------------------------------------------------------------


@walled
def test_the_budget_in_requests_is_for_all_commands_together(copy: Callable[..., Copy], provider: Provider) -> None:
    one = copy(budget=Budget(requests=3))
    first = one.ask("answers = {n: chat(n) for n in 'ab'}")
    assert first.error is None, first.error
    second = one.ask("answers = {n: chat(n) for n in 'ab'}")
    assert not second.asked
    assert "refused: 1 request; first: POST /v1/chat is beyond the budget" in str(second.error)
    assert len(provider.asked()) == 3


@walled
def test_the_budget_in_bytes_holds_for_what_is_sent_and_for_what_comes(
    copy: Callable[..., Copy], provider: Provider
) -> None:
    """A huge answer is not handed on in part: that would be another answer."""
    one = copy(budget=Budget(bytes=1_000_000))
    seen = one.ask(
        "answers['sent'] = chat('x' * 2_000_000); answers['big'] = ask('GET', '/v1/big'); answers['after'] = chat('a')"
    )
    assert not seen.asked
    assert "through the proxy: 1 request, 1 MB, refused: 3 requests" in str(seen.error)
    assert [path for _, path, _, _ in provider.asked()] == ["/v1/big"]
    (line,) = one.runner.recorded["llm"]
    assert (line["status"], line["response"]["error"]["type"]) == (429, "resurgam_refused")


@walled
@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_provider_that_hangs_or_drips_is_given_up(copy: Callable[..., Copy], how: str) -> None:
    began = time.monotonic()
    seen = copy(budget=Budget(seconds=3)).ask(f"answers['a'] = ask('GET', '/v1/{how}')[0]")
    assert f"unanswered: 1 request; first: GET /v1/{how} did not answer in time" in str(seen.error)
    assert time.monotonic() - began < 20


@walled
def test_a_command_that_is_killed_leaves_nobody_asking(copy: Callable[..., Copy]) -> None:
    """The call ends with the command and not with the budget; what was asked is told all the same."""
    one = copy()
    with none_left():
        began = time.monotonic()
        seen = one.ask("ask('GET', '/v1/hang')", timeout=8)
        assert time.monotonic() - began < 20
        assert not seen.asked
        assert "through the proxy: 1 request" in str(seen.error)
    assert one.ask("answers['a'] = chat('a')").error is None, "the next command is served"


def test_a_call_that_ends_by_itself_while_it_is_to_be_cut_is_no_mistake() -> None:
    """Another thread ends it: between two looks it is gone."""

    class Ending(Proxy):
        looks = 0

        @property
        def _call(self) -> Upstream | None:
            self.looks += 1
            return Upstream("http://127.0.0.1:9") if self.looks == 1 else None

        @_call.setter
        def _call(self, _: Upstream | None) -> None:
            self.looks = 0

    proxy = Ending(Hosted(name="llm", url="http://127.0.0.1:9"))
    proxy.leave()
    assert proxy.looks == 1


@walled
def test_a_provider_that_is_gone(copy: Callable[..., Copy], provider: Provider) -> None:
    provider.end()
    seen = copy().ask("answers['a'] = chat('a')")
    assert not seen.asked
    assert "first: POST /v1/chat could not be asked: Connection refused" in str(seen.error)


@walled
@pytest.mark.parametrize(
    ("path", "why"), [("busy", "was answered with 503"), ("short", "IncompleteRead|less than was announced")]
)
def test_what_the_provider_could_not_answer_is_not_held_against_the_copy(
    copy: Callable[..., Copy], path: str, why: str
) -> None:
    """P4: inconclusive, and not different."""
    seen = copy().ask(f"answers['a'] = ask('GET', '/v1/{path}')")
    assert not seen.asked
    assert any(word in str(seen.error) for word in why.split("|")), seen.error


@walled
def test_a_request_that_is_answered_when_asked_again_was_answered(copy: Callable[..., Copy]) -> None:
    seen = copy().ask("answers['a'] = [ask('GET', '/v1/wobbly')[0] for _ in 'ab']")
    assert seen.error is None, seen.error
    assert seen.answers == {"a": [500, 200]}


@walled
def test_an_answer_that_no_document_could_hold_is_kept_all_the_same(copy: Callable[..., Copy]) -> None:
    one = copy()
    assert one.ask("answers['a'] = ask('GET', '/v1/deep')[0]").answers == {"a": 200}
    assert set(one.runner.recorded["llm"][0]["response"]) == {"$base64"}


# --- who may let through ---------------------------------------------------------------------------------------------


def test_a_point_does_not_choose_where_this_hosts_keys_go(tmp_path: Path, provider: Provider) -> None:
    """P9: the address is that of this host's manifest, and only of a hosted model that it lets through itself."""
    point = Copy(tmp_path, "https://thief.example").system
    (theirs,) = point.hosted
    ours = msgspec.structs.replace(theirs, url=provider.url)
    own = msgspec.structs.replace(point, hosted=(ours,), apart=False)
    assert let_through(point, own) == (ours,)
    assert let_through(point, None) == ()
    for changed in (own.hosted[0].__class__(name="llm", url=provider.url), msgspec.structs.replace(ours, name="other")):
        assert let_through(point, msgspec.structs.replace(own, hosted=(changed,))) == ()
    assert let_through(point, msgspec.structs.replace(own, name="another system")) == ()
    refused = msgspec.structs.replace(point, hosted=(msgspec.structs.replace(theirs, mode="refuse"),))
    assert let_through(refused, own) == ()


def test_nobody_goes_through_unless_let(copy: Callable[..., Copy], provider: Provider) -> None:
    """P6: the declaration of a copy is not enough."""
    one = copy()
    seen = one.ask("answers['a'] = chat('a')", runner=HostedRunner(LiveRunner(one.system.root), one.system))
    assert (
        "refused: 1 request; first: POST /v1/chat was refused: the proxy lets through only what this host's own"
        in str(seen.error)
    )
    assert provider.asked() == []


def test_what_is_handed_out_must_be_a_place_to_listen_at(tmp_path: Path) -> None:
    """A child that hands out anything else is refused, and what it handed is closed."""
    from resurgam.probes.proxy import Proxy, door

    proxy = Proxy(Hosted(name="llm", url="http://127.0.0.1:1", mode="proxy", allow=ALLOW))
    with door([proxy]) as way, socket.socket() as plain, socket.socket(fileno=os.dup(way)) as inside:
        socket.send_fds(inside, [b"\n"], [plain.fileno()])
        deadline = time.monotonic() + 10
        while not proxy.tally.counts and time.monotonic() < deadline:
            time.sleep(0.01)
    assert proxy.seen().counts == {"refused": 1}
    with door([proxy]):
        pass  # a child that never speaks keeps nobody waiting
    assert proxy.seen().counts == {}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/chat", True),
        ("POST", "/v1/chat?stream=true", True),
        ("POST", "/v1/chat/", False),
        ("POST", "/v1/other", False),
        ("GET", "/v1/models/large-2:latest", True),
        ("GET", "/v1/a/b", True),
        ("GET", "/v1/", False),
        ("GET", "/v1", False),
        ("GET", "/v1/a/../../b", False),
        ("GET", "/v1/a/.", False),
        ("GET", "/v1//b", False),
        ("GET", "/v1/a%2fb", False),
        ("GET", "/v1/a\\b", False),
        ("GET", "/v1/..;/admin", False),
        ("GET", "/v1/a/.;x=1/b", False),
        ("GET", "/v1/a;x=1/...", True),
        ("GET", "http://x/v1/a", False),
    ],
)  # fmt: skip
def test_the_list_of_what_is_allowed(method: str, path: str, allowed: bool) -> None:
    assert is_allowed(Request(method, path, {}, b""), ALLOW) is allowed


def test_the_key_is_masked_in_every_spelling_that_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: as it is, JSON's own spellings, URL, base64 and hex; docs/threat-model.md says so."""
    monkeypatch.setenv("LLM_KEY", KEY)
    proxy, raw = Proxy(Hosted(name="llm", url="https://x", key="${LLM_KEY}")), KEY.encode()
    escaped = "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in KEY)
    spelled = [KEY, KEY.replace("/", "\\/"), escaped, quote(KEY, safe=""), raw.hex(), base64.b64encode(raw).decode()]
    for form in spelled:
        assert proxy._masked(f'"{form}"'.encode()).rstrip(b'="') == b'"***', form


@pytest.mark.parametrize(
    ("hosted", "told"),
    [
        ({}, "`proxy` lacks `allow`"),
        ({"allow": ["/v1/chat"]}, "expected a method and a path"),
        ({"allow": ["POST /v1/chat?x"]}, "expected a method and a path"),
        ({"alow": ["POST /v1"]}, "Did you mean 'allow'"),
        ({"mode": "prox", "allow": ["POST /v1"]}, "Did you mean 'proxy'"),
        ({"allow": ["POST /v1"], "key": "sk-abcdefghijklmnopqrstuvwx"}, "a secret is written out here"),
        ({"allow": ["POST /v1"], "key": "hidden-words"}, "expected a reference to the credential"),
        ({"allow": ["POST /v1"], "key": "${K}", "url": "http://api.example.com"}, "a key is not sent over http"),
        ({"allow": ["POST /v1"], "header": "X-Key"}, "`header` lacks a `key`"),
        ({"allow": ["POST /v1"], "header": "Host", "key": "${KEY}"}, "'Host' belongs to the connection"),
        ({"allow": ["POST /v1"], "headers": ["transfer-encoding"]}, "'transfer-encoding' belongs to the connection"),
        ({"allow": ["POST /v1"], "url": "https://me@api.example.com"}, "credentials in it"),
        ({"allow": ["POST /v1"], "url": "https://api.example.com:x"}, "is no address"),
    ],
)
def test_wrong_declarations_are_told_at_their_place(tmp_path: Path, hosted: dict[str, Json], told: str) -> None:
    """P12, and no value of a key in it."""
    file = tmp_path / "resurgam.yaml"
    system = {
        "resurgam": 1, "system": "s", "vault": {"path": "vault", "keys": "keys"},
        "components": {"c": {"driver": "files", "location": "c"}},
        "hosted": {"llm": {"url": "https://api.example.com", "mode": "proxy", **hosted}},
    }  # fmt: skip
    file.write_text(json.dumps(system))
    with pytest.raises(ManifestError, match=r"resurgam.yaml:1:\d+") as caught:
        load_manifest(str(file))
    assert told in str(caught.value)
    assert "abcdefghij" not in str(caught.value)
    assert "hidden-words" not in str(caught.value)
