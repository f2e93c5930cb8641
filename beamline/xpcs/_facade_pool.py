"""Files that stay open for reading, and what was decoded from them.

Both notice that a file was replaced or changed: by device, inode, time of change and size. No lock
is held while a file is read, so a reader of one file never waits for a reader of another.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, TypeVar

import h5py
import numpy as np

from beamline.core.errors import ConfigurationError
from beamline.xpcs._facade_source import HDF5ValidationError, MissingFileError, Source

__all__ = ["ConnectionPool", "Identity", "identify", "open_once"]

T = TypeVar("T")

#: Chunks that HDF5 keeps decoded per dataset, bytes; decoded arrays are kept here instead.
_CHUNK_CACHE = 1 << 20


class Identity(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    changed: int
    size: int


def identify(path: str) -> Identity:
    """Return the identity of the file at `path` now.

    Raises
    ------
    MissingFileError, HDF5ValidationError
        If there is none, or it is no file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  (in the path of every cached read)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise HDF5ValidationError(f"{path}: it can't be opened ({error.strerror}).") from error
    return _identity(found)


def _identity(found: os.stat_result) -> Identity:
    return Identity(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


@dataclass(eq=False)
class _Connection:
    path: str
    identity: Identity
    file: h5py.File
    stream: BinaryIO
    users: int = 0
    stale: bool = False


@dataclass
class _Counts:
    hits: int = 0
    misses: int = 0
    decoded_hits: int = 0
    decoded_misses: int = 0
    evictions: int = 0
    replaced: int = 0
    errors: int = 0


@dataclass
class _Decoded:
    """Values that were read, least recently used first."""

    limit: int
    values: OrderedDict[tuple[str, Hashable], tuple[Identity, Any, int]] = field(
        default_factory=OrderedDict
    )
    bytes: int = 0

    def find(self, key: tuple[str, Hashable], identity: Identity) -> Any:
        found = self.values.get(key)
        if found is None:
            return None
        if found[0] != identity:
            self.drop(key)
            return None
        self.values.move_to_end(key)
        return found[1]

    def keep(self, key: tuple[str, Hashable], identity: Identity, value: Any) -> None:
        size = _size(value)
        self.drop(key)
        if size > self.limit:
            return
        self.values[key] = identity, value, size
        self.bytes += size
        while self.bytes > self.limit:
            self.drop(next(iter(self.values)))

    def drop(self, key: tuple[str, Hashable]) -> None:
        found = self.values.pop(key, None)
        if found is not None:
            self.bytes -= found[2]


class ConnectionPool:
    """Open files and decoded values, both bounded.

    Parameters
    ----------
    max_connections
        Number of files that stay open; more are open only while they are being read.
    cache_bytes
        Memory for decoded values; one that is larger than all of it is not kept.
    """

    def __init__(self, max_connections: int = 64, cache_bytes: int = 1 << 30) -> None:
        if max_connections < 1 or cache_bytes < 0:
            raise ConfigurationError(
                f"A pool of {max_connections} connections and {cache_bytes} bytes of cache is"
                " impossible: the least is 1 connection and 0 bytes."
            )
        self._max = max_connections
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Connection] = OrderedDict()
        self._decoded = _Decoded(cache_bytes)
        self._counts = _Counts()

    def read(self, path: str | os.PathLike[str], key: Hashable, load: Callable[[Source], T]) -> T:
        """Return what `load` makes of the file, from memory if the file has not changed since.

        Parameters
        ----------
        key
            What is read; the value must be immutable, since all readers share it.

        Raises
        ------
        HDF5ValidationError
            If the file is not there or no HDF5, or by `load`.
        """
        name = _absolute(path)
        identity = identify(name)
        with self._lock:
            found = self._decoded.find((name, key), identity)
            if found is not None:
                self._counts.decoded_hits += 1
                return found
            self._counts.decoded_misses += 1
        with self._connection(name, identity) as connection:
            value = load(Source(connection.file, name))
        with self._lock:
            self._decoded.keep((name, key), connection.identity, value)
        return value

    @contextlib.contextmanager
    def connection(self, path: str | os.PathLike[str]) -> Iterator[h5py.File]:
        """Lend the open file; it must neither be closed nor used after the block."""
        name = _absolute(path)
        with self._connection(name, identify(name)) as connection:
            yield connection.file

    def forget(self, path: str | os.PathLike[str]) -> bool:
        """Drop all that is known of a file; return whether its connection is closed."""
        name = _absolute(path)
        with self._lock:
            for key in [key for key in self._decoded.values if key[0] == name]:
                self._decoded.drop(key)
            return self._retire(name)

    def clear(self) -> None:
        """Close all connections that are not in use (the others after use), drop decoded values."""
        with self._lock:
            for name in list(self._open):
                self._retire(name)
            self._decoded = _Decoded(self._decoded.limit)

    def stats(self) -> dict[str, float]:
        """Return counts since the beginning.

        ``hits`` are reads for which no file was opened, ``misses`` those for which one was;
        ``hit_rate`` is their share. Of the hits, ``decoded_hits`` came from memory.
        """
        with self._lock:
            counts = self._counts
            hits = counts.hits + counts.decoded_hits
            reads = hits + counts.misses
            return {
                "hits": hits,
                "misses": counts.misses,
                "hit_rate": hits / reads if reads else 0.0,
                "decoded_hits": counts.decoded_hits,
                "decoded_misses": counts.decoded_misses,
                "decoded_bytes": self._decoded.bytes,
                "decoded_values": len(self._decoded.values),
                "decoded_limit": self._decoded.limit,
                "connections": len(self._open),
                "connections_in_use": sum(one.users > 0 for one in self._open.values()),
                "max_connections": self._max,
                "evictions": counts.evictions,
                "replaced": counts.replaced,
                "errors": counts.errors,
            }

    @contextlib.contextmanager
    def _connection(self, name: str, identity: Identity) -> Iterator[_Connection]:
        connection = self._borrow(name, identity)
        try:
            yield connection
        except BaseException as error:
            with self._lock:
                self._counts.errors += 1
                # What is wrong with a file's content is no fault of the connection.
                connection.stale |= not isinstance(error, HDF5ValidationError)
            raise
        finally:
            self._give_back(connection)

    def _borrow(self, name: str, identity: Identity) -> _Connection:
        with self._lock:
            connection = self._open.get(name)
            if connection is not None and not connection.stale:
                if connection.identity == identity:
                    connection.users += 1
                    self._counts.hits += 1
                    self._open.move_to_end(name)
                    return connection
                self._counts.replaced += 1
            self._retire(name)
            self._counts.misses += 1
        opened = _open(name)
        with self._lock:
            other = self._open.get(name)
            if other is not None and other.identity == opened.identity and not other.stale:
                # Somebody else opened it meanwhile.
                opened.stale = True
                return opened
            self._retire(name)
            self._open[name] = opened
            self._evict()
        return opened

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            connection.users -= 1
            if connection.users == 0 and connection.stale:
                if self._open.get(connection.path) is connection:
                    del self._open[connection.path]
                _close(connection)
            self._evict()

    def _retire(self, name: str) -> bool:
        """Take a connection out; it is closed now or by its last user."""
        connection = self._open.pop(name, None)
        if connection is None:
            return True
        connection.stale = True
        if connection.users:
            return False
        _close(connection)
        return True

    def _evict(self) -> None:
        idle = [name for name, one in self._open.items() if not one.users]
        for name in idle[: max(0, len(self._open) - self._max)]:
            self._retire(name)
            self._counts.evictions += 1


@contextlib.contextmanager
def open_once(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a file for this block only; links to other files are followed.

    It is not locked, and may be growing.
    """
    name = _absolute(path)
    identify(name)
    try:
        file = _unlocked(name)
    except OSError as error:
        raise HDF5ValidationError(
            f"{name}: it can't be opened as HDF5; it is another format, cut off or damaged"
            f" ({error})."
        ) from error
    with file:
        yield Source(file, name)


def _unlocked(name: str) -> h5py.File:
    try:
        return h5py.File(name, "r", locking=False)
    except OSError as error:
        # Where this process has it open with a lock, it can only be opened with one.
        if "locking flag" not in str(error):
            raise
        return h5py.File(name, "r", locking=True)


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(path)  # noqa: PTH100  (in the path of every cached read)


def _open(name: str) -> _Connection:
    """Open a file through a Python file object.

    HDF5 then neither locks the file nor knows that it is open: this process and others can open it
    in any mode meanwhile, and what an earlier connection has cached of it is not used for this one.
    Links to other files are not followed.
    """
    try:
        stream = open(name, "rb")  # noqa: PTH123, SIM115  (closed with the connection)
    except FileNotFoundError:
        raise MissingFileError(f"{name}: there is no such file.") from None
    except OSError as error:
        raise HDF5ValidationError(f"{name}: it can't be opened ({error.strerror}).") from error
    try:
        file = h5py.File(stream, "r", rdcc_nbytes=_CHUNK_CACHE)
    except (OSError, RuntimeError, ValueError) as error:
        stream.close()
        raise HDF5ValidationError(
            f"{name}: it can't be opened as HDF5; it is another format, cut off or damaged"
            f" ({error})."
        ) from error
    return _Connection(name, _identity(os.fstat(stream.fileno())), file, stream, users=1)


def _close(connection: _Connection) -> None:
    # A file that vanished with its disk can't be closed properly, and need not be.
    with contextlib.suppress(OSError, RuntimeError):
        connection.file.close()
    with contextlib.suppress(OSError):
        connection.stream.close()


def _size(value: Any) -> int:
    """Return the memory of all arrays in a value, bytes, and some for itself."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, tuple | list):
        return 64 + sum(map(_size, value))
    slots = getattr(type(value), "__slots__", ())
    return 512 + sum(
        _size(getattr(value, name)) for name in slots if not isinstance(getattr(value, name), float)
    )
