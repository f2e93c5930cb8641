"""Where on a sample the hits are: a map over two motors, as picture and as NXdata.

It takes the documents of an inference run (those of `cxi-writer`, or from its journal), whose
events carry the position of each frame; or those of any other run whose events have the two motors
and a number of peaks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import beamline
from beamline.core.errors import StorageError
from beamline.documents.consumers import Consumer
from beamline.documents.router import PerRunRouter

__all__ = ["HitMap", "MapData", "make_map"]

_log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

#: Positions on one line of a grid differ by less than this part of its step.
_SAME_LINE = 0.5
_PANEL_INCHES = 4.0


@dataclass(frozen=True)
class MapData:
    """Hits over a grid of positions.

    Attributes
    ----------
    x, y
        Positions of columns (nx,) and rows (ny,), rising.
    frames
        Frames looked at in each cell, int64 (ny, nx).
    hit_fraction
        Hits per frame, (ny, nx); NaN where there was no frame.
    n_peaks
        Mean number of peaks per frame, (ny, nx); NaN likewise.
    """

    x: Array
    y: Array
    frames: npt.NDArray[np.int64]
    hit_fraction: Array
    n_peaks: Array


def make_map(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    n_peaks: npt.ArrayLike,
    hit: npt.ArrayLike,
    *,
    columns: npt.ArrayLike | None = None,
    rows: npt.ArrayLike | None = None,
) -> MapData:
    """Put events onto a grid.

    Parameters
    ----------
    x, y, n_peaks, hit
        Per event, (n,); positions that are not finite are left out.
    columns, rows
        Nominal positions of the grid; by default lines are told apart by their distance.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[good], ys[good]
    lines_x = _lines(xs) if columns is None else np.sort(np.asarray(columns, float))
    lines_y = _lines(ys) if rows is None else np.sort(np.asarray(rows, float))
    shape = (len(lines_y), len(lines_x))
    flat = _nearest(ys, lines_y) * len(lines_x) + _nearest(xs, lines_x)
    frames = np.bincount(flat, minlength=shape[0] * shape[1]).astype(np.int64)

    def mean(values: npt.ArrayLike) -> Array:
        weights = np.asarray(values, float)[good]
        with np.errstate(invalid="ignore"):
            sums = np.bincount(flat, weights, minlength=frames.size)
            found: Array = (sums / np.where(frames > 0, frames, np.nan)).reshape(shape)
        return found

    return MapData(lines_x, lines_y, frames.reshape(shape), mean(hit), mean(n_peaks))


class HitMap:
    """Document consumer that draws a map of the hits of every run.

    A run whose events lack the motors or ``n_peaks`` gives no map.

    Parameters
    ----------
    directory
        Made if it is missing.
    x, y
        Data keys of the positions: columns and rows of the map.
    min_num_peak
        Peaks from which a frame is a hit, for events that do not say so themselves (``hit``).
    prefix
        Begins the names of the files, ``{prefix}_{scan number}_{uid}.png`` and ``.h5``.

    Attributes
    ----------
    files : list[Path]
        Finished files.
    maps : dict[str, MapData]
        The map of each run by its uid; the last 100.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        x: str = "sample_x",
        y: str = "sample_y",
        min_num_peak: int = 10,
        prefix: str = "hit_map",
    ) -> None:
        self.directory = Path(directory)
        self.x, self.y = x, y
        self.min_num_peak, self.prefix = min_num_peak, prefix
        self.files: list[Path] = []
        self.maps: dict[str, MapData] = {}
        self._router = PerRunRouter([self._new_run])

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document; at the stop document the map is written.

        Raises
        ------
        ConsumerError
            If it can't be.
        """
        self._router(name, doc)

    def _new_run(self, start: Mapping[str, Any]) -> Iterable[Consumer]:
        yield _HitMapRun(start, self)

    def keep(self, uid: str, made: MapData, files: Iterable[Path]) -> None:
        """Take note of a finished map."""
        self.maps[uid] = made
        while len(self.maps) > 100:
            del self.maps[next(iter(self.maps))]
        self.files += files


class _HitMapRun:
    def __init__(self, start: Mapping[str, Any], owner: HitMap) -> None:
        self._start, self._owner = start, owner
        self._units: dict[str, str] = {}
        self._streams: set[str] = set()
        self._rows: list[tuple[float, float, float, float, float]] = []

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "descriptor":
            keys = doc["data_keys"]
            if {self._owner.x, self._owner.y, "n_peaks"} <= set(keys):
                self._streams.add(doc["uid"])
                for key in (self._owner.x, self._owner.y):
                    self._units[key] = keys[key].get("units") or ""
        elif name == "event" and doc["descriptor"] in self._streams:
            self._take(doc["data"], doc["seq_num"])
        elif name == "event_page" and doc["descriptor"] in self._streams:
            for data, number in _rows_of(doc):
                self._take(data, number)
        elif name == "stop":
            self._finish(doc)

    def _take(self, data: Mapping[str, Any], number: int) -> None:
        # Of these nobody knows whether they are hits.
        if data.get("verdict") in ("refused", "lost"):
            return
        peaks = float(data["n_peaks"])
        hit = float(data.get("hit", peaks >= self._owner.min_num_peak))
        # The number of the event in the run that took the frame, where it is known.
        seq_num = float(data.get("seq_num", number))
        self._rows.append(
            (float(data[self._owner.x]), float(data[self._owner.y]), peaks, hit, seq_num)
        )

    def _finish(self, doc: Mapping[str, Any]) -> None:
        if not self._rows:
            _log.info("run %s has no frames with a position: no map of it", self._start["uid"][:8])
            return
        owner, table = self._owner, np.array(self._rows)
        made = make_map(*table.T[:4], **self._grid())
        number = self._about("scan") or str(self._start.get("scan_id", 0))
        stem = f"{owner.prefix}_{number}_{self._start['uid'][:8]}"
        try:
            owner.directory.mkdir(parents=True, exist_ok=True)
            files = [owner.directory / f"{stem}{suffix}" for suffix in (".h5", ".png")]
            self._write(files[0], made, table, doc)
            self._draw(files[1], made, table)
        except OSError as error:
            raise StorageError(
                f"the hit map of run {self._start['uid'][:8]} can't be written into "
                f"{owner.directory}: {error.strerror or error}."
            ) from None
        owner.keep(self._start["uid"], made, files)

    def _about(self, key: str) -> str:
        told = self._start.get("source_metadata")
        return str(told.get(key, "")) if isinstance(told, Mapping) else ""

    def _grid(self) -> dict[str, Array]:
        """Nominal positions, where the run that took the frames was a mesh over these motors."""
        try:
            known = json.loads(self._about("grid") or "null") or self._start
            motors, shape, extents = (known[key] for key in ("motors", "shape", "extents"))
            lines = {
                motor: np.linspace(low, high, int(count))
                for motor, count, (low, high) in zip(motors, shape, extents, strict=True)
            }
            return {"columns": lines[self._owner.x], "rows": lines[self._owner.y]}
        except (KeyError, TypeError, ValueError):
            return {}

    def _title(self, table: Array) -> str:
        sample = self._about("sample")
        known = self._start.get("sample")
        if not sample and isinstance(known, Mapping):
            sample = str(known.get("name", ""))
        number = self._about("scan") or self._start.get("scan_id", "")
        hits, frames = int(table[:, 3].sum()), len(table)
        return (
            f"scan {number}{f' of {sample}' if sample else ''}: {hits} hits in {frames} frames "
            f"({100 * hits / frames:.1f} %)"
        )

    def _write(self, path: Path, made: MapData, table: Array, stop: Mapping[str, Any]) -> None:
        owner = self._owner
        part = path.with_name(path.name + ".part")
        with h5py.File(part, "w") as file:
            file.attrs.update({"default": "entry", "NeXus_release": "v2024.02"})
            entry = file.create_group("entry")
            entry.attrs.update({"NX_class": "NXentry", "default": "hit_map"})
            entry["title"] = self._title(table)
            entry["entry_identifier"] = str(self._start["uid"])
            entry["run_uid"] = str(self._start.get("source_run") or self._start["uid"])
            entry["exit_status"] = str(stop.get("exit_status", ""))
            entry["program_name"] = "beamline-dataflow"
            entry["program_name"].attrs["version"] = beamline.__version__
            data = entry.create_group("hit_map")
            data.attrs.update(
                {
                    "NX_class": "NXdata",
                    "signal": "hit_fraction",
                    "auxiliary_signals": ["n_peaks", "frames"],
                    "axes": [owner.y, owner.x],
                    f"{owner.y}_indices": 0,
                    f"{owner.x}_indices": 1,
                    "title": self._title(table),
                }
            )
            for name, values, unit, long_name in (
                ("hit_fraction", made.hit_fraction, "", "hits per frame"),
                ("n_peaks", made.n_peaks, "", "mean number of peaks per frame"),
                ("frames", made.frames, "", "frames"),
                (owner.x, made.x, self._units[owner.x], self._label(owner.x)),
                (owner.y, made.y, self._units[owner.y], self._label(owner.y)),
            ):
                data[name] = values
                data[name].attrs.update({"units": unit, "long_name": long_name})
            events = entry.create_group("events")
            events.attrs.update(
                {"NX_class": "NXdata", "signal": "n_peaks", "axes": ["event"], "event_indices": 0}
            )
            events["event"] = table[:, 4].astype(np.int64)
            events["n_peaks"] = table[:, 2].astype(np.int64)
            events["hit"] = table[:, 3].astype(np.uint8)
            for column, key in enumerate((owner.x, owner.y)):
                events[key] = table[:, column]
                events[key].attrs["units"] = self._units[key]
        part.replace(path)

    def _label(self, key: str) -> str:
        unit = {"um": "µm", "deg": "°"}.get(self._units[key], self._units[key])
        return f"{key} ({unit})" if unit else key

    def _draw(self, path: Path, made: MapData, table: Array) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        x, y = _edges(made.x), _edges(made.y)
        same_unit = self._units[self._owner.x] == self._units[self._owner.y]
        aspect = (y[-1] - y[0]) / (x[-1] - x[0]) if same_unit else 0.8
        # As high as the maps need: a colour bar takes all of it.
        height = _PANEL_INCHES * min(max(aspect, 0.3), 2.0) + 1.2
        figure = Figure(figsize=(2 * _PANEL_INCHES + 3.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(self._title(table))
        panels = (
            (made.hit_fraction, "hits per frame", "viridis", 1.0),
            (made.n_peaks, "mean number of peaks per frame", "magma", None),
        )
        for axes, (values, label, colours, top) in zip(
            figure.subplots(1, 2, sharex=True, sharey=True), panels, strict=True
        ):
            axes.set_facecolor("0.85")
            drawn = axes.pcolormesh(
                x, y, np.ma.masked_invalid(values), cmap=colours, vmin=0.0, vmax=top
            )
            figure.colorbar(drawn, ax=axes, label=label)
            axes.set_xlabel(self._label(self._owner.x))
            axes.set_ylabel(self._label(self._owner.y))
            if same_unit:
                axes.set_aspect("equal")
        part = path.with_name(path.name + ".part")
        figure.savefig(part, format="png", dpi=150)
        part.replace(path)


def _rows_of(page: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    data = page["data"]
    for i, number in enumerate(page["seq_num"]):
        yield {key: values[i] for key, values in data.items()}, int(number)


def _lines(positions: Array) -> Array:
    """Return the lines of a grid that positions scatter around."""
    values = np.sort(positions)
    if values.size < 2:
        return values
    gaps = np.diff(values)
    widest = gaps.max()
    breaks = np.flatnonzero(gaps > max(_SAME_LINE * widest, 1e-12)) + 1
    return np.array([part.mean() for part in np.split(values, breaks)])


def _nearest(values: Array, lines: Array) -> npt.NDArray[np.int64]:
    middles = 0.5 * (lines[1:] + lines[:-1])
    return np.searchsorted(middles, values).astype(np.int64)


def _edges(centres: Array) -> Array:
    """Return the borders between pixels with these centres."""
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = 0.5 * (centres[1:] + centres[:-1])
    first, last = centres[0] - (middles[0] - centres[0]), centres[-1] + (centres[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])
