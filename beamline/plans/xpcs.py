"""Series of frames for X-ray photon correlation spectroscopy (XPCS)."""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import NamedMovable, Readable
from bluesky.utils import Msg

from beamline.plans._run import Plan, QuietStop, attempt, check_limits, guarded_run, move
from beamline.plans.arguments import (
    PlanArgumentError,
    as_number,
    check_common,
    check_motor,
    check_readable,
    devices_of,
    exposure_of,
)
from beamline.plans.metadata import beamline_of, run_engine_metadata, start_metadata
from beamline.plans.points import number_of_points

__all__ = ["xpcs_series"]

_log = logging.getLogger(__name__)

#: Seconds between two documents that refer to new frames.
_FLUSH_PERIOD = 0.2
#: Seconds that a stopped detector may take to come to rest, and how often to look.
_LANDING_TIME, _LANDING_LOOKS = 5.0, 100


def xpcs_series(
    area_detector: Readable[Any],
    num: int,
    *,
    exposure: float | None = None,
    period: float | None = None,
    attenuation: float | None = None,
    sparse: bool | None = None,
    repeats: int = 1,
    motors: Sequence[NamedMovable[float]] = (),
    positions: Sequence[Any] = (),
    dose_limit: float | None = None,
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Take series of frames without gaps, each in a run of its own.

    The detector runs freely through a series. Documents refer to its frames while they come, so
    that g2 is there during the run (`callbacks.xpcs`). The sample moves in the dark, between
    series.

    Parameters
    ----------
    area_detector
        The detector, for example ``bl.area_detector``.
    num
        Frames of a series.
    exposure
        Exposure time of a frame (s); default: as the detector is set.
    period
        Time from the start of a frame to that of the next (s), at least the exposure; default: as
        the detector is set, or the exposure if that is longer.
    attenuation
        Transmitted fraction of the beam, 0 to 1 (``bl.attenuator``); default: as it is set.
    sparse
        True: frames are lists of photons (events); False: pixels; default: as the detector is set.
    repeats
        Series at each position.
    motors
        What moves to `positions`.
    positions
        Places on the sample: numbers for one motor, or rows with one number for each.
    dose_limit
        Largest dose of a position, in seconds of the beam that is not attenuated: number of frames
        times period times attenuation, for all repeats.
    sample, use_shutter, baseline, md
        As for `linear_scan`.

    Returns
    -------
    tuple of str
        Uids of the runs.

    Raises
    ------
    PlanArgumentError
        For wrong arguments, which are named, and for a dose above the limit; nothing has happened.
    MotorLimitError
        If any position is outside the limits of its motor; nothing has moved.

    Notes
    -----
    The start documents say ``technique: XPCS`` and, in ``xpcs``, number, period and exposure of the
    frames, attenuation, dose, position and repeat.

    A series that takes longer than it should, because the detector has to wait, costs dose: once
    the time that series really took leaves too little for another, the remaining repeats at that
    position are left out, with a warning.

    A pause that can wait (Ctrl-C once) takes effect after the series; one that can't ends it,
    because a series can't go on from its middle.

    Examples
    --------
    >>> RE(xpcs_series(bl.area_detector, 2000, exposure=0.005, attenuation=0.1))
    >>> RE(xpcs_series(bl.area_detector, 2000, exposure=0.005, repeats=3, dose_limit=40,
    ...                motors=[bl.sample.x], positions=[0, 100, 200]))
    """
    check_readable("area_detector", area_detector)
    if not all(hasattr(area_detector, name) for name in ("prepare", "kickoff", "period")):
        raise PlanArgumentError(
            f"area_detector must take series of frames, such as bl.area_detector, found "
            f"{area_detector.name}."
        )
    num, repeats = number_of_points("num", num), number_of_points("repeats", repeats)
    places = _places(motors, positions)
    check_common(sample, md, baseline)
    beamline = beamline_of(area_detector, *motors)
    settings, series = _settings(
        area_detector, beamline, num, exposure, period, attenuation, sparse
    )
    limit = None if dose_limit is None else as_number("dose_limit", dose_limit)
    _check_dose(series, repeats, limit)
    arguments = {
        "area_detector": area_detector.name,
        "num": num,
        "exposure": exposure,
        "period": period,
        "attenuation": attenuation,
        "sparse": sparse,
        "repeats": repeats,
        "motors": [motor.name for motor in motors],
        "positions": [list(place) for place in places] if len(motors) else [],
        "dose_limit": limit,
    }
    uids = []
    for number, place in enumerate(places):
        if len(motors):
            yield from move(*(item for pair in zip(motors, place, strict=True) for item in pair))
        spent = 0.0
        for repeat in range(repeats):
            if limit is not None and spent + series.dose > limit * (1 + 1e-9):
                _log.warning(
                    "%d of %d repeats at position %d are left out: %.3g s of %.3g s are spent.",
                    repeats - repeat, repeats, number, spent, limit,
                )  # fmt: skip
                break
            known = yield from run_engine_metadata()
            metadata = start_metadata(
                known,
                plan_name="xpcs_series",
                plan_args=arguments,
                detectors=[area_detector],
                motors=list(motors),
                beamline=beamline,
                sample=sample,
            )
            metadata |= {
                "technique": "XPCS",
                "num_points": num,
                "num_intervals": num - 1,
                "hints": {"dimensions": [(["time"], "primary")]},
                "xpcs": {
                    "num_frames": num,
                    "frame_time": series.frame_time,
                    "exposure": series.exposure,
                    "attenuation": series.attenuation,
                    "sparse": series.sparse,
                    "dose": series.dose,
                    "position": dict(
                        zip((motor.name for motor in motors), map(float, place), strict=True)
                    ),
                    "position_number": number,
                    "num_positions": len(places),
                    "repeat": repeat,
                    "repeats": repeats,
                },
                **(md or {}),
            }
            took: list[float] = []
            uid = yield from guarded_run(
                partial(_series, area_detector, num, took.append),
                metadata,
                detectors=[area_detector],
                motors=[],
                beamline=beamline,
                use_shutter=use_shutter,
                baseline=baseline,
                settings=settings,
            )
            spent += max(series.dose, *(seconds * series.attenuation for seconds in took))
            uids.append(uid)
    return tuple(uids)


@dataclass(frozen=True)
class _Series:
    num: int
    exposure: float
    frame_time: float
    attenuation: float
    sparse: bool

    @property
    def dose(self) -> float:
        """Seconds of full beam on the sample."""
        return self.num * self.frame_time * self.attenuation


def _settings(
    detector: Any,
    beamline: Any | None,
    num: int,
    exposure: float | None,
    period: float | None,
    attenuation: float | None,
    sparse: bool | None,
) -> tuple[list[tuple[Any, float | str]], _Series]:
    """Return what to set for the run, and what a series is like then."""
    settings: list[tuple[Any, float | str]] = list(exposure_of([detector], exposure))
    seconds = (
        float(detector.exposure.get(use_monitor=False)) if exposure is None else float(exposure)
    )
    if period is None:
        between = max(seconds, float(detector.period.get(use_monitor=False)))
    else:
        between = as_number("period", period)
        if between < seconds:
            raise PlanArgumentError(
                f"period must be at least the exposure time, {seconds:g} s, found {period!r}."
            )
        settings.append((detector.period, between))
    if sparse is not None:
        if not isinstance(sparse, bool):
            raise PlanArgumentError(f"sparse must be True, False or None, found {sparse!r}.")
        if not hasattr(detector, "sparse"):
            raise PlanArgumentError(f"sparse is given, but {detector.name} has no such setting.")
        settings.append((detector.sparse, "Events" if sparse else "Dense"))
    has_events = sparse if sparse is not None else _text(detector, "sparse") == "Events"
    factor = getattr(getattr(beamline, "attenuator", None), "factor", None)
    if attenuation is not None:
        fraction = as_number("attenuation", attenuation)
        if not 0 < fraction <= 1:
            raise PlanArgumentError(
                "attenuation, the transmitted fraction of the beam, must be more than 0 and at "
                f"most 1, found {attenuation!r}."
            )
        if factor is None:
            raise PlanArgumentError(
                f"attenuation is {fraction:g}, but {detector.name} belongs to no beamline with an "
                "attenuator."
            )
        settings.append((factor, fraction))
    else:
        fraction = 1.0 if factor is None else float(factor.get())
    return settings, _Series(num, seconds, between, fraction, bool(has_events))


def _text(device: Any, name: str) -> str:
    signal = getattr(device, name, None)
    return "" if signal is None else str(signal.get())


def _check_dose(series: _Series, repeats: int, limit: float | None) -> None:
    if limit is None:
        return
    dose = series.dose * repeats
    if dose > limit * (1 + 1e-9):
        fitting = int(limit / series.dose * (1 + 1e-9)) if series.dose else repeats
        raise PlanArgumentError(
            f"dose_limit is {limit:g} s of the full beam, but {repeats} x {series.num} frames of "
            f"{series.frame_time:g} s at an attenuation of {series.attenuation:g} give {dose:g} s "
            f"at each position: take fewer frames, attenuate more, or at most {fitting} repeats."
        )


def _places(motors: Sequence[Any], positions: Sequence[Any]) -> list[tuple[float, ...]]:
    """Check motors and positions; return a tuple of numbers for each place."""
    motors = devices_of("motors", motors)
    for number, motor in enumerate(motors):
        check_motor(f"motors[{number}]", motor)
    rows = list(positions)
    if bool(motors) != bool(rows):
        raise PlanArgumentError(
            "motors and positions belong together: give both or neither, found "
            f"{len(motors)} motors and {len(rows)} positions."
        )
    if not motors:
        return [()]
    places: list[tuple[float, ...]] = []
    for number, row in enumerate(rows):
        values = list(row) if np.ndim(row) else [row]
        if len(values) != len(motors):
            raise PlanArgumentError(
                f"positions[{number}] must have {len(motors)} numbers, one for each motor, found "
                f"{row!r}."
            )
        places.append(tuple(as_number(f"positions[{number}]", value) for value in values))
    columns = np.array(places, dtype=np.float64).T
    check_limits(zip(motors, columns, strict=True))
    return places


def _series(detector: Any, num: int, took: Callable[[float], None]) -> Plan:
    yield from bps.prepare(detector, num, wait=True)
    yield from bps.declare_stream(detector, name="primary", collect=True)
    # From here on there is no way back: a pause that can't wait ends the run.
    yield from bps.clear_checkpoint()
    began = time.monotonic()
    yield from bpp.contingency_wrapper(_acquire(detector), except_plan=_keeper(detector))
    took(time.monotonic() - began)
    yield from bps.checkpoint()


def _acquire(detector: Any) -> Plan:
    group = f"series-{id(detector)}"
    yield from bps.kickoff(detector, wait=True)
    yield from bps.complete(detector, group=group, wait=False)
    done = False
    while not done:
        done = yield from bps.wait(group, timeout=_FLUSH_PERIOD, error_on_timeout=False)
        yield from _collect(detector)


def _collect(detector: Any) -> Plan:
    yield from bps.collect(detector, return_payload=False, name="primary")


def _keeper(detector: Any) -> Any:
    def keep_the_rest(error: Exception) -> Plan:  # noqa: ARG001
        """Refer to what was taken before a failure or an abort."""
        for step in (_end, _collect):
            problem = yield from attempt(lambda _, step=step: step(detector))  # type: ignore[misc]
            if problem is not None:
                _log.error("after a failure, frames may be missing: %s", problem)
                return

    return keep_the_rest


def _end(detector: Any) -> Generator[Msg, Any, None]:
    """Stop the detector and wait until it rests: all frames are in the file then."""
    yield Msg("stop", QuietStop(detector))
    for _ in range(_LANDING_LOOKS):
        if not detector.acquiring:
            return
        yield from bps.sleep(_LANDING_TIME / _LANDING_LOOKS)
