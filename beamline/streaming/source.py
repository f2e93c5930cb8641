"""event-model runs made of what comes from Q2, for journal, catalogue, live tables and others.

.. mermaid::

    flowchart LR
        batches["events of an item, all final"] --> primary["stream primary: every event"]
        file["a complete CXI file"] --> hits["stream hits: the frames, by reference"]
        primary & hits --> consumers["journal, then any others"]

One run per run that items name, from its first item until the writer ends.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import beamline
from beamline.core.metadata import PersistentMetadata
from beamline.crystallography.cxi_layout import DATA
from beamline.crystallography.geometry import Detector, crystfel_geometry
from beamline.documents.consumers import Consumer, ConsumerError, deliver
from beamline.streaming.batches import BatchHeader, ProcessedBatch
from beamline.streaming.run_metadata import RunMetadata

__all__ = ["HITS", "IMAGE", "PRIMARY", "Q2Source"]

_log = logging.getLogger(__name__)

#: Stream of all events, and that of those whose frames are in files.
PRIMARY, HITS = "primary", "hits"
#: Data key of the frames.
IMAGE = "detector_image"
_NUMBERS: Mapping[str, tuple[str, str]] = {
    "n_peaks": ("integer", ""),
    "photon_energy": ("number", "eV"),
    "event_id": ("integer", ""),
    "batch_id": ("string", ""),
}
_PRIMARY: Mapping[str, tuple[str, str]] = {
    **_NUMBERS,
    "hit": ("boolean", ""),
    "verdict": ("string", ""),
    "reason": ("string", ""),
    "hit_rate": ("number", ""),
}
#: Rows of a page at most: consumers hold one page in memory.
_PAGE = 1000


class Q2Source:
    """Compose the documents of inference runs and give them to consumers.

    A consumer that raises is named in the log and counted; the others and the files go on.

    Parameters
    ----------
    consumers
        Served in this order; the journal comes first.
    configuration
        Settings that go into every start document.
    detector
        Geometry.
    metadata
        Of the run management.
    numbering
        JSON file that keeps the number of the last run (scan_id).

    Attributes
    ----------
    errors : int
        Documents that a consumer refused.
    last_error : str
        What it said last.
    """

    def __init__(
        self,
        consumers: Iterable[Consumer],
        configuration: Mapping[str, Any],
        detector: Detector,
        metadata: RunMetadata,
        numbering: Path,
    ) -> None:
        self.errors = 0
        self.last_error = ""
        self._consumers = list(consumers)
        self._configuration = dict(configuration)
        self._detector, self._metadata = detector, metadata
        self._numbers = PersistentMetadata(numbering)
        self._runs: dict[str, _DocumentRun] = {}

    def events(self, batch: ProcessedBatch) -> None:
        """Tell of events whose fate is final, each once."""
        self._run(batch.header).events(batch)

    def file(
        self,
        path: Path,
        run: str,
        shape: Sequence[int],
        dtype: str,
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Tell of a complete CXI file.

        Parameters
        ----------
        path
            Of the file.
        run
            Run that its events belong to.
        shape, dtype
            Of its frames, (N, ss, fs).
        rows
            For each row its numbers: time (s), n_peaks, photon_energy, event_id, batch_id.
        """
        self._run(BatchHeader(run, "", {})).file(path, shape, dtype, rows)

    def finish(self, exit_status: str = "success", reason: str = "") -> None:
        """Stop every run."""
        for run in self._runs.values():
            run.stop(exit_status, reason)
        self._runs.clear()

    def _run(self, header: BatchHeader) -> _DocumentRun:
        run = self._runs.get(header.run)
        if run is None:
            run = self._runs[header.run] = _DocumentRun(self._emit, self._detector)
            run.start(self._start(header))
        return run

    def _start(self, header: BatchHeader) -> dict[str, Any]:
        number = int(self._numbers.get("scan_id", 0)) + 1
        self._numbers["scan_id"] = number
        known = self._metadata.of(header.run)
        return {
            "beamline_id": "Q2",
            "sample": {"name": header.told.get("sample", "")},
            **_clean(known),
            "scan_id": number,
            "plan_name": "q2_inference",
            # Bluesky's LiveTable ends with it.
            "plan_type": "stream",
            "plan_args": {},
            "motors": [],
            "detectors": [IMAGE],
            "hints": {"dimensions": [[["time"], PRIMARY]]},
            "versions": {"beamline-dataflow": beamline.__version__},
            "source_run": header.run,
            "source_metadata": _clean(header.told),
            "configuration": _clean(self._configuration),
            "geometry": crystfel_geometry(self._detector),
        }

    def _emit(self, name: str, doc: dict[str, Any], run: str) -> None:
        try:
            deliver(self._consumers, name, doc, run)
        except ConsumerError as error:
            self.errors += 1
            self.last_error = str(error)
            _log.error("%s", error)


class _DocumentRun:
    """One open run: its documents so far."""

    def __init__(self, emit: Any, detector: Detector) -> None:
        self._emit_to, self._detector = emit, detector
        self.uid = str(uuid.uuid4())
        self._scan: tuple[str, ...] | None = None
        self._descriptors: dict[str, str] = {}
        self._sequence: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._ignored: set[str] = set()

    def _emit(self, name: str, doc: dict[str, Any]) -> None:
        self._emit_to(name, doc, self.uid)

    def start(self, content: dict[str, Any]) -> None:
        self._emit("start", {**content, "uid": self.uid, "time": time.time()})

    def stop(self, exit_status: str, reason: str) -> None:
        totals = {name: self._totals[name] for name in ("hit", "not_hit", "refused", "files")}
        totals["truncated"] = self._totals["truncated"]
        self._emit(
            "stop",
            {
                "uid": str(uuid.uuid4()),
                "run_start": self.uid,
                "time": time.time(),
                "exit_status": exit_status,
                "reason": reason,
                "num_events": dict(self._sequence),
                "totals": totals,
            },
        )

    def events(self, batch: ProcessedBatch) -> None:
        if not batch.events:
            return
        if self._scan is None:
            self._scan = tuple(sorted(set(batch.events[0].scan) - set(_PRIMARY)))
        new = {name for event in batch.events for name in event.scan} - {*self._scan, *_PRIMARY}
        for name in sorted(new - self._ignored):
            _log.warning(
                "run %s: %s is not in its documents, because its first item did not have it; the "
                "CXI files have it",
                self.uid[:8],
                name,
            )
        self._ignored |= new
        columns: dict[str, list[Any]] = {key: [] for key in (*_PRIMARY, *self._scan)}
        times = []
        now = time.time()
        for event in batch.events:
            self._totals[event.verdict] += 1
            self._totals["truncated"] += event.truncated > 0
            seen = self._totals["hit"] + self._totals["not_hit"]
            row = {
                "n_peaks": event.n_peaks,
                "photon_energy": event.photon_energy_eV,
                "event_id": event.index,
                "batch_id": batch.header.batch_id,
                "hit": event.verdict == "hit",
                "verdict": event.verdict,
                "reason": event.reason,
                "hit_rate": self._totals["hit"] / seen if seen else 0.0,
            }
            for key, values in columns.items():
                values.append(row[key] if key in row else event.scan.get(key, math.nan))
            times.append(event.time_ns * 1e-9 if event.time_ns else now)
        units = batch.header.metadata.get("units")
        self._describe(PRIMARY, units if isinstance(units, Mapping) else {})
        self._page(PRIMARY, times, columns)

    def file(
        self, path: Path, shape: Sequence[int], dtype: str, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self._totals["files"] += 1
        stream = self._describe_hits(shape, dtype)
        descriptor = self._descriptors[stream]
        resource = str(uuid.uuid4())
        self._emit(
            "stream_resource",
            {
                "uid": resource,
                "run_start": self.uid,
                "data_key": IMAGE,
                "mimetype": "application/x-hdf5",
                "uri": f"file://localhost{path.absolute().as_posix()}",
                "parameters": {"dataset": DATA, "chunk_shape": [1, *shape[1:]]},
            },
        )
        first = self._sequence[HITS] + 1
        columns = {key: [row[key] for row in rows] for key in _NUMBERS}
        self._emit(
            "stream_datum",
            {
                "uid": f"{resource}/0",
                "stream_resource": resource,
                "descriptor": descriptor,
                "indices": {"start": 0, "stop": len(rows)},
                "seq_nums": {"start": first, "stop": first + len(rows)},
            },
        )
        self._page(HITS, [row["time"] for row in rows], columns, stream)

    def _page(
        self,
        name: str,
        times: Sequence[float],
        columns: Mapping[str, Sequence[Any]],
        stream: str = "",
    ) -> None:
        for start in range(0, len(times), _PAGE):
            part = slice(start, start + _PAGE)
            size = len(times[part])
            first = self._sequence[name] + 1
            self._emit(
                "event_page",
                {
                    "uid": [str(uuid.uuid4()) for _ in range(size)],
                    "descriptor": self._descriptors[stream or name],
                    "time": list(times[part]),
                    "seq_num": list(range(first, first + size)),
                    "data": {key: list(values[part]) for key, values in columns.items()},
                    "timestamps": {key: list(times[part]) for key in columns},
                    "filled": {},
                },
            )
            self._sequence[name] += size

    def _describe(self, name: str, units: Mapping[str, Any]) -> None:
        if name in self._descriptors:
            return
        keys = {key: _data_key(kind, unit) for key, (kind, unit) in _PRIMARY.items()}
        for key in self._scan or ():
            keys[key] = _data_key("number", str(units.get(key, "")))
        self._descriptor(
            name, name, {"peaks": keys}, {"peaks": {"fields": ["n_peaks", "hit_rate"]}}
        )

    def _describe_hits(self, shape: Sequence[int], dtype: str) -> str:
        stream = f"{HITS} {dtype} {list(shape[1:])}"
        if stream not in self._descriptors:
            image = {
                "source": "Q2",
                "dtype": "array",
                "dtype_numpy": dtype,
                "shape": [int(n) for n in shape[1:]],
                "external": "STREAM:",
            }
            keys = {key: _data_key(kind, unit) for key, (kind, unit) in _NUMBERS.items()}
            objects = {"detector": {IMAGE: image}, "peaks": keys}
            self._descriptor(HITS, stream, objects, {"peaks": {"fields": ["n_peaks"]}})
        return stream

    def _descriptor(
        self,
        name: str,
        stream: str,
        objects: Mapping[str, Mapping[str, Any]],
        hints: Mapping[str, Any],
    ) -> None:
        uid = self._descriptors[stream] = str(uuid.uuid4())
        now = time.time()
        configuration = {}
        if "detector" in objects:
            values = _geometry_numbers(self._detector)
            configuration["detector"] = {
                "data": {key: value for key, (value, _) in values.items()},
                "timestamps": dict.fromkeys(values, now),
                "data_keys": {key: _data_key("number", unit) for key, (_, unit) in values.items()},
            }
        self._emit(
            "descriptor",
            {
                "uid": uid,
                "run_start": self.uid,
                "time": now,
                "name": name,
                "data_keys": {k: v for keys in objects.values() for k, v in keys.items()},
                "object_keys": {owner: list(keys) for owner, keys in objects.items()},
                "configuration": configuration,
                "hints": dict(hints),
            },
        )


def _geometry_numbers(detector: Detector) -> dict[str, tuple[float, str]]:
    """Return what a flat detector's configuration says, as area detectors do."""
    numbers = {"detector_distance": (detector.distance_m * 1e3, "mm")}
    pixel = getattr(detector, "pixel_m", None)
    centre = getattr(detector, "beam_centre_px", None)
    if detector.stack_shape[0] == 1 and pixel is not None and centre is not None:
        for axis, size, middle in zip("xy", pixel, centre, strict=True):
            numbers[f"detector_pixel_{axis}"] = (float(size), "m")
            numbers[f"detector_beam_{axis}"] = (float(middle), "px")
    return numbers


def _data_key(kind: str, units: str) -> dict[str, Any]:
    types = {"integer": "<i8", "number": "<f8", "boolean": "|b1"}
    key: dict[str, Any] = {"source": "Q2", "dtype": kind, "shape": []}
    if kind in types:
        key["dtype_numpy"] = types[kind]
    if units:
        key["units"] = units
    return key


def _clean(value: Any) -> Any:
    """Make names that documents allow (no dots), and values that they can hold."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "_"): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
