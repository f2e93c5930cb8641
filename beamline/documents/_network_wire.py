"""Messages between a publisher of documents and its subscribers.

Every message is two or three 0MQ frames: its kind, a msgpack map, and for ``docs`` the records
themselves, byte for byte as they stand in the journal with their checksums. A document is known by
its run and its number in that run (0 is the start document), which no restart of anybody changes.

=========== ========= =====================================================================
kind        to        fields
=========== ========= =====================================================================
``hello``   publisher version, name, since (time of the earliest start of interest, or None)
``follow``  publisher run, first: send this run from that number on, window at a time
``ack``     publisher run, next: everything below that number has been delivered
``refill``  publisher run, first, count: send these again
``failed``  publisher id, run, consumer, policy, reason
``session`` publisher nothing; the sender is the session and hears what has failed
``runs``    subscriber publisher, began, runs: [[uid, start time, state, count], …]
``beat``    subscriber publisher, runs: those that are open, new or followed, as above
``docs``    subscriber run, first, count; then the records
``gone``    subscriber run, reason: it can't be read
``noted``   subscriber id: of a ``failed``
=========== ========= =====================================================================

A state is "open", "ended" or "cut off". A count of -1 is not known yet.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.documents._records import _BIN32, _RECORD

__all__ = [
    "CUT",
    "ENDED",
    "OPEN",
    "VERSION",
    "WINDOW",
    "WireError",
    "checked_address",
    "message",
    "read_message",
    "records",
]

VERSION = 1
#: Records of one run that may be on their way to one subscriber.
WINDOW = 1024
OPEN, ENDED, CUT = "open", "ended", "cut off"


class WireError(BeamlineError, ValueError):
    """A message that breaks the rules of the protocol."""


def message(kind: str, body: dict[str, Any], *payload: bytes) -> list[bytes]:
    """Return the frames of a message."""
    return [kind.encode(), msgpack.packb(body), *payload]


def read_message(frames: Sequence[bytes]) -> tuple[str, dict[str, Any], bytes]:
    """Return kind, fields and payload.

    Raises
    ------
    WireError
        If the frames are not a message.
    """
    if not 2 <= len(frames) <= 3:
        raise WireError(f"a message has 2 or 3 frames, found {len(frames)}.")
    try:
        kind = bytes(frames[0]).decode()
        body = msgpack.unpackb(frames[1])
    except Exception as error:
        raise WireError(f"a message could not be read: {error}.") from error
    if not isinstance(body, dict):
        raise WireError(f"the fields of {kind!r} are a {type(body).__name__}, expected a map.")
    return kind, body, frames[2] if len(frames) == 3 else b""


def records(block: bytes) -> Iterator[bytes | None]:
    """Yield the packed documents of a block of journal records; None for a damaged one."""
    view = memoryview(block)
    offset = 0
    while offset < len(view):
        try:
            _, _, crc, kind, length = _RECORD.unpack_from(view, offset)
        except Exception:  # noqa: BLE001  (struct's own error)
            return
        offset += _RECORD.size
        payload = view[offset : offset + length]
        offset += length
        if kind != _BIN32 or len(payload) != length:
            return
        yield bytes(payload) if zlib.crc32(payload) == crc else None


def checked_address(address: str) -> str:
    """Return a 0MQ address; ``HOST:PORT`` becomes ``tcp://HOST:PORT``.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    full = address if "://" in address else f"tcp://{address}"
    scheme, _, rest = full.partition("://")
    host, _, port = rest.rpartition(":")
    tcp = scheme == "tcp" and host and port.isdigit() and int(port) < 65536
    if not (tcp or (scheme == "ipc" and rest)):
        raise ConfigurationError(
            f"{address!r} is no address for documents: expected HOST:PORT, tcp://HOST:PORT or "
            "ipc:///path, for example tcp://127.0.0.1:5578."
        )
    return full
