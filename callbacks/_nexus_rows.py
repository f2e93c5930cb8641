"""Events of one stream on their way into columns: collected, then written as blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.documents.pages import times_of_rows
from beamline.nexus.builder import Stream
from beamline.nexus.rows import MisfitError, converted, fit
from beamline.nexus.tree import Column, Feed, Grid, GridAxis, Tree
from callbacks._hdf5 import ColumnData, NexusFile

__all__ = ["EventKeys", "StreamRows"]

_FLOAT = np.dtype(np.float64)
_MOST_ROWS = 1024
_MOST_BYTES = 4 * 2**20

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Document = Mapping[str, Any]


class EventKeys:
    """Data keys that all events of a descriptor have.

    Parameters
    ----------
    names
        Of the data keys.

    Attributes
    ----------
    names : frozenset[str]
        The same.
    pick : callable
        Takes the ``data`` or ``timestamps`` of an event, returns their values as a tuple, in one
        order always; KeyError where one is missing.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._order = tuple(sorted(self.names))
        self.pick: Callable[[Mapping[str, Any]], tuple[Any, ...]]
        if len(self._order) > 1:
            self.pick = itemgetter(*self._order)
        else:
            self.pick = lambda values: tuple(values[name] for name in self._order)

    def columns(self, picked: Sequence[Any] | Array) -> dict[str, Any]:
        """Part what was picked from several events, one after the other, by data key."""
        return {name: picked[i :: len(self._order)] for i, name in enumerate(self._order)}


class StreamRows:
    """Writes the events of one stream.

    Parameters
    ----------
    stream
        What the descriptors say.
    file
        Where the columns are.
    began
        Time of the start document, s since 1970.
    expected
        Probable number of events, or None.

    Attributes
    ----------
    rows : int
        Events written.
    since : float or None
        Monotonic time of the oldest event that waits, or None.
    datum_keys : list[str]
        Data keys whose values are names of datums.
    """

    def __init__(self, stream: Stream, file: NexusFile, began: float, expected: int | None) -> None:
        self.stream = stream
        self.rows = 0
        self.since: float | None = None
        self.datum_keys: list[str] = []
        self._file = file
        self._began = began
        self._expected = expected
        self._columns: list[ColumnData] = []
        self._grids: list[tuple[str, Grid]] = []
        self._axes: list[tuple[str, GridAxis]] = []
        self._last = -(2**63)
        #: Of one kind at a time, and of one descriptor.
        self._events = _Events()
        self._pages: list[Document] = []
        self._page_rows = 0
        self._keys = EventKeys(())
        self._block = 1

    def extend(self, tree: Tree, columns: Sequence[ColumnData]) -> None:
        """Take over the columns and grids of this stream that a document has added."""
        name = self.stream.name
        fresh = [column for column in columns if column.node.stream == name]
        self._columns += fresh
        if self.rows:
            for column in fresh:
                self._catch_up(column)
        for path, node in tree.items():
            if isinstance(node, Grid) and node.stream == name:
                self._grids.append((path, node))
            elif isinstance(node, GridAxis) and node.stream == name and node.moved_by:
                self._axes.append((path, node))
        keys = self.stream.keys.values()
        self.datum_keys = [key.name for key in keys if key.external == "datum"]
        row_bytes = sum(
            8 if node.dtype is None else node.dtype.itemsize * int(np.prod(node.shape or (1,)))
            for node in (column.node for column in self._columns)
        )
        self._block = max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, row_bytes)))

    def _catch_up(self, column: ColumnData) -> None:
        """Derive the rows that were written before another stream's descriptor asked for them."""
        feed = column.node.feed
        homes = {c.node.feed.key: c for c in self._columns if c.node.feed.kind == "data"}
        if feed.function is None or not all(key in homes for key in feed.inputs):
            return
        try:
            inputs = [converted(homes[key].read(), _FLOAT, ()) for key in feed.inputs]
        except (TypeError, ValueError):
            return  # it has become text: there is nothing to derive from
        column.append(0, feed.function(*inputs))

    @property
    def has_events(self) -> bool:
        """Whether there are data keys that come in events."""
        return any(key.external != "stream" for key in self.stream.keys.values())

    def take(self, doc: Document, keys: EventKeys) -> bool:
        """Keep an event that has these data keys; return whether there are enough to write.

        Raises
        ------
        KeyError
            If it lacks one of them; nothing of it is kept.
        """
        number, moment = doc["seq_num"], doc["time"]
        values, stamps = keys.pick(doc["data"]), keys.pick(doc["timestamps"])
        if keys is not self._keys or self._pages:
            self.write()
            self._keys = keys
        if self.since is None:
            self.since = time.monotonic()
        events = self._events
        events.numbers.append(number)
        events.times.append(moment)
        events.values += values
        events.stamps += stamps
        return len(events.numbers) >= self._block

    def take_page(self, doc: Document, keys: EventKeys) -> bool:
        """Keep a page of events that have these data keys; return whether there are enough."""
        if keys is not self._keys or self._events.numbers:
            self.write()
            self._keys = keys
        if self.since is None:
            self.since = time.monotonic()
        self._pages.append(doc)
        self._page_rows += len(doc["seq_num"])
        return self._page_rows >= self._block

    def write(self) -> None:
        """Write what waits into the file (`NexusFile.commit` brings it to disk).

        Raises
        ------
        OSError
            If there is no space.
        """
        events, pages = self._events, self._pages
        self._events, self._pages, self._page_rows, self.since = _Events(), [], 0, None
        if events.numbers:
            stamps = np.asarray(events.stamps, dtype=np.float64)
            self._write(
                events.numbers,
                events.times,
                self._keys.columns(events.values).__getitem__,
                self._keys.columns(stamps).__getitem__,
            )
        for page in pages:
            numbers, data, times = page["seq_num"], page["data"], page["timestamps"]
            row_times = times_of_rows(page)
            for first in range(0, len(numbers), self._block):
                part = slice(first, first + self._block)
                self._write(
                    numbers[part],
                    row_times[part],
                    lambda key, data=data, part=part: data[key][part],  # type: ignore[misc]
                    lambda key, times=times, part=part: times[key][part],  # type: ignore[misc]
                )

    def _write(
        self,
        numbers: Sequence[int],
        times: Sequence[float],
        values: Callable[[str], Sequence[Any]],
        stamps: Callable[[str], Sequence[float]],
    ) -> None:
        block = _Block(self._began, numbers, times, values, stamps)
        fresh, again = self._sort_out(block.numbers)
        # A column that a second descriptor has added or left out has a gap for these events.
        filled = [i for i, column in enumerate(self._columns) if self._is_fed(column.node.feed)]
        arrays = {index: self._fit(index, block) for index in filled}
        for number, row in again.items():
            for index, array in arrays.items():
                self._columns[index].overwrite(row, array[number : number + 1])
        if len(fresh):
            everything = len(fresh) == len(block.numbers)
            for index, array in arrays.items():
                rows = array if everything else array[fresh]
                if self._columns[index].append(self.rows, rows):
                    self._file.commit()
            self._last = max(self._last, int(block.numbers.max()))
        for path, axis in self._axes:
            self._move_axis(path, axis, block)
        self._axes.clear()
        for path, grid in self._grids:
            if grid.key not in self._keys.names:
                continue
            places = block.numbers - 1
            inside = (places >= 0) & (places < grid.order.size)
            if inside.any():
                flat = grid.order.places(places[inside])
                self._file.fill_grid(path, flat, self._floats(grid.key, block)[inside])
        self.rows += len(fresh)

    def _sort_out(self, numbers: npt.NDArray[np.int64]) -> tuple[Array, dict[int, int]]:
        """Tell new events from those that replace one (a point taken again after a pause).

        Returns
        -------
        fresh
            Indices of the new ones.
        again
            Index → row in the file of those that replace one.
        """
        if numbers[0] > self._last and bool(np.all(numbers[1:] > numbers[:-1])):
            return np.arange(len(numbers)), {}
        # The last of several with one number holds, at the place of the first.
        latest = {int(number): index for index, number in enumerate(numbers)}
        known: dict[int, int] = {}
        if any(number <= self._last for number in latest):
            known = self._rows_of(np.array(list(latest)))
        fresh = [index for number, index in latest.items() if number not in known]
        again = {index: known[number] for number, index in latest.items() if number in known}
        return np.array(fresh, dtype=np.int64), again

    def _rows_of(self, numbers: npt.NDArray[np.int64]) -> dict[int, int]:
        """Rows in the file of those sequence numbers that are there."""
        (column,) = (c for c in self._columns if c.node.feed.kind == "seq_num")
        stored = column.read()
        order = np.argsort(stored, kind="stable")
        found = np.searchsorted(stored, numbers, sorter=order)
        rows = order[np.minimum(found, len(stored) - 1)]
        hits = stored[rows] == numbers
        return {int(n): int(row) for n, row in zip(numbers[hits], rows[hits], strict=True)}

    def _is_fed(self, feed: Feed) -> bool:
        names = self._keys.names
        return (not feed.key or feed.key in names) and names.issuperset(feed.inputs)

    def _fit(self, index: int, block: _Block) -> Array:
        """Rows of a column; a column that can't hold them is replaced by one that can."""
        while True:
            column = self._columns[index]
            node = column.node
            try:
                return self._rows(node.feed, node, block)
            except MisfitError as misfit:
                dtype, shape = misfit.dtype, misfit.shape
                if column.rows and shape is not None and dtype is not None and shape != node.shape:
                    # Rows of another shape are there already.
                    both = max(len(shape), len(node.shape or ()))
                    dtype, shape = (dtype, None) if both == 1 else (None, ())
                wider = Column(node.stream, node.feed, dtype, shape, node.attributes)
                self._columns[index] = self._file.widen(column, wider, self._expected)

    def _rows(self, feed: Feed, node: Column, block: _Block) -> Array:
        if feed.kind == "data":
            values = block.values(feed.key)
            if self.stream.keys[feed.key].external:
                # An event whose frames were read in already has arrays here.
                values = [value if isinstance(value, str) else "" for value in values]
            return fit(values, node.dtype, node.shape)
        if feed.kind == "timestamps":
            return np.asarray(block.stamps(feed.key), dtype=np.float64) - self._began
        if feed.kind == "clock":
            return np.asarray(block.stamps(feed.key), dtype=np.float64)
        if feed.kind == "time":
            return block.times
        if feed.kind == "seq_num":
            return block.numbers
        assert feed.function is not None  # noqa: S101  (a derived feed has one)
        return feed.function(*(self._floats(key, block) for key in feed.inputs))

    def _floats(self, key: str, block: _Block) -> Floats:
        """Values of a scalar data key as numbers; NaN if they are none."""
        try:
            return fit(block.values(key), np.dtype(np.float64), ())
        except MisfitError:
            return np.full(len(block.numbers), np.nan)

    def _move_axis(self, path: str, axis: GridAxis, block: _Block) -> None:
        place = int(axis.order.places(block.numbers[:1] - 1)[0])
        index = np.unravel_index(place, axis.order.shape)[axis.dimension]
        shift = self._floats(axis.moved_by, block)[0] - axis.values[index]
        self._file.replace(path, axis.values + shift)

    def close(self) -> None:
        """Make all columns as long as the stream."""
        for column in self._columns:
            column.pad(self.rows)


class _Events:
    """What single events had in them, one after the other.

    In lists of plain values: tuples, or the documents themselves, would have Python's garbage
    collector look at them again and again.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.values: list[Any] = []
        self.stamps: list[float] = []


class _Block:
    """Some events, by column."""

    def __init__(
        self,
        began: float,
        numbers: Sequence[int],
        times: Sequence[float],
        values: Callable[[str], Sequence[Any]],
        stamps: Callable[[str], Sequence[float]],
    ) -> None:
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.times = np.asarray(times, dtype=np.float64) - began
        self.values = values
        self.stamps = stamps
