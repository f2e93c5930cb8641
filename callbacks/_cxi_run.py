"""The CXI files of one run."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import beamline
from beamline.core.errors import BeamlineError, StorageError
from beamline.crystallography.cxi import (
    IN_PROGRESS,
    CXIEvent,
    CXIFile,
    EventRefusedError,
    FileTakenError,
)
from beamline.crystallography.cxi_layout import Compression
from beamline.crystallography.event_peaks import put_on_panels
from beamline.crystallography.geometry import Detector, write_geometry, write_list
from beamline.crystallography.peaks import Peaks
from callbacks._frame_feed import EventFrames, FrameFeed
from callbacks._image_stream import ImageStream, stored_type, to_unit
from callbacks._refusals import Refusals

__all__ = ["COUNTS", "CXIRun", "CXISettings", "Finder"]

_log = logging.getLogger(__name__)

#: Image (ss, fs) and good pixels in, peaks out, strongest first.
Finder = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_] | None], Peaks]

#: What is counted: frames looked at; of those written, without enough peaks, refused, with more
#: peaks than are stored; events whose frame did not come; peaks stored.
COUNTS = ("frames", "written", "not_hits", "refused", "truncated", "missing", "peaks")


@dataclass(frozen=True)
class CXISettings:
    """Settings of `callbacks.cxi.CXIWriter`, which describes them."""

    directory: Path
    finder: Finder
    geometry: Detector | None
    valid: npt.NDArray[np.bool_] | None
    prefix: str
    events_per_file: int
    min_num_peak: int
    max_num_peak: int
    image_key: str | None
    energy_key: str
    position_keys: tuple[str, str, str]
    compression: Compression
    frame_timeout: float


class CXIRun:
    """Consumer of the documents of one run.

    Parameters
    ----------
    start
        The run's start document.
    settings
        How to write.
    counts
        Counter to add to, beside the run's own.
    on_file
        Called with every finished file.
    on_error
        Called with the reason for every event that is not stored.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        settings: CXISettings,
        counts: collections.Counter[str],
        on_file: Callable[[Path], object],
        on_error: Callable[[BeamlineError], object],
    ) -> None:
        self._start = start
        self._uid = str(start["uid"])
        self._settings = settings
        self._counters = [counts, collections.Counter(), collections.Counter()]
        self._on_file, self._on_error = on_file, on_error
        self._feed = FrameFeed(
            image_key=settings.image_key,
            geometry=settings.geometry,
            timeout=settings.frame_timeout,
        )
        self._file: CXIFile | None = None
        self._files: list[Path] = []
        self._number = 0
        self._beside = Path()
        self._refusals = Refusals(self._uid)
        self._last_time = float(start["time"])

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document; at the stop document the file is complete.

        Raises
        ------
        StorageError
            If it can't be completed.
        """
        if name != "stop":
            self._feed.add(name, doc)
            self._advance()
            return
        for key, number in self._feed.sparse.items():
            _log.warning(
                "run %s: the %d frames of %s are events (photons), which are not searched for "
                "peaks: they are in no CXI file",
                self._uid[:8], number, key,
            )  # fmt: skip
        try:
            self._advance(final=True)
            self._finish(doc)
        except Exception as error:
            made = self._incomplete(str(error) or type(error).__name__)
            raise made from error

    def abandon(self) -> None:
        """Leave a run that has not stopped; what came before is brought to disk, if possible."""
        why = "the writer was closed before the run had stopped"
        try:
            self._advance()
            if self._file is not None:
                self._file.flush()
        except Exception as error:  # noqa: BLE001  (told with the rest)
            why = f"{why}; {error}"
        if self._file is not None or self._feed.waiting:
            self._incomplete(why)
        self._file = None

    def _incomplete(self, why: str) -> StorageError:
        """Say that the file of this run lacks something, and how it is made again."""
        missing = self._feed.waiting
        path = self._settings.directory
        if self._file is not None:
            missing += self._file.waiting
            path = self._file.growing
        short = self._uid[:8]
        made = StorageError(
            f"the CXI file of run {short} is incomplete, {missing} events are missing from {path} "
            f"({why.rstrip('.')}); 'beamline replay {short} --to cxi DIR' makes it again from the "
            "journal, where one is kept."
        )
        _log.error("%s", made)
        self._on_error(made)
        return made

    def _advance(self, *, final: bool = False) -> None:
        for item in self._feed.ready(final=final):
            if item.error is not None:
                self._lose("missing", item, item.error)
            for number, image in enumerate(_by_event(item.frames, item.stream.detector)):
                self._take(item, number, image)
        # Every event is with the file now: it keeps what can't be written and tries again.
        if self._file is not None:
            self._file.flush_if_due()

    def _finish(self, doc: Mapping[str, Any]) -> None:
        streams = self._feed.streams.values()
        usable = [stream for stream in streams if isinstance(stream.detector, Detector)]
        if self._file is None and not self._files and usable:
            self._open(usable[0], usable[0].dtype)
        self._close(doc.get("exit_status", "success"), doc.get("reason") or "", float(doc["time"]))
        self._refusals.summarize()
        if self._feed.streams:
            totals = ", ".join(f"{self._counters[1][key]} {key}" for key in COUNTS)
            _log.info("run %s: %s", self._uid[:8], totals)

    def _take(self, item: EventFrames, number: int, image: npt.NDArray[Any]) -> None:
        """Find the peaks of a frame and hand it to the file."""
        stream, settings = item.stream, self._settings
        self._count("frames")
        try:
            if isinstance(stream.detector, str):
                raise EventRefusedError(f"event {item.seq_num} is refused: {stream.detector}")
            image = image.astype(stored_type(image.dtype), copy=False)
            file = self._open(stream, image.dtype)
            event = CXIEvent(
                image=image,
                peaks=self._find_peaks(item, image),
                photon_energy_eV=self._feed.energy(item, number, settings.energy_key),
                time_ns=round(self._time(item, number) * 1e9),
                run_uid=self._uid,
                batch_id=stream.name,
                event_id=item.seq_num,
                distance_m=stream.detector.distance_m,
                frame_index=item.row if item.row < 0 else item.row + number,
                translation_m=self._translation(item),
                scan={key: found[0] for key in stream.scan_units if (found := item.reading(key))},
            )
            file.check(event)
        except EventRefusedError as error:
            self._lose("refused", item, error)
            return
        if len(event.peaks) < settings.min_num_peak:
            self._count("not_hits")
            return
        if len(event.peaks) > settings.max_num_peak:
            self._count("truncated")
            _log.log(
                logging.WARNING if self._counters[1]["truncated"] == 1 else logging.DEBUG,
                "run %s, event %d: the strongest %d of %d peaks are stored",
                self._uid[:8],
                item.seq_num,
                settings.max_num_peak,
                len(event.peaks),
            )
        if len(file) >= settings.events_per_file:
            self._close("continued", "the run goes on in another file", self._last_time)
            file = self._open(stream, image.dtype)
        file.append(event)
        self._last_time = event.time_ns * 1e-9
        self._count("written")
        self._count("peaks", min(len(event.peaks), settings.max_num_peak))

    def _find_peaks(self, item: EventFrames, image: npt.NDArray[Any]) -> Peaks:
        # The finder may be anybody's, a neural network too: whatever it does with one frame, the
        # next one is looked at.
        valid, finder, detector = self._settings.valid, self._settings.finder, item.stream.detector
        try:
            if isinstance(detector, Detector) and detector.stack_shape[0] > 1:
                stack = image if image.ndim == 3 else detector.to_stack(image)
                good = detector.to_stack((detector.mask() == 0) & (valid is None or valid))
                return put_on_panels([finder(*pair) for pair in zip(stack, good, strict=True)])
            return finder(image, valid)
        except Exception as error:
            raise EventRefusedError(
                f"event {item.seq_num} of {item.stream.name} is refused: the peak finder failed on "
                f"a frame of {image.dtype} {image.shape} with {type(error).__name__}: {error}"
            ) from error

    def _time(self, item: EventFrames, number: int) -> float:
        if item.event is not None:
            return float(item.event["time"])
        stored = item.stored("NDArrayTimeStamp", number)
        return self._last_time if stored is None else stored

    def _translation(self, item: EventFrames) -> tuple[float, float, float]:
        found = [
            item.reading(key) or self._feed.first.get(key) for key in self._settings.position_keys
        ]
        x, y, z = (math.nan if it is None else to_unit(*it, "m", "um") for it in found)
        return x, y, z

    def _open(self, stream: ImageStream, dtype: np.dtype[Any]) -> CXIFile:
        """Return the file in progress, or begin the next one."""
        if self._file is not None:
            return self._file
        assert isinstance(stream.detector, Detector)  # noqa: S101  (the callers see to it)
        settings = self._settings
        settings.directory.mkdir(parents=True, exist_ok=True)
        moment = datetime.fromtimestamp(float(self._start["time"]), tz=UTC)
        stem = settings.directory / f"{settings.prefix}_{moment:%Y%m%d_%H%M%S}"
        mask = None if settings.valid is None else (~settings.valid).astype(np.uint32)
        while self._file is None:
            self._number += 1
            path = stem.with_name(f"{stem.name}_chunk{self._number:04d}.cxi")
            try:
                self._file = CXIFile(
                    path,
                    detector=stream.detector,
                    dtype=dtype,
                    max_num_peak=settings.max_num_peak,
                    mask=mask,
                    entry=self._entry(),
                    scan_units=stream.scan_units,
                    compression=settings.compression,
                )
            except FileTakenError:
                # Another run that started within the same second: its name differs by the number.
                if _run_of(path) == self._uid:
                    raise
        if not self._beside.name:
            self._beside = stem if self._number == 1 else path.with_suffix("")
            masked = settings.valid is not None or bool(stream.detector.mask().any())
            write_geometry(self._with(".geom"), stream.detector, mask=masked)
        return self._file

    def _close(self, exit_status: str, reason: str, moment: float) -> None:
        if self._file is None:
            return
        counts = self._counters[2]
        path = self._file.close(
            end_time=_iso(moment),
            exit_status=exit_status,
            reason=reason,
            counts={key: counts[key] for key in COUNTS},
            lost=self._refusals.lost,
        )
        self._file = None
        counts.clear()
        self._refusals.lost.clear()
        self._files.append(path)
        write_list(self._with(".lst"), self._files)
        self._on_file(path)

    def _with(self, suffix: str) -> Path:
        return self._beside.with_name(self._beside.name + suffix)

    def _entry(self) -> dict[str, str | int | float]:
        start, settings = self._start, self._settings
        sample = _mapping(start.get("sample"))
        instrument = _mapping(start.get("instrument"))
        source = _mapping(instrument.get("source"))
        plan, name = str(start.get("plan_name", "")), str(sample.get("name", ""))
        return {
            "experiment_identifier": self._uid,
            "title": f"{plan} of {name}" if plan and name else plan or name,
            "start_time": _iso(float(start["time"])),
            "program_name": "beamline-dataflow",
            "plan_name": plan,
            "scan_id": int(start.get("scan_id") or 0),
            "sample_1/name": name,
            "sample_1/formula": str(sample.get("formula") or ""),
            "instrument_1/name": str(instrument.get("name") or start.get("beamline_id") or ""),
            "instrument_1/source_1/name": str(source.get("name") or ""),
            "instrument_1/source_1/type": str(source.get("type") or ""),
            "instrument_1/source_1/probe": str(source.get("probe") or "x-ray"),
            "process_1/program": "beamline-dataflow",
            "process_1/version": beamline.__version__,
            "process_1/peak_finder": _describe(settings.finder),
            "process_1/min_num_peak": settings.min_num_peak,
            "process_1/max_num_peak": settings.max_num_peak,
        }

    def _count(self, key: str, number: int = 1) -> None:
        for counter in self._counters:
            counter[key] += number

    def _lose(self, key: str, item: EventFrames, error: BeamlineError) -> None:
        self._count(key)
        self._refusals.add(item.seq_num, error)
        self._on_error(error)


def _mapping(value: Any) -> Mapping[str, Any]:
    """Metadata that is a mapping by convention; a plain value is taken for its name."""
    if isinstance(value, Mapping):
        return value
    return {} if value is None else {"name": value}


def _describe(finder: Finder) -> str:
    """Name a finder and its settings, as JSON."""
    return json.dumps(_plain(finder), sort_keys=True)


def _plain(thing: Any) -> Any:
    if not dataclasses.is_dataclass(thing):
        known = isinstance(thing, str | int | float | bool | None)
        return thing if known else getattr(thing, "__qualname__", type(thing).__qualname__)
    fields = {field.name: _plain(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
    return {"name": type(thing).__qualname__, **fields}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, tz=UTC).isoformat()


def _run_of(path: Path) -> str | None:
    """Return the uid of the run that a CXI file, complete or in progress, belongs to."""
    for candidate in (path, path.with_name(path.name + IN_PROGRESS)):
        try:
            with h5py.File(candidate, "r", locking=False) as file:
                return str(file["/entry_1/experiment_identifier"].asstr()[()])
        except (OSError, KeyError, RuntimeError):
            continue
    return None


def _by_event(frames: npt.NDArray[Any], detector: Detector | str) -> npt.NDArray[Any]:
    """Let the panels of a stack stay together, where the geometry has stacks like these."""
    if isinstance(detector, Detector):
        panels, *shape = detector.stack_shape
        if panels > 1 and frames.shape[1:] == tuple(shape) and len(frames) % panels == 0:
            return frames.reshape(-1, panels, *shape)
    return frames
