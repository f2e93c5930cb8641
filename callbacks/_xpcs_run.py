"""XPCS of one run: frames in, g2 as documents, pictures and a result file out."""

from __future__ import annotations

import collections
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamline.core.errors import (
    BeamlineError,
    ConfigurationError,
    CorrelationError,
    CorrelationOverflowError,
    StorageError,
)
from beamline.core.units import HC
from beamline.crystallography.geometry import Detector
from beamline.documents.consumers import Consumer
from beamline.xpcs.analysis import XPCSAnalysis
from beamline.xpcs.correlation import Correlation
from beamline.xpcs.diffusion import Diffusion
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.schemas import GeometryMetadata
from callbacks._continuity import Gap, Restart
from callbacks._frame_blocks import FrameBlock
from callbacks._image_stream import ImageStream, to_unit
from callbacks._series_feed import SeriesFeed
from callbacks._xpcs_documents import G2Run
from callbacks._xpcs_output import make_folder, picture_of, summary, write_result
from callbacks._xpcs_plot import PlotThread

__all__ = ["COUNTS", "XPCSRun", "XPCSSettings", "file_name"]

_log = logging.getLogger(__name__)

#: What is counted: frames correlated, frames missing, restarts of the detector, g2 documents,
#: partitions used.
COUNTS = ("frames", "missing", "restarts", "g2", "partitions")
_ENERGY_KEY = "mono_energy"


@dataclass(frozen=True)
class XPCSSettings:
    """Settings of `callbacks.xpcs.XPCSWriter`, which describes them."""

    directory: Path
    levels: int
    two_time: int
    interval: float
    plot_interval: float
    frame_time: float | None
    geometry: GeometryMetadata | None
    image_key: str | None
    frame_timeout: float
    legacy: bool


def file_name(start: Mapping[str, Any], part: int = 1) -> str:
    """Return the name of the result file of a run; `part` counts its partitions."""
    number, plan = int(start.get("scan_id") or 0), str(start.get("plan_name") or "run")
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in plan)
    tail = "" if part == 1 else f"_part{part}"
    return f"{number:05d}_{safe}_{str(start['uid'])[:8]}{tail}_results.hdf"


class XPCSRun:
    """Consumer of the documents of one run.

    Parameters
    ----------
    start
        The run's start document.
    settings
        How to analyse.
    partition
        Called with a function that returns the geometry of the detector: returns the bins, and a
        number that changes when others are wanted.
    consumers
        Called without arguments: returns consumers for the documents of g2.
    counts
        Counter to add to, beside the run's own.
    on_file, on_picture
        Called with every finished file, and every picture that was begun.
    on_error
        Called with the reason for whatever is not as it should be.
    on_diffusion
        Called with what was fitted.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        settings: XPCSSettings,
        partition: PartitionChooser,
        consumers: Callable[[], Iterable[Consumer]],
        counts: collections.Counter[str],
        on_file: Callable[[Path], object],
        on_picture: Callable[[Path], object],
        on_error: Callable[[BeamlineError], object],
        on_diffusion: Callable[[Diffusion], object],
    ) -> None:
        self._start, self._settings = start, settings
        self._uid = str(start["uid"])
        self._partition, self._consumers = partition, consumers
        self._counters = [counts, collections.Counter[str]()]
        self._on_file, self._on_picture, self._on_error = on_file, on_picture, on_error
        self._on_diffusion = on_diffusion
        self._feed = SeriesFeed(image_key=settings.image_key, timeout=settings.frame_timeout)
        self._analysis: XPCSAnalysis | None = None
        self._geometry: GeometryMetadata | None = None
        self._version = -1
        self._unfit = ""
        self._without_counts = 0
        self._unsound = False
        self._part = 0
        self._g2: G2Run | None = None
        self._plot: PlotThread | None = None
        self._newest = math.nan
        self._emitted = self._drawn = self._cost = 0.0
        self._last: tuple[tuple[int, int], Correlation] | None = None
        self._over = False

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document; at the stop document the result file is complete.

        Raises
        ------
        BeamlineError
            If the run can't be analysed, or its file not be written.
        """
        if self._over:
            return
        if name != "stop":
            try:
                self._feed.add(name, doc)
                self._advance()
            except Exception as error:
                if self._unsound:
                    self._over = True
                    self._give_up(error)
                raise
            return
        self._over = True
        try:
            self._advance(final=True)
            self._finish(doc)
        except Exception as error:
            self._give_up(error)
            raise

    def abandon(self) -> None:
        """Leave a run that has not stopped: what is known of it is written, labelled."""
        if self._over:
            return
        reason = "the consumer was closed before the run had stopped"
        self("stop", {"time": time.time(), "exit_status": "abort", "reason": reason})

    def _give_up(self, error: Exception) -> None:
        if self._plot is not None:
            self._plot.finish(None)
            self._plot = None
        if self._g2 is not None:
            self._g2.end("fail", str(error))
            self._g2 = None

    # ---- frames

    def _advance(self, *, final: bool = False) -> None:
        problem: Exception | None = None
        for item in self._feed.ready(final=final):
            self._look_for_partition()
            analysis = self._analysis
            assert analysis is not None  # noqa: S101  (made above)
            if isinstance(item, FrameBlock):
                self._take(analysis, item)
            elif isinstance(item, Gap):
                self._skip(analysis, item)
            else:
                self._restart(analysis, item)
            try:
                self._show_progress()
            except Exception as error:  # noqa: BLE001  (raised below, once all frames are taken)
                problem = error
        if problem is not None:
            raise problem
        self._show_progress()

    def _take(self, analysis: XPCSAnalysis, block: FrameBlock) -> None:
        try:
            analysis.take(block.frames, block.pixels, block.first)
        except CorrelationOverflowError:
            # What follows would be correlated with a part missing.
            self._unsound = True
            raise
        except CorrelationError as error:
            # Nothing of the block was taken; the frames without fault are.
            if len(block) > 1:
                middle = len(block) // 2
                self._take(analysis, block.part(0, middle))
                self._take(analysis, block.part(middle, len(block)))
                return
            self._leave_out(analysis, error)
            return
        self._count("frames", len(block))
        if block.times is not None:
            self._newest = float(block.times[-1])

    def _leave_out(self, analysis: XPCSAnalysis, error: CorrelationError) -> None:
        """Treat a frame that holds no counts as missing; the first is told."""
        place = analysis.n_frames + analysis.n_missing
        analysis.skip(1)
        self._count("missing")
        self._without_counts += 1
        if self._without_counts == 1:
            self._complain(
                CorrelationError(
                    f"run {self._uid[:8]}: its frame {place} is left out as if it were missing, "
                    f"and so is every other like it: {error}"
                )
            )

    def _skip(self, analysis: XPCSAnalysis, gap: Gap) -> None:
        analysis.skip(gap.number)
        self._count("missing", gap.number)
        reason = gap.reason or "the detector's frame numbers say so"
        self._complain(
            StorageError(
                f"run {self._uid[:8]}: {gap.number} frames are missing after frame "
                f"{analysis.n_frames + analysis.n_missing - gap.number}, g2 leaves out pairs with "
                f"them: {reason}"
            )
        )

    def _restart(self, analysis: XPCSAnalysis, restart: Restart) -> None:
        analysis.restart()
        self._count("restarts")
        _log.warning(
            "run %s: the detector began anew after %d frames (%s), frames before and after are not "
            "correlated.",
            self._uid[:8], analysis.n_frames, restart.reason,
        )  # fmt: skip

    # ---- partitions

    def _look_for_partition(self) -> None:
        """Begin, or begin anew with other bins."""
        try:
            partition, version = self._partition(self._found_geometry)
            if version == self._version:
                return
            self._check_shape(partition)
        except BeamlineError as error:
            if self._analysis is None:
                raise
            if str(error) != self._unfit:
                self._unfit = str(error)
                self._complain(
                    ConfigurationError(
                        f"run {self._uid[:8]}: the bins that were chosen after "
                        f"{self._analysis.n_frames} frames do not fit, it goes on with those it "
                        f"has: {error}"
                    )
                )
            return
        self._unfit = ""
        if self._analysis is not None:
            frames = self._analysis.n_frames
            reason = f"other bins were chosen after {frames} frames"
            self._write({"time": time.time(), "exit_status": "success", "reason": reason})
        self._version = version
        frame_time, exposure = self._times()
        self._analysis = XPCSAnalysis(
            partition,
            frame_time,
            exposure,
            levels=self._settings.levels,
            two_time=self._settings.two_time,
        )
        self._part += 1
        self._count("partitions")
        if self._g2 is None:
            self._g2 = G2Run(self._start, self._consumers())
        self._g2.begin_stream(partition, frame_time, exposure, self._settings.levels)
        self._last = None

    def _check_shape(self, partition: QPartition) -> None:
        stream = self._feed.stream
        if stream is not None and partition.shape != stream.shape:
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: its frames are of the shape "
                f"{stream.shape}, the bins of {partition.shape}; give bins of this detector."
            )

    def _found_geometry(self) -> GeometryMetadata:
        if self._settings.geometry is not None:
            return self._settings.geometry
        if self._geometry is None:
            self._geometry = self._geometry_of_stream()
        return self._geometry

    def _geometry_of_stream(self) -> GeometryMetadata:
        stream = self._feed.stream
        assert stream is not None  # noqa: S101  (frames have come)
        detector = stream.detector
        if not isinstance(detector, Detector):
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: {detector.rstrip('.')} (geometry=…)."
            )
        x, y = detector.pixel_m
        if not math.isclose(x, y, rel_tol=1e-6):
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: pixels of {x:g} m by {y:g} m are not "
                "square; give a partition with its geometry."
            )
        if detector.beam_centre_px is None:
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: its detector has several or rotated "
                "panels; give a partition with its geometry."
            )
        return GeometryMetadata(
            bcx=detector.beam_centre_px[0],
            bcy=detector.beam_centre_px[1],
            det_dist=1e3 * detector.distance_m,
            lambda_=HC / self._energy(stream),
            pix_dim=1e3 * x,
            shape=stream.shape,
        )

    def _energy(self, stream: ImageStream) -> float:
        read = self._feed.first.get(_ENERGY_KEY)
        known = stream.photon_energy if read is None else to_unit(*read, "eV", "eV")
        if known is None or not known > 0:
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: neither the detector's configuration "
                f"(photon_energy) nor the baseline ({_ENERGY_KEY}) has the photon energy; give "
                "geometry=…."
            )
        return known

    def _times(self) -> tuple[float, float]:
        """Return frame time and exposure, s."""
        given = self._start.get("xpcs")
        said: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        configured = self._configuration()
        exposure = _first(said.get("exposure"), configured.get("exposure"))
        period = configured.get("period")
        if period is not None and exposure is not None:
            period = max(period, exposure)
        frame_time = _first(self._settings.frame_time, said.get("frame_time"), period, exposure)
        if frame_time is None or not (math.isfinite(frame_time) and frame_time > 0):
            raise ConfigurationError(
                f"run {self._uid[:8]} can't be analysed: its frame time is {frame_time}, expected "
                "more than 0 s; give frame_time=…."
            )
        return frame_time, frame_time if exposure is None else exposure

    def _configuration(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for device in (self._feed.descriptor or {}).get("configuration", {}).values():
            for key, value in device.get("data", {}).items():
                plain = key.replace("_", "").lower()
                for name, endings in _ENDINGS.items():
                    if plain.endswith(endings) and isinstance(value, int | float):
                        found.setdefault(name, float(value))
        return found

    # ---- what comes out

    def _show_progress(self) -> None:
        """Emit g2 and draw it, if it is time to."""
        analysis = self._analysis
        now = time.monotonic()
        if (
            analysis is None
            or analysis.n_frames < 2
            or (self._last is not None and self._last[0] == _progress_of(analysis))
            or now - self._emitted < max(self._settings.interval, self._cost)
        ):
            return
        found = self._emit(analysis)
        self._emitted = time.monotonic()
        # Frames come first: at most half of the time is spent on looking at g2.
        self._cost = self._emitted - now
        if self._settings.plot_interval and now - self._drawn >= self._settings.plot_interval:
            self._drawn = now
            if self._plot is None:
                path = self._path().with_suffix(".png")
                make_folder(path.parent)
                self._plot = PlotThread(path)
                self._on_picture(path)
            self._plot.show(picture_of(analysis, found, self._title()))

    def _emit(self, analysis: XPCSAnalysis) -> Correlation:
        progress = _progress_of(analysis)
        if self._last is not None and self._last[0] == progress:
            return self._last[1]
        found = analysis.correlation()
        self._last = progress, found
        if self._g2 is not None:
            self._g2.add(found, analysis.n_missing, self._newest)
        self._count("g2")
        return found

    def _title(self) -> str:
        sample = self._start.get("sample")
        name = sample.get("name", "") if isinstance(sample, Mapping) else str(sample or "")
        stream = self._g2.stream if self._g2 is not None else "g2"
        return f"scan {self._start.get('scan_id', '?')} {name} · {stream}"

    def _finish(self, stop: Mapping[str, Any]) -> None:
        status = str(stop.get("exit_status", "success"))
        if self._analysis is not None:
            self._write(stop)
        elif self._feed.stream is None:
            _log.info("run %s has no frames: nothing to correlate", self._uid[:8])
        else:
            _log.warning("run %s: no frame came, there is no XPCS result", self._uid[:8])
        if self._g2 is not None:
            self._g2.end(status, str(stop.get("reason") or ""))
            self._g2 = None
        if self._without_counts > 1:
            _log.warning(
                "run %s: %d frames held no counts and were left out",
                self._uid[:8], self._without_counts,
            )  # fmt: skip
        totals = ", ".join(f"{self._counters[1][key]} {key}" for key in COUNTS)
        _log.info("run %s: %s", self._uid[:8], totals)

    def _write(self, stop: Mapping[str, Any]) -> None:
        """Write the file of the present partition, and its last document and picture."""
        analysis = self._analysis
        assert analysis is not None  # noqa: S101  (the callers look)
        if analysis.n_frames < 2:
            _log.warning(
                "run %s: %d frames have no pair, there is no XPCS result",
                self._uid[:8], analysis.n_frames,
            )  # fmt: skip
            if self._plot is not None:
                self._plot.finish(None)
                self._plot = None
            return
        found = self._emit(analysis)
        path = self._path()
        diffusion = write_result(
            path, analysis, found, self._start, stop,
            sources=tuple(self._feed.files), legacy=self._settings.legacy,
        )  # fmt: skip
        self._on_file(path)
        self._on_diffusion(diffusion)
        if self._g2 is not None:
            self._g2.add_diffusion(diffusion)
        _log.info("run %s: %s", self._uid[:8], summary(diffusion))
        if self._settings.plot_interval:
            if self._plot is None:
                self._plot = PlotThread(path.with_suffix(".png"))
                self._on_picture(self._plot.path)
            self._plot.finish(picture_of(analysis, found, self._title(), diffusion))
            self._plot = None

    def _path(self) -> Path:
        return self._settings.directory / file_name(self._start, max(self._part, 1))

    def _count(self, key: str, number: int = 1) -> None:
        for counter in self._counters:
            counter[key] += number

    def _complain(self, error: BeamlineError) -> None:
        _log.error("%s", error)
        self._on_error(error)


#: Geometry in; bins and their version out.
PartitionChooser = Callable[[Callable[[], GeometryMetadata]], tuple[QPartition, int]]

#: Endings of configuration keys (lower case, without underscores).
_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "exposure": ("exposure", "acquiretime", "exposuretime"),
    "period": ("period", "acquireperiod"),
}


def _progress_of(analysis: XPCSAnalysis) -> tuple[int, int]:
    return analysis.n_frames, analysis.n_missing


def _first(*values: Any) -> float | None:
    """Return the first number among values."""
    for value in values:
        if isinstance(value, int | float | np.number):
            return float(value)
    return None
