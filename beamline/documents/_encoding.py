"""Documents as msgpack and back, without losing what JSON would lose.

Plain values (None, bool, int, float with NaN and infinities, str, bytes, list, dict) are msgpack's
own. Everything else is a msgpack extension, so any msgpack library can still walk the file:

==== =============================================== =======================================
code Python type                                     payload
==== =============================================== =======================================
1    tuple                                           msgpack array
2    int beyond 64 bit                               two's complement, little-endian
3    numpy array (0-d, structured, object, datetime) msgpack [dtype, shape, bytes or items]
4    numpy scalar                                    as 3, of shape ()
5    datetime                                        ISO 8601 text
6    date                                            ISO 8601 text
7    time                                            ISO 8601 text
8    complex                                         two float64, little-endian
9    set                                             msgpack array
10   frozenset                                       msgpack array
11   timedelta                                       msgpack [days, seconds, microseconds]
12   numpy masked array                              msgpack [data, mask, fill value]
==== =============================================== =======================================

What comes back as something plainer: subclasses of dict, list and str (and enumerations of them)
as their base, bytearray and memoryview as bytes, paths and UUIDs as str, a datetime's zone as a
fixed offset, a Fortran-ordered array as a C-ordered one.
"""

from __future__ import annotations

import datetime as dt
import enum
import struct
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgpack
import numpy as np

__all__ = ["pack", "unpack"]

_TUPLE, _BIG_INT, _ARRAY, _SCALAR, _DATETIME, _DATE, _TIME = 1, 2, 3, 4, 5, 6, 7
_COMPLEX, _SET, _FROZENSET, _TIMEDELTA, _MASKED = 8, 9, 10, 11, 12


def pack(value: Any) -> bytes:
    """Encode a value.

    Raises
    ------
    TypeError
        For a type that could not be read back.
    """
    return _packer().pack(value)


def unpack(data: bytes | memoryview) -> Any:
    """Decode what `pack` made.

    Raises
    ------
    ValueError
        If `data` is not one whole msgpack value made by `pack`.
    """
    try:
        return msgpack.unpackb(
            data, ext_hook=_decode, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except ValueError:
        raise
    except Exception as error:
        # Damaged data surfaces as whatever the decoder stumbles over.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _packer() -> msgpack.Packer:
    # strict_types sends tuples and subclasses (np.float64 is a float) to _encode.
    return msgpack.Packer(strict_types=True, default=_encode, unicode_errors="surrogatepass")


def _encode(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, pack(list(value)))
    if isinstance(value, np.generic):
        return msgpack.ExtType(_SCALAR, _pack_array(np.asarray(value)))
    if isinstance(value, np.ma.MaskedArray):
        parts = [value.data, np.ma.getmaskarray(value), value.fill_value]
        return msgpack.ExtType(_MASKED, pack(parts))
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(_ARRAY, _pack_array(value))
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, int):  # bool is packed before it gets here
        if kind is not int and -(2**63) <= value < 2**64:
            return int(value)
        size = value.bit_length() // 8 + 1
        return msgpack.ExtType(_BIG_INT, int(value).to_bytes(size, "little", signed=True))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return str.__str__(value)  # the base's own: a subclass may override it
    if isinstance(value, float):
        return float(value)
    return _encode_rare(value)


def _encode_rare(value: Any) -> Any:
    if isinstance(value, list):
        return list(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    if isinstance(value, dt.datetime):
        return msgpack.ExtType(_DATETIME, value.isoformat().encode())
    if isinstance(value, dt.date):
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if isinstance(value, dt.time):
        return msgpack.ExtType(_TIME, value.isoformat().encode())
    if isinstance(value, dt.timedelta):
        return msgpack.ExtType(_TIMEDELTA, pack([value.days, value.seconds, value.microseconds]))
    if isinstance(value, complex):
        return msgpack.ExtType(_COMPLEX, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, frozenset):
        return msgpack.ExtType(_FROZENSET, pack(list(value)))
    if isinstance(value, set):
        return msgpack.ExtType(_SET, pack(list(value)))
    if isinstance(value, PurePath | uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r:.60} has no place in a document")


def _pack_array(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.hasobject:
        if array.dtype.names:
            raise TypeError(f"a structured array with object fields ({array.dtype}) in a document")
        return pack(["O", list(array.shape), array.ravel().tolist()])
    # descr keeps field names, offsets and byte order, which str() of a structured dtype loses.
    described = np.lib.format.dtype_to_descr(array.dtype)
    return pack([described, list(array.shape), array.tobytes()])


def _unpack_array(data: bytes) -> np.ndarray[Any, Any]:
    described, shape, content = unpack(data)
    if described == "O":
        array = np.empty(len(content), dtype=object)
        for index, item in enumerate(content):  # a slice assignment would unfold nested lists
            array[index] = item
        return array.reshape(shape)
    dtype = np.lib.format.descr_to_dtype(described)
    # A copy: frombuffer alone gives a read-only view.
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()


def _decode(code: int, data: bytes) -> Any:
    decoder = _DECODERS.get(code)
    if decoder is None:
        raise ValueError(f"unknown extension {code}")
    return decoder(data)


def _decode_masked(data: bytes) -> Any:
    content, mask, fill = unpack(data)
    return np.ma.MaskedArray(content, mask=mask, fill_value=fill)


_DECODERS: dict[int, Any] = {
    _TUPLE: lambda data: tuple(unpack(data)),
    _BIG_INT: lambda data: int.from_bytes(data, "little", signed=True),
    _ARRAY: _unpack_array,
    _SCALAR: lambda data: _unpack_array(data)[()],
    _DATETIME: lambda data: dt.datetime.fromisoformat(data.decode()),
    _DATE: lambda data: dt.date.fromisoformat(data.decode()),
    _TIME: lambda data: dt.time.fromisoformat(data.decode()),
    _COMPLEX: lambda data: complex(*struct.unpack("<dd", data)),
    _SET: lambda data: set(unpack(data)),
    _FROZENSET: lambda data: frozenset(unpack(data)),
    _TIMEDELTA: lambda data: dt.timedelta(*unpack(data)),
    _MASKED: _decode_masked,
}
