"""PostgreSQL's own client library, to compare with: it comes with the server that the tests run."""

import ctypes
from functools import cache
from pathlib import Path

from infra.local.postgres import _program


class _Option(ctypes.Structure):
    """PQconninfoOption: postgresql.org/docs/18/libpq-connect.html."""

    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    )


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(_program("postgres")).parent.parent / "lib" / "libpq.so.5"))
    library.PQconndefaults.restype = library.PQconninfoParse.restype = ctypes.POINTER(_Option)
    library.PQconninfoParse.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)]
    return library


def _values(options: "ctypes._Pointer[_Option]") -> dict[str, str | None]:
    found, number = {}, 0
    while options[number].keyword:
        value = options[number].val
        found[options[number].keyword.decode()] = None if value is None else value.decode()
        number += 1
    return found


def keywords() -> list[str]:
    """Return the names of all connection options."""
    return list(_values(_library().PQconndefaults()))


def parse(url: str) -> dict[str, str] | None:
    """Return the options of a URL by name; None if it is not a valid URL."""
    options = _library().PQconninfoParse(url.encode(), ctypes.byref(ctypes.c_char_p()))
    return {name: value for name, value in _values(options).items() if value is not None} if options else None
