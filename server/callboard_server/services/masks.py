"""Update masks of assistants: which fields a request changes, and which keys within them."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct, Value

from callboard.v1.assistant_pb2 import Assistant
from callboard_server.services.validation import STRUCT_DEPTH, Check

_TEXTS, _STRUCTS = ("name", "description"), ("config", "metadata")


def check_mask(check: Check, mask: FieldMask) -> None:
    """Checks that a mask names what can be changed."""
    check.required("update_mask", mask.paths)
    for index, path in enumerate(mask.paths):
        field, *keys = path.split(".")
        is_key = field in _STRUCTS and all(keys) and len(keys) <= STRUCT_DEPTH
        if path not in (*_TEXTS, *_STRUCTS) and not is_key:
            check.wrong(
                f"update_mask.paths[{index}]",
                f"{path[:80]!r} is none of name, description, config and metadata, "
                'nor a key of the last two, such as "config.model"',
            )


def masked(before: Assistant, given: Assistant, paths: Sequence[str]) -> Assistant:
    """Returns an assistant with what the paths of a mask name as it was given."""
    changed = Assistant()
    changed.CopyFrom(before)
    for path in paths:
        field, *keys = path.split(".")
        if field in _TEXTS:
            setattr(changed, field, getattr(given, field))
        elif keys:
            _put(getattr(changed, field), keys, _value_at(getattr(given, field), keys))
        else:
            getattr(changed, field).CopyFrom(getattr(given, field))
    changed.name = changed.name or changed.agent
    return changed


def _value_at(struct: Struct, keys: Sequence[str]) -> Value | None:
    value: Value | None = None
    for key in keys:
        # Asked for before it is taken: taking a key that is not there would add it.
        if key not in struct.fields:
            return None
        value = struct.fields[key]
        struct = value.struct_value
    return value


def _put(struct: Struct, keys: Sequence[str], value: Value | None) -> None:
    """Sets the key at a path, or removes it where there is no value."""
    *parents, key = keys
    for parent in parents:
        if value is None and parent not in struct.fields:
            return
        struct = struct.fields[parent].struct_value
    if value is not None:
        struct.fields[key].CopyFrom(value)
    elif key in struct.fields:
        del struct.fields[key]
