"""X-ray absorption spectra: energy scans around an absorption edge."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from bluesky.protocols import Readable

from beamline.plans._run import Plan, check_limits, checkpoint, guarded_run, move, take_point
from beamline.plans.arguments import (
    PlanArgumentError,
    as_number,
    check_common,
    check_exposures,
    devices_of,
    exposure_of,
)
from beamline.plans.metadata import beamline_of, run_engine_metadata, start_metadata
from beamline.plans.points import DEFAULT_REGIONS, Region, as_region, xafs_points

__all__ = ["Spectrometer", "absorption_edge", "xafs_scan"]

#: Largest distance (eV) at which a given edge energy still names a tabulated edge.
_NAMING_DISTANCE = 50.0


class Spectrometer(Protocol):
    """What `xafs_scan` needs of a beamline."""

    @property
    def mono(self) -> Any:
        """The monochromator, with ``energy`` to move (eV)."""

    @property
    def counters(self) -> Any:
        """The counters of incident and transmitted beam."""


def xafs_scan(
    beamline: Spectrometer,
    element: str | None = None,
    edge: str | None = None,
    *,
    e0: float | None = None,
    regions: Sequence[Region | Sequence[Any] | Mapping[str, Any]] | None = None,
    dwell: float | None = None,
    mode: Literal["transmission", "fluorescence"] = "transmission",
    detectors: Sequence[Readable[Any]] | None = None,
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Measure the absorption of the sample over an absorption edge.

    Parameters
    ----------
    beamline
        The `devices.Beamline`: its ``mono.energy`` moves, its ``counters`` count.
    element
        Symbol of the absorbing element. Without it `e0` is needed, and element and edge are those
        whose tabulated edge is nearest.
    edge
        ``"K"``, ``"L3"``, …; by default K, or L3 where the monochromator doesn't reach K.
    e0
        Edge energy (eV); by default the tabulated one (xraydb).
    regions
        ``(start, stop, step[, dwell][, unit])`` each, relative to `e0`, in order of energy. The
        unit is ``"eV"`` or ``"k"`` (Å⁻¹). By default -200 to 30 eV, then to k = 12 Å⁻¹.
    dwell
        Counting time (s) where a region states none; by default what the counters are set to.
    mode
        What the spectrum is meant to be evaluated from.
    detectors
        Instead of the beamline's counters.
    sample, use_shutter, baseline, md
        As for `linear_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    PlanArgumentError
        For an unknown element or edge, or a wrong region, which is named.
    MotorLimitError
        If any energy is outside the monochromator's limits; nothing has moved.

    Examples
    --------
    >>> RE(xafs_scan(bl, "Cu"))
    >>> RE(xafs_scan(bl, "Fe", regions=[(-100, -20, 10, 0.1), (-20, 50, 0.5, 0.5),
    ...                                 (3.6, 14, 0.05, 1.0, "k")]))
    """
    motor = getattr(getattr(beamline, "mono", None), "energy", None)
    if motor is None or (detectors is None and not hasattr(beamline, "counters")):
        raise PlanArgumentError(
            "beamline must be the whole beamline, with mono.energy and counters, found "
            f"{getattr(beamline, 'name', repr(beamline))}."
        )
    check_common(sample, md, baseline)
    if mode not in ("transmission", "fluorescence"):
        raise PlanArgumentError(f'mode must be "transmission" or "fluorescence", found {mode!r}.')
    element, edge, e0 = absorption_edge(element, edge, e0, getattr(motor, "limits", None))
    if isinstance(regions, str) or not isinstance(regions, Iterable | None):
        raise PlanArgumentError(
            f"regions must be a list of (start, stop, step[, dwell][, unit]), found {regions!r}."
        )
    chosen = [
        as_region(item, number)
        for number, item in enumerate(DEFAULT_REGIONS if regions is None else regions, start=1)
    ]
    points = xafs_points(e0, chosen, dwell)
    readers = [beamline.counters] if detectors is None else devices_of("detectors", detectors)
    times = [time for time in dict.fromkeys(points.dwell.tolist()) if not math.isnan(time)]
    check_exposures("the dwell time", readers, times)
    timers = [signal for signal, _ in exposure_of(readers, times[0])] if times else []
    check_limits([(motor, points.energy)])
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="xafs_scan",
        plan_args={
            "element": element,
            "edge": edge,
            "e0": e0,
            "regions": [
                [region.start, region.stop, region.step, region.dwell, region.unit]
                for region in chosen
            ],
            "dwell": dwell,
            "mode": mode,
            "detectors": [device.name for device in readers],
        },
        detectors=readers,
        motors=[motor],
        beamline=beamline_of(beamline),
        sample=sample,
    )
    metadata |= {
        **({"element": element, "edge": edge} if element is not None else {}),
        "e0": e0,
        "mode": mode,
        "num_points": points.energy.size,
        "num_intervals": points.energy.size - 1,
        "hints": {"dimensions": [([motor.name], "primary")]},
        **(md or {}),
    }

    def body() -> Plan:
        dwell_set = math.nan
        for energy, time in zip(points.energy.tolist(), points.dwell.tolist(), strict=True):
            yield from checkpoint()
            moves = [motor, energy]
            if not math.isnan(time) and time != dwell_set:
                for timer in timers:
                    moves += [timer, time]
                dwell_set = time
            yield from move(*moves)
            yield from take_point(readers, [motor])

    return (
        yield from guarded_run(
            body,
            metadata,
            detectors=readers,
            motors=[motor],
            beamline=beamline,
            use_shutter=use_shutter,
            baseline=baseline,
            changes=timers,
        )
    )


def absorption_edge(
    element: str | None, edge: str | None, e0: float | None, limits: tuple[float, float] | None
) -> tuple[str | None, str | None, float]:
    """Complete element, edge and edge energy from the tables.

    Parameters
    ----------
    element, edge, e0
        As for `xafs_scan`.
    limits
        Lowest and highest energy (eV) that can be reached, which choose the edge where none is
        given.

    Returns
    -------
    tuple
        Symbol and edge (None where `e0` is near no tabulated edge), edge energy (eV).

    Raises
    ------
    PlanArgumentError
        For what the tables don't have.
    """
    import xraydb

    if e0 is not None and not as_number("e0", e0) > 0:
        raise PlanArgumentError(f"the edge energy e0 must be greater than 0 eV, found {e0!r}.")
    if element is None:
        if e0 is None:
            raise PlanArgumentError(
                'an XAFS scan needs an element, such as "Cu", or an edge energy e0.'
            )
        found = xraydb.guess_edge(e0, edges=[edge] if edge else ["K", "L3", "L2", "L1"])
        if found is None:
            return None, edge, float(e0)
        element, edge = str(found[0]), str(found[1])
        if abs(xraydb.xray_edge(element, edge).energy - e0) > _NAMING_DISTANCE:
            return None, None, float(e0)
        return element, edge, float(e0)
    try:
        tabulated = {name: float(item.energy) for name, item in xraydb.xray_edges(element).items()}
        symbol = str(xraydb.atomic_symbol(xraydb.atomic_number(element)))
    except (ValueError, KeyError, AttributeError):
        tabulated, symbol = {}, str(element)
    if not tabulated:
        raise PlanArgumentError(
            f"{element!r} is not the symbol of an element with absorption edges."
        )
    if edge is None:
        low, high = limits or (0.0, 0.0)
        reachable = [
            name for name in ("K", "L3")
            if name in tabulated and (low >= high or low <= (e0 or tabulated[name]) <= high)
        ]  # fmt: skip
        edge = reachable[0] if reachable else "K"
    if edge not in tabulated:
        raise PlanArgumentError(
            f"{symbol} has no {edge!r} edge; its edges are {', '.join(sorted(tabulated))}."
        )
    return symbol, edge, float(e0) if e0 is not None else tabulated[edge]
