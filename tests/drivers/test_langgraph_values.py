"""Values of LangGraph's own serializer become JSON: what they hold, and never an object, whatever the bytes say."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import deque
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import numpy as np
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from resurgam.drivers.langgraph_values import as_json

SERDE = JsonPlusSerializer()


@dataclasses.dataclass
class Plan:
    """An application's own class."""

    steps: list[str]


def decoded(value: Any) -> Any:
    """As the library writes it and the driver reads it."""
    return json.loads(as_json(*SERDE.dumps_typed(value)))


@pytest.mark.parametrize("value", [None, 1, "text", [1, 2.5, None, True], {"a": {"b": [1]}}, {"1": "one"}])
def test_plain_values_are_themselves(value: Any) -> None:
    """What JSON has needs no words around it."""
    assert decoded(value) == value


@pytest.mark.parametrize(
    ("value", "kind", "payload"),
    [
        (UUID(int=7), "uuid.UUID", "0" * 31 + "7"),
        (date(2026, 1, 2), "datetime.date", [2026, 1, 2]),
        (datetime(2026, 1, 2, tzinfo=UTC), "datetime.datetime", "2026-01-02T00:00:00+00:00"),
        ({1}, "builtins.set", [1]),
        (deque([1, 2]), "collections.deque", [1, 2]),
        (Plan(["a"]), f"{__name__}.Plan", {"steps": ["a"]}),
        (Send("node", {"x": 1}), "langgraph.types.Send", ["node", {"x": 1}]),
    ],
)
def test_objects_are_named_and_not_made(value: Any, kind: str, payload: Any) -> None:
    """The class is a word; what it was made of is there."""
    assert decoded(value) == {"type": kind, "value": payload}


def test_messages_and_interrupts_show_their_words() -> None:
    """What an agent was told and asked can be read."""
    messages = decoded([HumanMessage("hello", id="1"), AIMessage("good day", id="2")])
    assert [(m["type"].rsplit(".", 1)[1], m["value"]["content"]) for m in messages] == [
        ("HumanMessage", "hello"), ("AIMessage", "good day"),
    ]  # fmt: skip
    [question] = decoded([Interrupt(value={"question": "send it?"}, id="7")])
    assert question["value"]["value"] == {"question": "send it?"}


def test_arrays_and_bytes_are_told_by_size_and_digest() -> None:
    """A change of one number shows."""
    one, other = decoded(np.zeros(4, np.float32)), decoded(np.ones(4, np.float32))
    assert one["value"]["shape"] == [4]
    assert one["value"]["bytes"] == 16
    assert one["value"]["blake3"] != other["value"]["blake3"]
    assert decoded(b"abc")["value"]["bytes"] == 3


def test_what_must_not_be_opened_is_opaque() -> None:
    """Pickles and ciphertexts: their kind, their size, their digest."""
    assert json.loads(as_json("pickle", pickle.dumps({"a": 1})))["opaque"] == "pickle"
    assert json.loads(as_json("msgpack+aes", b"\x00" * 40)) == {
        "opaque": "msgpack+aes", "bytes": 40, "blake3": json.loads(as_json("x", b"\x00" * 40))["blake3"],
    }  # fmt: skip


def test_a_hostile_extension_imports_nothing() -> None:
    """P12: a constructor that would run a command is a word like any other."""
    bomb = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "system", "touch /tmp/never"))))
    assert json.loads(as_json("msgpack", bomb)) == {"type": "os.system", "value": "touch /tmp/never"}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x91" * 100_000, b"\x81\x90\x01", b"\xc7\x01\x00\x90", b"\xa1\xff",
        ormsgpack.packb(ormsgpack.Ext(6, b"\x93\x01\x02\x03")), b"\x91" * 900 + b"\x01",
    ],
)  # fmt: skip
def test_what_is_torn_or_too_deep_is_undecodable(data: bytes) -> None:
    """It says so, with its digest, and stops nothing."""
    assert json.loads(as_json("msgpack", data))["undecodable"] == "msgpack"


@given(st.sampled_from(["msgpack", "json", "null", "pickle", "msgpack+aes"]), st.binary(max_size=300))
def test_any_bytes_become_json(kind: str, data: bytes) -> None:
    """Whatever stands in the file, a capture goes on."""
    assert json.loads(as_json(kind, data)) is not Ellipsis
