"""JSON values to and from `google.protobuf.Struct`, which holds metadata, config and values.

A Struct knows one kind of number, the double. Whole numbers up to 2^53 survive in it and come back
as int (a float that is whole, such as 2.0, too); larger ones would be changed silently and are
refused, as are NaN and infinities, which are no JSON. The order of keys does not survive.

Example:
    >>> to_dict(to_struct({"limits": [3, 2.5, None, "x"]}))
    {'limits': [3, 2.5, None, 'x']}
    >>> to_struct({"limits": [3, 2**60]}, name="config")
    Traceback (most recent call last):
    ValueError: config.limits[1]: 1152921504606846976 is a whole number beyond 2^53; send it as text
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value

MAX_INTEGER = 2**53
# protobuf refuses to parse more than 100 messages inside each other. A level of a Struct takes
# three of them (Struct, map entry, Value), and the request or event around it takes some.
MAX_DEPTH = 32


class _Refused(Exception):
    """Carries the path of a refused value from the inside out."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.path = ""


def to_struct(mapping: Mapping[str, Any], *, name: str = "") -> Struct:
    """Makes a Struct.

    Args:
        mapping: A JSON object: keys are str; values are None, bool, int, float, str, lists or
            tuples, and mappings, nested at most 32 deep (the mapping itself counts).
        name: What to call the mapping in an error, for example `config`.

    Returns:
        A Struct of its own, which shares nothing with the mapping.

    Raises:
        ValueError: If something in it is no JSON, a whole number beyond 2^53, or nested too deep.
            The text begins with the path, for example `config.limits[2]`.
    """
    struct = Struct()
    try:
        _fill_struct(struct, mapping, MAX_DEPTH)
    except _Refused as refused:
        path = name + refused.path if name else refused.path.removeprefix(".")
        raise ValueError(f"{path}: {refused.why}" if path else refused.why) from None
    return struct


def to_dict(struct: Struct) -> dict[str, Any]:
    """Makes a dict of plain values: the reverse of `to_struct`.

    Args:
        struct: Any Struct.

    Returns:
        A dict. Numbers that are whole and at most 2^53 are int, all others float.
    """
    fields = struct.fields
    return {key: _plain(fields[key]) for key in fields}


def _fill_struct(struct: Struct, mapping: Mapping[str, Any], levels: int) -> None:
    if not isinstance(mapping, Mapping):
        raise _Refused(f"must be a mapping, not {type(mapping).__name__}")
    if not levels:
        raise _Refused(f"is nested more than {MAX_DEPTH} deep")
    fields = struct.fields
    for key, item in mapping.items():
        if not isinstance(key, str):
            raise _Refused(f"the key {key!r} must be a str, not {type(key).__name__}")
        try:
            _fill(fields[key], item, levels - 1)
        except _Refused as refused:
            refused.path = f".{key}{refused.path}"
            raise
        except UnicodeEncodeError:
            raise _Refused(f"the key {key!r} is not valid Unicode") from None


def _fill_list(values: ListValue, items: list[Any] | tuple[Any, ...], levels: int) -> None:
    if not levels:
        raise _Refused(f"is nested more than {MAX_DEPTH} deep")
    add = values.values.add
    for index, item in enumerate(items):
        try:
            _fill(add(), item, levels - 1)
        except _Refused as refused:
            refused.path = f"[{index}]{refused.path}"
            raise


def _fill(value: Value, item: Any, levels: int) -> None:
    if isinstance(item, str):
        try:
            value.string_value = item
        except UnicodeEncodeError:
            raise _Refused("is not valid Unicode") from None
    elif item is None:
        value.null_value = 0  # type: ignore[assignment]  # the only value of its enum
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, int):
        if not -MAX_INTEGER <= item <= MAX_INTEGER:
            raise _Refused(f"{item} is a whole number beyond 2^53; send it as text")
        value.number_value = item
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise _Refused(f"{item} is not a JSON number")
        value.number_value = item
    elif isinstance(item, Mapping):
        value.struct_value.SetInParent()
        _fill_struct(value.struct_value, item, levels)
    elif isinstance(item, (list, tuple)):
        value.list_value.SetInParent()
        _fill_list(value.list_value, item, levels)
    else:
        raise _Refused(f"{type(item).__name__} is not a JSON type")


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        whole = number.is_integer() and abs(number) <= MAX_INTEGER
        return int(number) if whole else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return to_dict(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None
