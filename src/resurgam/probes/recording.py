"""What was recorded, beside what is asked now: the form of recordings, and where the two part.

A conversation (probe ``agent``) is recorded in JSON lines, one a turn, with one line more that lists the tools::

    {"tools": [{"name", "description", "inputSchema"}, …]}
    {"conversation", "user", "calls": [{"name", "arguments", "result" | "error"}, …], "answer"}

and what a hosted model said, one line an exchange::

    {"method", "path", "request", "status", "type", "response"}

where ``request`` and ``response`` are JSON, or text, or ``{"$base64": …}``. Neither holds headers, so no credential of a header.
What was a secret in a text is ``***``, which stands for any text when a later request is held against it.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

Json = Any

MASK = "***"
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:api[_-]?key|key|token|access[_-]?token|sig|signature|secret)=)[^&]*")


def parted(recorded: Json, got: Json, path: str = "$") -> tuple[str, Json, Json] | None:
    """The first place where ``got`` is not what was recorded, as a path (RFC 9535), with both values; None where it is."""
    if recorded == MASK:
        return None
    if isinstance(recorded, dict) and isinstance(got, dict):
        for name in [*recorded, *(name for name in got if name not in recorded)]:
            at = f"{path}.{name}" if re.fullmatch(r"\w+", name) else f"{path}[{json.dumps(name)}]"
            if name not in recorded or name not in got:
                return at, recorded.get(name), got.get(name)
            if found := parted(recorded[name], got[name], at):
                return found
        return None
    if isinstance(recorded, list) and isinstance(got, list):
        for index, (ours, theirs) in enumerate(zip(recorded, got, strict=False)):
            if found := parted(ours, theirs, f"{path}[{index}]"):
                return found
        return None if len(recorded) == len(got) else (path, recorded, got)
    if isinstance(recorded, str) and MASK in recorded and isinstance(got, str):
        pattern = ".*".join(map(re.escape, recorded.split(MASK)))
        return None if re.fullmatch(pattern, got, re.DOTALL) else (path, recorded, got)
    same = recorded == got and isinstance(recorded, bool) == isinstance(got, bool)
    return None if same else (path, recorded, got)


def without_secrets(path: str) -> str:
    """The path of a request, parameters that carry credentials masked."""
    return _SECRET_PARAMETER.sub(rf"\1{MASK}", path)


def told(body: bytes, kind: str) -> Json:
    """A body as a recording holds it; in base64 where it is neither text nor the JSON that it says it is."""
    if not body:
        return None
    try:
        text = body.decode()
        return json.loads(text) if "json" in kind else text
    except (ValueError, RecursionError):
        return {"$base64": base64.b64encode(body).decode()}


def body_of(told: Json, kind: str) -> bytes:
    """The bytes that ``told`` stands for."""
    if told is None:
        return b""
    if isinstance(told, dict) and set(told) == {"$base64"}:
        return base64.b64decode(told["$base64"])
    return told.encode() if isinstance(told, str) and "json" not in kind else json.dumps(told).encode()
