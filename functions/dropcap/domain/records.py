"""Parse stored JSON into records. After a rollback, an older revision reads what a newer one wrote.

So unknown keys are ignored, and a value that is missing, null or of the wrong type gets its default. All
stored JSON is parsed by `read`.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], Any]
PARSED: dict[Any, Callable[[str], Any]] = {uuid.UUID: uuid.UUID, dt.datetime: dt.datetime.fromisoformat}
EMPTY = {uuid.UUID: uuid.UUID(int=0), dt.datetime: dt.datetime(1970, 1, 1, tzinfo=dt.UTC), Any: None}
_NOTHING: Any = object()


def read(kind: type[T], stored: Any) -> T:
    """Return stored JSON as a `kind`: a dataclass, a tuple of them, a dict by name, or a plain value.

    A missing field without a default gets an empty value: "", 0, (), or a record of such values.
    """
    hint: Any = kind
    found: T = _reader(hint)(stored)
    return _empty(hint) if found is _NOTHING else found


@cache
def _reader(kind: Any) -> Reader:
    """Return a function that converts a JSON value to a `kind`, or to _NOTHING if it does not fit."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType or NoneType in args:
        [inner] = (arg for arg in args if arg is not NoneType)
        return _reader(inner)
    if is_dataclass(kind):
        return _record(kind)
    if origin is tuple and args[1:] == (...,):
        item = _reader(args[0])
        return lambda value: tuple(_found(map(item, value))) if isinstance(value, list) else _NOTHING
    if origin is tuple or hasattr(kind, "_fields"):
        hints = args or tuple(get_type_hints(kind).values())
        make = tuple if args else kind._make
        return lambda value: (
            make(read(hint, item) for hint, item in zip(hints, value, strict=False))
            if isinstance(value, list) and len(value) >= len(hints)
            else _NOTHING
        )
    if origin is not None:  # dict or Mapping
        value_reader = _reader(args[1])
        return lambda value: (
            {name: item for name, raw in value.items() if (item := value_reader(raw)) is not _NOTHING}
            if isinstance(value, dict)
            else _NOTHING
        )
    if kind is Any:
        return lambda value: value
    if kind in PARSED:
        return lambda value: _parsed(PARSED[kind], value)
    if kind is float:
        return lambda value: value if type(value) in (int, float) else _NOTHING
    return lambda value: value if type(value) is kind else _NOTHING


def _record(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    plan = []
    for field in fields(kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        hint = hints[field.name]
        plan.append((field.name, _reader(hint), _empty(hint) if needed else _NOTHING))

    def make(value: Any) -> Any:
        if type(value) is not dict:
            return _NOTHING
        known = {}
        for name, reader, empty in plan:
            found = reader(value[name]) if name in value else _NOTHING
            if found is not _NOTHING:
                known[name] = found
            elif empty is not _NOTHING:
                known[name] = empty
        return kind(**known)

    return make


def _found(values: Any) -> list[Any]:
    return [value for value in values if value is not _NOTHING]


def _parsed(parse: Callable[[str], Any], value: Any) -> Any:
    try:
        return parse(value)
    except (AttributeError, TypeError, ValueError):
        return _NOTHING


def _empty(kind: Any) -> Any:
    if NoneType in get_args(kind):
        return None
    if is_dataclass(kind):
        return _record(kind)({})
    if kind in EMPTY:
        return EMPTY[kind]
    origin = get_origin(kind) or kind
    return {} if origin is Mapping else origin()
