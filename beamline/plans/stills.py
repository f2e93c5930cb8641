"""Frames of the area detector at rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from bluesky.protocols import Readable

from beamline.plans._run import Plan, checkpoint, guarded_run, take_point
from beamline.plans.arguments import check_common, check_readable, devices_of, exposure_of
from beamline.plans.metadata import beamline_of, run_engine_metadata, start_metadata
from beamline.plans.points import number_of_points

__all__ = ["stills"]


def stills(
    area_detector: Readable[Any],
    num: int,
    *,
    exposure: float | None = None,
    detectors: Sequence[Readable[Any]] = (),
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Take frames, one per event, and read the photon energy with each.

    Parameters
    ----------
    area_detector
        The detector, for example ``bl.area_detector``.
    num
        Number of frames, at least 1.
    exposure
        Exposure time of a frame (s); default: as the detector is set.
    detectors
        Further devices to trigger and read with every frame.
    sample, use_shutter, baseline, md
        As for `linear_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    PlanArgumentError
        For wrong arguments, which are named; nothing has happened.

    Examples
    --------
    >>> RE(stills(bl.area_detector, 20, exposure=0.1))
    """
    check_readable("area_detector", area_detector)
    detectors = [d for d in devices_of("detectors", detectors) if d is not area_detector]
    num = number_of_points("num", num)
    check_common(sample, md, baseline)
    triggered = [area_detector, *detectors]
    settings = exposure_of(triggered, exposure)
    beamline = beamline_of(area_detector)
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="stills",
        plan_args={
            "area_detector": area_detector.name,
            "num": num,
            "exposure": exposure,
            "detectors": [device.name for device in detectors],
        },
        detectors=triggered,
        motors=[],
        beamline=beamline,
        sample=sample,
    )
    metadata |= {
        "num_points": num,
        "num_intervals": num - 1,
        "hints": {"dimensions": [(["time"], "primary")]},
        **(md or {}),
    }
    readers = [beamline.mono.energy] if beamline is not None else []

    def body() -> Plan:
        for _ in range(num):
            yield from checkpoint()
            yield from take_point(triggered, readers)

    return (
        yield from guarded_run(
            body,
            metadata,
            detectors=triggered,
            motors=[],
            beamline=beamline,
            use_shutter=use_shutter,
            baseline=baseline,
            settings=settings,
        )
    )
