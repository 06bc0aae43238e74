"""The compiled inner loops, where the machine that installed Mailstay had a C compiler; nothing depends on them.

`MAILSTAY_NATIVE=0` leaves them unused. Every caller has the same in Python beside the call.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "row_hashes": (None, [_POINTER, _LONG, _LONG, _POINTER]),
    "checksum": (None, [_POINTER, _LONG, _POINTER]),
    "frames": (_LONG, [_POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _POINTER]),
    "measure": (_LONG, [_POINTER, _POINTER, _POINTER, _LONG, _POINTER, _LONG]),
    "decode": (_LONG, [_POINTER, _POINTER, _LONG, _POINTER, _LONG]),
    "encode": (_LONG, [_POINTER, _LONG, _LONG, _POINTER]),
}


def _load() -> Any:
    if os.environ.get("MAILSTAY_NATIVE") == "0":
        return None
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
                for name, (result, arguments) in _SIGNATURES.items():
                    function = getattr(library, name)
                    function.restype, function.argtypes = result, arguments
            except (OSError, AttributeError):  # of another machine, or of an older version
                return None
            return library
    return None


library: Any = _load()


def compiled() -> Any:
    """Return the functions of `native.c`, or None where they are not built or not wanted."""
    return library


def address(array: npt.NDArray[Any]) -> int:
    """Return where the elements of a contiguous `array` begin in memory."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)
