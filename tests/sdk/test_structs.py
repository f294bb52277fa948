"""JSON values survive a Struct, or are refused with their path."""

from __future__ import annotations

import doctest
import json
import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from callboard import structs
from callboard.structs import MAX_DEPTH, MAX_INTEGER, to_dict, to_struct
from callboard.v1.event_pb2 import Event, ThreadCreated
from callboard.v1.run_pb2 import EventFrame

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


@given(OBJECTS)
def test_round_trip(value: dict[str, Any]) -> None:
    struct = Struct.FromString(to_struct(value).SerializeToString())
    assert to_dict(struct) == value
    json.dumps(to_dict(struct), allow_nan=False)


@given(st.integers(-MAX_INTEGER, MAX_INTEGER))
def test_whole_numbers_come_back_as_int(number: int) -> None:
    for sent in (number, float(number)):
        assert type(to_dict(to_struct({"n": sent}))["n"]) is int


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_other_numbers_come_back_as_float(number: float) -> None:
    got = to_dict(to_struct({"n": number}))["n"]
    assert got == number
    assert type(got) is (int if number.is_integer() and abs(number) <= MAX_INTEGER else float)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"limits": [1, 2, MAX_INTEGER + 1]}, "config.limits[2]: 9007199254740993 is a whole"),
        ({"limits": [-MAX_INTEGER - 1]}, "config.limits[0]: -9007199254740993 is a whole"),
        ({"a": {"b": math.nan}}, "config.a.b: nan is not a JSON number"),
        ({"a": [[math.inf]]}, "config.a[0][0]: inf is not a JSON number"),
        ({"a": {1: 2}}, "config.a: the key 1 must be a str, not int"),
        ({1: 2}, "config: the key 1 must be a str, not int"),
        ({"a": {"b": {1, 2}}}, "config.a.b: set is not a JSON type"),
        ({"a": b"bytes"}, "config.a: bytes is not a JSON type"),
        ({"a": "\ud800"}, "config.a: is not valid Unicode"),
        ({"a": {"\ud800": 1}}, "config.a: the key '\\ud800' is not valid Unicode"),
        ([1], "config: must be a mapping, not list"),
    ],
)
def test_what_does_not_survive_is_refused(value: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        to_struct(value, name="config")
    assert str(caught.value).startswith(text)


def test_without_a_name_the_path_starts_with_the_key() -> None:
    with pytest.raises(ValueError, match=r"^a\[0\]: "):
        to_struct({"a": [object()]})


def nested(depth: int, kind: type) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth - 1):
        value = {"k": value} if kind is dict else [value]
    return {"k": value}


@pytest.mark.parametrize("kind", [dict, list])
def test_depth(kind: type) -> None:
    deepest = nested(MAX_DEPTH, kind)
    # The messages around a Struct count, too: an event in a frame is the worst case.
    frame = EventFrame(events=[Event(thread_created=ThreadCreated(metadata=to_struct(deepest)))])
    copy = EventFrame.FromString(frame.SerializeToString())
    assert to_dict(copy.events[0].thread_created.metadata) == deepest
    with pytest.raises(ValueError, match="is nested more than 32 deep"):
        to_struct(nested(MAX_DEPTH + 1, kind))


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(ValueError, match="nested more than"):
        to_struct(circle)


def test_empty_containers_and_unset_values() -> None:
    assert to_dict(to_struct({"a": {}, "b": [], "c": ()})) == {"a": {}, "b": [], "c": []}
    struct = Struct()
    struct.fields["unset"].SetInParent()
    assert to_dict(struct) == {"unset": None}


def test_the_examples_are_true() -> None:
    assert doctest.testmod(structs) == (0, 2)
