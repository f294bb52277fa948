"""Checks on requests. All problems of a request are found before it is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as Proto
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.message_pb2 import Message, Role
from callboard_server import errors
from callboard_server.errors import Violation
from callboard_server.log.events import EVENT_BYTES

MAX_PAGE = 1000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
STRUCT_DEPTH = 32
LARGEST_WHOLE = 2**53
_REQUEST_ID = 128
_LABELS, _LABEL_KEY, _LABEL_VALUE = 32, 63, 255
_LONGEST_DURATION = 10 * 365 * 24 * 3600
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


class Check:
    """Collects what is wrong with a request; `done` refuses it if anything is."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def done(self) -> None:
        """Ends the checks.

        Raises:
            ServiceError: INVALID_ARGUMENT with a violation for each field that is wrong.
        """
        if self._violations:
            raise errors.invalid(*self._violations)

    def wrong(self, field: str, description: str) -> None:
        self._violations.append(Violation(field, description))

    def required(self, field: str, value: object) -> None:
        if not value:
            self.wrong(field, "is required")

    def text(self, field: str, value: str, *, longest: int) -> None:
        if len(value) > longest:
            self.wrong(field, f"has {len(value)} characters; at most {longest} are allowed")

    def uuid(self, field: str, value: str, *, required: bool = True) -> None:
        if not value:
            if required:
                self.wrong(field, "is required: a UUID")
            return
        if not _UUID.fullmatch(value):
            self.wrong(
                field,
                f"{value[:80]!r} is no UUID in its usual form, "
                "such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427",
            )

    def uuids(self, field: str, values: Sequence[str]) -> None:
        if not 1 <= len(values) <= MAX_PAGE:
            self.wrong(field, f"has {len(values)} entries; 1 to {MAX_PAGE} are allowed")
        for index, value in enumerate(values):
            self.uuid(f"{field}[{index}]", value)

    def request_id(self, value: str) -> None:
        self.text("request_id", value, longest=_REQUEST_ID)

    def enum(self, request: Proto, name: str, prefix: str = "") -> None:
        """Checks a field that is an enum, or a list of them."""
        known, is_repeated = _enum_of(request.DESCRIPTOR, name)
        given = getattr(request, name)
        for index, value in enumerate(given if is_repeated else [given]):
            if value not in known:
                listed = ", ".join(f"{entry} = {number}" for number, entry in known.items())
                place = f"{name}[{index}]" if is_repeated else name
                self.wrong(prefix + place, f"{value} is none of {listed}")

    def duration(self, field: str, value: Duration, *, longest: float = _LONGEST_DURATION) -> None:
        seconds = value.seconds + value.nanos / 1e9
        if not 0 < seconds <= longest:
            bounds = f"more than 0 and at most {longest:,.0f} s"
            self.wrong(field, f"is {seconds:g} s; it must be {bounds}")

    def timestamp(self, field: str, value: Timestamp) -> None:
        if not (_FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 10**9):
            self.wrong(field, "is no time between the years 1 and 9999")

    def struct(self, field: str, value: Struct) -> None:
        if not value.fields:
            return
        if value.ByteSize() > EVENT_BYTES:
            raise errors.request_too_large(value.ByteSize(), EVENT_BYTES, field)
        self._fields(field, value.fields, 1)

    def _fields(self, field: str, fields: Mapping[str, Value], depth: int) -> None:
        if depth > STRUCT_DEPTH:
            self.wrong(field, f"is nested deeper than {STRUCT_DEPTH}")
            return
        for name, value in fields.items():
            self._value(f"{field}.{name}", value, depth)

    def _value(self, field: str, value: Value, depth: int) -> None:
        match value.WhichOneof("kind"):
            case "number_value":
                self._number(field, value.number_value)
            case "struct_value":
                self._fields(field, value.struct_value.fields, depth + 1)
            case "list_value" if depth >= STRUCT_DEPTH:
                self.wrong(field, f"is nested deeper than {STRUCT_DEPTH}")
            case "list_value":
                for index, item in enumerate(value.list_value.values):
                    self._value(f"{field}[{index}]", item, depth + 1)

    def _number(self, field: str, number: float) -> None:
        if not math.isfinite(number):
            self.wrong(field, f"{number} is no JSON number")
        elif abs(number) > LARGEST_WHOLE and number.is_integer():
            self.wrong(field, "is a whole number beyond 2^53, which is not exact; send it as text")

    def labels(self, field: str, labels: Mapping[str, str]) -> None:
        if len(labels) > _LABELS:
            self.wrong(field, f"has {len(labels)} entries; at most {_LABELS} are allowed")
        for key, value in labels.items():
            if not 1 <= len(key) <= _LABEL_KEY:
                self.wrong(field, f"key {key[:80]!r} must have 1 to {_LABEL_KEY} characters")
            self.text(f"{field}.{key[:80]}", value, longest=_LABEL_VALUE)

    def messages(self, field: str, messages: Sequence[Message], *, any_role: bool = False) -> None:
        for index, message in enumerate(messages):
            self._message(f"{field}[{index}]", message, any_role)

    def _message(self, field: str, message: Message, any_role: bool) -> None:
        self.uuid(f"{field}.message_id", message.message_id, required=False)
        self.enum(message, "role", prefix=f"{field}.")
        if message.role == Role.ROLE_UNSPECIFIED:
            self.wrong(f"{field}.role", "is required")
        elif not any_role and message.role == Role.ROLE_TOOL:
            self.wrong(f"{field}.role", "must be ROLE_USER, ROLE_SYSTEM or ROLE_ASSISTANT here")
        if not message.content:
            self.wrong(f"{field}.content", "is required: at least one block")
        for number, block in enumerate(message.content):
            if block.WhichOneof("block") is None:
                self.wrong(f"{field}.content[{number}]", "needs one of the kinds of blocks")
        if message.ByteSize() > EVENT_BYTES:
            raise errors.request_too_large(message.ByteSize(), EVENT_BYTES, field)


@cache
def _enum_of(kind: Descriptor, name: str) -> tuple[Mapping[int, str], bool]:
    """Returns the names of an enum field's values by their numbers, and whether it is a list."""
    field = kind.fields_by_name[name]
    if field.enum_type is None:
        raise TypeError(f"{name} is no enum")
    names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
    return names, field.is_repeated
