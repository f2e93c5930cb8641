"""Gets and puts that go straight to EPICS' own library, many together, each ended by its callback.

pyepics has made the connections and keeps them. Its own gets wait by polling, which takes the
interpreter away from the threads that have work to do, and its puts drop the status that the IOC
gave. Here every request ends in one callback, in a thread of the library: it may ask for more, but
must not wait.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus

__all__ = ["ECA_DISCONN", "ECA_NORMAL", "Sample", "ask", "asked", "put", "unused"]

#: Status of a request that succeeded, and of one whose connection was lost (EPICS ``caerr.h``).
ECA_NORMAL, ECA_DISCONN = 1, 192

#: DBR_TIME_x of a type is DBF_x and this.
_TIME = 14
#: 1990-01-01 in seconds since 1970.
_EPICS_EPOCH = 631152000


class Sample(NamedTuple):
    """One value as the IOC gave it.

    Attributes
    ----------
    value
        The value, of the PV's native type.
    timestamp : float
        The record's time stamp (s since 1970).
    severity : int
        Alarm severity: 0 none, 1 minor, 2 major, 3 invalid.
    status : int
        Alarm status (EPICS ``STAT``).
    """

    value: Any
    timestamp: float
    severity: int
    status: int

    @property
    def alarm(self) -> str:
        """The alarm in words, for example ``"INVALID (COMM)"``."""
        severity = AlarmSeverity(self.severity).name.removesuffix("_ALARM")
        return f"{severity} ({AlarmStatus(self.status).name})"


class _Arguments(ctypes.Structure):
    """``struct event_handler_args`` of ``cadef.h``; `usr` is the number of the request."""

    _fields_ = (
        ("usr", ctypes.c_void_p),
        ("chid", ctypes.c_void_p),
        ("type", ctypes.c_long),
        ("count", ctypes.c_long),
        ("dbr", ctypes.c_void_p),
        ("status", ctypes.c_int),
    )


_HANDLER = ctypes.CFUNCTYPE(None, _Arguments)
#: What to do with the answer to a request, by its number.
_waiting: dict[int, Callable[[_Arguments], None]] = {}
_numbers = itertools.count(1)


_kept = threading.local()
#: Held while channels are used or cleared: the library reads freed memory if both happen at once.
_using = threading.Lock()


@contextmanager
def unused() -> Iterator[None]:
    """Keep all threads from using channels, while some of them are cleared."""
    with _using:
        yield


@contextmanager
def _used() -> Iterator[None]:
    # The library itself clears no channel during one of its callbacks; whoever clears one waits for
    # the callback's end, which must not wait for him.
    if hasattr(_kept, "state"):
        yield
    else:
        with _using:
            yield


@_HANDLER
def _answered(arguments: _Arguments) -> None:
    if not hasattr(_kept, "state"):
        # Else Python makes a new state for this thread, with a stack, at each of its calls.
        _kept.state = ctypes.pythonapi.PyGILState_Ensure()
    handle = _waiting.pop(arguments.usr, None)
    if handle is not None:
        handle(arguments)


class _Library(NamedTuple):
    """Functions of ``libca``, with the types of their arguments."""

    get: Any
    put: Any
    flush: Any
    field_type: Any
    context: Any
    #: DBR_TIME_x → the structure; DBF_x → the C type of a value.
    structures: dict[int, Any]


@functools.cache
def _library() -> _Library:
    from epics import ca, dbr

    # Looking a function up by item makes a new one, so pyepics' own keep their signatures.
    loaded = ca.libca
    number, pointer, channel = ctypes.c_long, ctypes.c_void_p, dbr.chid_t
    get = loaded["ca_array_get_callback"]
    get.argtypes = [number, ctypes.c_ulong, channel, _HANDLER, pointer]
    put = loaded["ca_array_put_callback"]
    put.argtypes = [number, ctypes.c_ulong, channel, pointer, _HANDLER, pointer]
    flush = loaded["ca_flush_io"]
    flush.argtypes = []
    field_type = loaded["ca_field_type"]
    field_type.argtypes = [channel]
    field_type.restype = ctypes.c_short
    context = loaded["ca_current_context"]
    context.argtypes = []
    context.restype = pointer
    return _Library(get, put, flush, field_type, context, dict(dbr.Map))


def _attach(library: _Library, channels: Sequence[Any]) -> bool:
    """Let this thread use the connections that another one has made; False if none are left."""
    if library.context() is not None:
        return True
    context = next((c.context for c in channels if c.context is not None), None)
    if context is None:
        return False
    from epics import ca

    ca.attach_context(context)
    return True


def _sample(arguments: _Arguments, structures: dict[int, Any]) -> Sample | None:
    if arguments.status != ECA_NORMAL or not arguments.dbr:
        return None
    structure = structures[arguments.type]
    found = structure.from_address(arguments.dbr)
    value = found.value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    elif arguments.count != 1:
        kind = structures[arguments.type - _TIME]
        first = arguments.dbr + structure.value.offset
        value = np.ctypeslib.as_array((kind * arguments.count).from_address(first)).copy()
    seconds = found.stamp.secs + _EPICS_EPOCH + 1e-9 * found.stamp.nsec
    return Sample(value, seconds, found.severity, found.status)


def ask(
    channels: Sequence[Any], then: Callable[[list[Sample | None]], None]
) -> list[Sample | None]:
    """Ask for the values of channels, all in one message.

    Parameters
    ----------
    channels
        pyepics ``PV`` objects.
    then
        Called once, in a thread of the library or in this one, with a sample for each channel;
        None for one that has lost its connection.

    Returns
    -------
    list[Sample | None]
        What `then` is given, filled as the answers come.
    """
    library = _library()
    samples: list[Sample | None] = [None] * len(channels)
    # One more than channels, so that the end can't come before all have been asked.
    left = len(channels) + 1
    counting = threading.Lock()

    def count_down() -> None:
        nonlocal left
        with counting:
            left -= 1
            over = left == 0
        if over:
            then(samples)

    def receive(index: int, arguments: _Arguments) -> None:
        samples[index] = _sample(arguments, library.structures)
        count_down()

    with _used():
        attached = _attach(library, channels)
        for index, channel in enumerate(channels):
            number = next(_numbers)
            _waiting[number] = functools.partial(receive, index)
            status = ECA_DISCONN
            if attached and channel.connected and channel.chid is not None:
                kind = library.field_type(channel.chid) + _TIME
                if kind >= _TIME:
                    status = library.get(kind, 0, channel.chid, _answered, number)
            if status != ECA_NORMAL:
                del _waiting[number]
                count_down()
        if attached:
            library.flush()
    count_down()
    return samples


def asked(channels: Sequence[Any], timeout: float) -> list[Sample | None]:
    """Ask for the values of channels and wait for them; None for those that did not come.

    Parameters
    ----------
    channels
        pyepics ``PV`` objects.
    timeout
        Seconds that all of them may take together.
    """
    arrived = threading.Lock()
    arrived.acquire()
    samples = ask(channels, lambda _: arrived.release())
    arrived.acquire(timeout=max(timeout, 0.001))
    return list(samples)


def put(channel: Any, value: float, then: Callable[[int], None]) -> int:
    """Put a number with completion.

    Parameters
    ----------
    channel
        pyepics ``PV`` object of a scalar number or enumeration.
    value
        What to put; it is converted to the type of the channel.
    then
        Called with the status when the put has ended (`ECA_NORMAL`: the IOC says it is done), in a
        thread of the library.

    Returns
    -------
    int
        `ECA_NORMAL`, or the status for which nothing was sent; `then` is not called in that case.
    """
    library = _library()
    with _used():
        there = _attach(library, [channel]) and channel.connected and channel.chid is not None
        native = library.field_type(channel.chid) if there else -1
        if native < 0:
            return ECA_DISCONN
        kind = library.structures[native]
        whole = native not in (2, 6)  # DBF_FLOAT and DBF_DOUBLE
        data = kind(int(value) if whole else value)
        number = next(_numbers)
        _waiting[number] = lambda arguments: then(arguments.status)
        status: int = library.put(native, 1, channel.chid, ctypes.byref(data), _answered, number)
        if status != ECA_NORMAL:
            del _waiting[number]
            return status
        library.flush()
    return ECA_NORMAL
