"""Where a scan goes: pure generators of positions, without devices or messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from beamline.core.units import ELECTRON_MASS_TERM, k_to_energy
from beamline.plans.arguments import PlanArgumentError, as_number

__all__ = [
    "DEFAULT_REGIONS",
    "Region",
    "XAFSPoints",
    "as_region",
    "line_points",
    "mesh_points",
    "number_of_points",
    "xafs_points",
]

Array = npt.NDArray[np.float64]

#: More points than this in one scan are a slip of the pen.
_MAX_POINTS = 1_000_000
_UNITS = {"ev": "eV", "k": "k", "1/å": "k", "å⁻¹": "k", "å^-1": "k"}


@dataclass(frozen=True)
class Region:
    """One region of an XAFS scan, relative to the edge energy.

    Attributes
    ----------
    start, stop
        First and last point: eV from the edge, or photoelectron wave number k (Å⁻¹) above it.
    step
        Distance of points, in the same unit; the last step is shorter where it doesn't fit.
    dwell
        Counting time per point (s); None leaves it to the scan.
    unit
        ``"eV"`` or ``"k"``.
    """

    start: float
    stop: float
    step: float
    dwell: float | None = None
    unit: Literal["eV", "k"] = "eV"

    def __str__(self) -> str:
        dwell = "" if self.dwell is None else f", {self.dwell:g} s"
        return f"({self.start:g}, {self.stop:g}, {self.step:g}{dwell}, {self.unit})"


#: Pre-edge, edge and fine structure up to 12 Å⁻¹: what a spectrum needs to be normalised and
#: transformed.
DEFAULT_REGIONS = (
    Region(-200.0, -20.0, 5.0),
    Region(-20.0, 30.0, 0.5),
    Region(2.8, 12.0, 0.05, unit="k"),
)


class XAFSPoints(NamedTuple):
    """The points of an XAFS scan.

    Attributes
    ----------
    energy : ndarray, shape (N,), float64
        Photon energies (eV), strictly increasing.
    dwell : ndarray, shape (N,), float64
        Counting time at each (s); NaN where neither region nor scan states one.
    """

    energy: Array
    dwell: Array


def line_points(start: float, stop: float, num: int, *, prefix: str = "") -> Array:
    """`num` equidistant positions from `start` to `stop`, both included; shape (num,), float64.

    Parameters
    ----------
    start, stop
        First and last position.
    num
        Number of points.
    prefix
        What the names of these arguments begin with in the plan, for messages.

    Raises
    ------
    PlanArgumentError
        If a position is not a finite number or `num` is not a positive whole number.
    """
    first, last = as_number(f"{prefix}start", start), as_number(f"{prefix}stop", stop)
    return np.linspace(first, last, number_of_points(f"{prefix}num", num))


def number_of_points(argument: str, num: Any) -> int:
    """Return a number of points as an int.

    Raises
    ------
    PlanArgumentError
        If it is not a whole number from 1 to a million.
    """
    whole = not isinstance(num, bool) and isinstance(num, Real) and num == num // 1
    if not whole or not 1 <= num <= _MAX_POINTS:
        raise PlanArgumentError(
            f"{argument}, the number of points, must be a whole number from 1 to {_MAX_POINTS}, "
            f"found {num!r}."
        )
    return int(num)


def mesh_points(slow: Array, fast: Array, *, snake: bool) -> Array:
    """Positions of a mesh in the order of the scan.

    Parameters
    ----------
    slow, fast : ndarray, shape (M,), (N,)
        Positions of the motor of the rows and of the motor along each row.
    snake
        Every second row is walked backwards.

    Returns
    -------
    ndarray, shape (M·N, 2), float64
        (slow, fast) of every point.
    """
    rows = np.repeat(slow[:, None], fast.size, axis=1)
    columns = np.repeat(fast[None, :], slow.size, axis=0)
    if snake:
        columns[1::2] = columns[1::2, ::-1]
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def as_region(item: Region | Sequence[Any] | Mapping[str, Any], number: int = 1) -> Region:
    """Make a `Region` of what a user may write for one.

    Parameters
    ----------
    item
        A `Region`, ``(start, stop, step[, dwell][, unit])`` or a mapping with these keys.
    number
        Which one it is, from 1, for messages.

    Raises
    ------
    PlanArgumentError
        Naming the region and what is wrong with it.
    """
    if isinstance(item, Region):
        region = _region(number, item, item.start, item.stop, item.step, item.dwell, item.unit)
    elif isinstance(item, Mapping):
        unknown = set(item) - {"start", "stop", "step", "dwell", "unit"}
        if unknown or not {"start", "stop", "step"} <= set(item):
            raise _wrong(number, item, "it needs start, stop, step and may have dwell and unit")
        region = _region(number, item, item["start"], item["stop"], item["step"],
                         item.get("dwell"), item.get("unit", "eV"))  # fmt: skip
    elif isinstance(item, Sequence) and not isinstance(item, str) and 3 <= len(item) <= 5:
        rest = list(item[3:])
        unit = rest.pop() if rest and isinstance(rest[-1], str) else "eV"
        if len(rest) > 1:
            raise _wrong(number, item, "after the dwell time only a unit may follow")
        start, stop, step = item[:3]
        region = _region(number, item, start, stop, step, rest[0] if rest else None, unit)
    else:
        raise _wrong(number, item, "it must be (start, stop, step[, dwell][, unit])")
    if not region.start < region.stop:
        raise _wrong(number, item, "its stop must be greater than its start")
    if not region.step > 0:
        raise _wrong(number, item, "its step must be greater than 0")
    if region.dwell is not None and not region.dwell > 0:
        raise _wrong(number, item, "its dwell time must be greater than 0 s")
    if region.unit == "k" and region.start < 0:
        raise _wrong(number, item, "k starts at 0, the edge")
    if (region.stop - region.start) / region.step > _MAX_POINTS:
        raise _wrong(number, item, f"it has more than {_MAX_POINTS} points")
    return region


def xafs_points(
    e0: float,
    regions: Sequence[Region | Sequence[Any] | Mapping[str, Any]],
    dwell: float | None = None,
) -> XAFSPoints:
    """Energies and counting times of an XAFS scan.

    Every region has its start and its stop as points. Where one region begins at the end of the
    one before, or closer to it than half a step, the two share that point; it belongs to the
    earlier region.

    Parameters
    ----------
    e0
        Edge energy (eV).
    regions
        In order of energy; see `as_region`.
    dwell
        Counting time (s) of regions that don't state one.

    Raises
    ------
    PlanArgumentError
        Naming the region that is wrong: unordered, overlapping, empty, or below 0 eV.
    """
    if not as_number("e0", e0) > 0:
        raise PlanArgumentError(f"the edge energy e0 must be greater than 0 eV, found {e0!r}.")
    if dwell is not None and not as_number("dwell", dwell) > 0:
        raise PlanArgumentError(f"the dwell time must be greater than 0 s, found {dwell!r}.")
    if not regions:
        raise PlanArgumentError("an XAFS scan needs at least one region (start, stop, step).")
    energies: list[Array] = []
    dwells: list[Array] = []
    end = -math.inf
    for number, item in enumerate(regions, start=1):
        region = as_region(item, number)
        energy = _region_energies(float(e0), region)
        if energy[0] <= 0:
            raise _wrong(number, item, f"it reaches {energy[0]:g} eV, below 0")
        # A join of an eV and a k region rarely meets exactly; half a step is the same point.
        tolerance = 0.5 * _first_step(region)
        if energy[0] < end - tolerance:
            raise _wrong(
                number, item,
                f"it starts at {energy[0] - e0:+.3f} eV, before region {number - 1} ends at "
                f"{end - e0:+.3f} eV",
            )  # fmt: skip
        energy = energy[energy >= end + tolerance] if energies else energy
        if energy.size == 0:
            raise _wrong(number, item, f"it adds no point to region {number - 1}")
        energies.append(energy)
        time = region.dwell if region.dwell is not None else dwell
        dwells.append(np.full(energy.size, math.nan if time is None else float(time)))
        end = float(energy[-1])
    return XAFSPoints(np.concatenate(energies), np.concatenate(dwells))


def _region_energies(e0: float, region: Region) -> Array:
    whole_steps = math.ceil((region.stop - region.start) / region.step - 1e-6)
    grid = region.start + region.step * np.arange(whole_steps, dtype=float)
    grid = np.append(grid, region.stop)
    return k_to_energy(grid, e0) if region.unit == "k" else e0 + grid


def _first_step(region: Region) -> float:
    if region.unit == "k":
        k = region.start
        return ELECTRON_MASS_TERM * ((k + region.step) ** 2 - k**2)
    return region.step


def _region(
    number: int, item: Any, start: Any, stop: Any, step: Any, dwell: Any, unit: Any
) -> Region:
    values: list[float] = []
    for name, value in (("start", start), ("stop", stop), ("step", step), ("dwell", dwell)):
        if name == "dwell" and value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.number)
            or not math.isfinite(float(value))
        ):
            raise _wrong(number, item, f"its {name} must be a finite number, found {value!r}")
        values.append(float(value))
    known = _UNITS.get(unit.strip().lower()) if isinstance(unit, str) else None
    if known is None:
        raise _wrong(number, item, f'its unit must be "eV" or "k", found {unit!r}')
    return Region(
        values[0], values[1], values[2],
        values[3] if dwell is not None else None,
        "k" if known == "k" else "eV",
    )  # fmt: skip


def _wrong(number: int, item: Any, reason: str) -> PlanArgumentError:
    return PlanArgumentError(f"region {number}, {item}, is wrong: {reason}.")
