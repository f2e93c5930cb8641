"""Bytes of the Channel Access messages that are sent most often.

caproto has a class for each message, which costs a server of many small values most of its time.
"""

from __future__ import annotations

import struct
from typing import Any

from caproto import ChannelType
from caproto._commands import data_payload

__all__ = [
    "HEADER_SIZE",
    "SCALARS",
    "as_bytes",
    "event",
    "parse_read_notify",
    "read_notify_response",
]

_EVENT_ADD, _READ_NOTIFY = 1, 15
_ECA_NORMAL = 1
_HEADER = struct.Struct(">HHHHII")
_EXTENDED_HEADER = struct.Struct(">HHHHIIII")
#: Length of a message without payload.
HEADER_SIZE = _HEADER.size
_LONGEST, _MOST = 0xFFF0, 0xFFFF

#: Layout of one value by its type: alone, with status, with status and time; padded to 8 bytes.
SCALARS = {
    native: tuple(struct.Struct(layout) for layout in layouts)
    for native, layouts in {
        ChannelType.DOUBLE: (">d", ">hh4xd", ">hhII4xd"),
        ChannelType.LONG: (">i4x", ">hhi", ">hhIIi"),
        ChannelType.INT: (">h6x", ">hhh2x", ">hhII2xh"),
        ChannelType.ENUM: (">H6x", ">hhH2x", ">hhII2xH"),
    }.items()
}


def as_bytes(metadata: Any, values: Any, data_type: ChannelType, count: int) -> bytes:
    """Join metadata and values, as caproto makes them, to the payload of a message."""
    _, *parts = data_payload(values, metadata, data_type, count)
    return b"".join(bytes(part) for part in parts)


def event(data_type: int, count: int, subscription: int, payload: bytes) -> bytes:
    """Message with the new value of a monitored channel (``CA_PROTO_EVENT_ADD``)."""
    return _message(_EVENT_ADD, data_type, count, subscription, payload)


def parse_read_notify(data: bytes, position: int) -> tuple[int, int, int, int] | None:
    """Type, count, channel and request number of the get that begins there; None for others."""
    if len(data) - position < HEADER_SIZE:
        return None
    command, size, data_type, count, channel, number = _HEADER.unpack_from(data, position)
    return (data_type, count, channel, number) if command == _READ_NOTIFY and not size else None


def read_notify_response(data_type: int, count: int, ioid: int, payload: bytes) -> bytes:
    """Message that answers a get (``CA_PROTO_READ_NOTIFY``)."""
    return _message(_READ_NOTIFY, data_type, count, ioid, payload)


def _message(command: int, data_type: int, count: int, number: int, payload: bytes) -> bytes:
    size = len(payload)
    if size <= _LONGEST and count < _MOST:
        header = _HEADER.pack(command, size, data_type, count, _ECA_NORMAL, number)
    else:
        header = _EXTENDED_HEADER.pack(
            command, 0xFFFF, data_type, 0, _ECA_NORMAL, number, size, count
        )
    return header + payload
