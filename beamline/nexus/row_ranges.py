"""Which rows of which files belong to the events of a stream, in the order of the events."""

from __future__ import annotations

from beamline.nexus.tree import FrameRange

__all__ = ["RowRanges"]


class RowRanges:
    """Rows of data sets in other files; those of a point that is taken again replace the first.

    Ranges that follow each other are merged, so that memory does not grow with an ordinary run.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, FrameRange]] = []
        self._end = 0

    def add(self, rows: FrameRange, place: int | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        rows
            Rows of one data set; all of it if `stop` is None.
        place
            Number of the first of them among all rows of the stream, from 0. Default: behind the
            others.
        """
        place = self._end if place is None else place
        length = _length(rows)
        if place < self._end:
            self._cut_out(place, place + length)
        self._parts.append((place, rows))
        if place < self._end:
            self._parts.sort(key=lambda part: part[0])
        else:
            self._parts[-2:] = _merged(self._parts[-2:])
        self._end = max(self._end, place + length)

    def ranges(self) -> tuple[FrameRange, ...]:
        """Return the rows in order, in as few ranges as possible."""
        self._parts = _merged(self._parts)
        return tuple(rows for _, rows in self._parts)

    def _cut_out(self, first: int, last: int) -> None:
        kept = []
        for place, rows in self._parts:
            stop = place + _length(rows)
            if stop <= first or place >= last:
                kept.append((place, rows))
                continue
            start = rows.start - place
            if place < first:
                before = FrameRange(rows.file, rows.dataset, rows.start, start + first)
                kept.append((place, before))
            if stop > last:
                kept.append((last, FrameRange(rows.file, rows.dataset, start + last, rows.stop)))
        self._parts = kept


def _length(rows: FrameRange) -> int:
    return 0 if rows.stop is None else rows.stop - rows.start


def _merged(parts: list[tuple[int, FrameRange]]) -> list[tuple[int, FrameRange]]:
    merged: list[tuple[int, FrameRange]] = []
    for place, rows in parts:
        if merged:
            before, last = merged[-1]
            same = (last.file, last.dataset, last.stop) == (rows.file, rows.dataset, rows.start)
            if same and place == before + _length(last):
                merged[-1] = before, FrameRange(last.file, last.dataset, last.start, rows.stop)
                continue
        merged.append((place, rows))
    return merged
