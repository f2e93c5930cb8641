"""The motion of a fly scan, and where it begins and ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.core.units import HC, bragg_angle, bragg_energy
from devices._axis import Axis, AxisLimitError
from devices._signals import latest

__all__ = ["Sweep"]


@dataclass(frozen=True)
class Sweep:
    """One motion of a fly scan.

    The axis passes the middle of point i where a step scan of `num` points would stop. The
    monochromator turns at constant angular speed, so its points are equidistant in angle.

    Attributes
    ----------
    axis
        What moves.
    start, stop
        Position in the middle of the first and of the last point.
    num
        Number of points.
    dwell
        Time per point (s).
    """

    axis: Axis
    start: float
    stop: float
    num: int
    dwell: float

    @property
    def ends(self) -> tuple[float, float]:
        """Where the axis starts from rest and where it comes to rest again."""
        first, last = self._turned(self.start), self._turned(self.stop)
        step = (last - first) / (self.num - 1)
        ramp = 0.5 * step / self.dwell * float(self.axis.acceleration.get())
        return self._turned_back(first - step / 2 - ramp), self._turned_back(last + step / 2 + ramp)

    @property
    def speed(self) -> float:
        """Mean speed over all points, in the unit of the axis per second; positive."""
        first, last = self._turned(self.start), self._turned(self.stop)
        half = (last - first) / (self.num - 1) / 2
        way = self._turned_back(last + half) - self._turned_back(first - half)
        return abs(way) / (self.num * self.dwell)

    @property
    def longest_step(self) -> float:
        """Longest distance between the middles of two points, in the unit of the axis."""
        ends = (self.positions(0, 2), self.positions(self.num - 2, 2))
        return max(abs(float(there - here)) for here, there in ends)

    def positions(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """Where the axis should be in the middle of `count` points from number `first` on."""
        begin, end = self._turned(self.start), self._turned(self.stop)
        numbers = np.arange(first, first + count, dtype=np.float64)
        turned: npt.NDArray[np.float64] = begin + (end - begin) / (self.num - 1) * numbers
        if self._d_spacing is None:
            return turned
        energies: npt.NDArray[np.float64] = HC / (2 * self._d_spacing * np.sin(np.radians(turned)))
        return energies

    def check(self) -> None:
        """Check that the axis may do the whole motion, run-up included, and can do its speed.

        Raises
        ------
        MotorLimitError
            Naming axis, position or speed, and limits; nothing has moved.
        """
        unit = self.axis.egu
        low, high = self.axis.limits
        for position in (self.start, self.stop, *self.ends):
            if low < high and not low <= position <= high:
                raise AxisLimitError(
                    f"{self.axis.label} would have to go to {position:.7g} {unit} for a fly scan "
                    f"from {self.start:.7g} to {self.stop:.7g} {unit}, run-up included: its limits "
                    f"are {low:g} to {high:g} {unit}; nothing has moved."
                )
        fastest = float(latest(self.axis.highest_velocity))
        # To a motor record, 0 is no limit.
        if 0.0 < fastest < self.speed * (1.0 - 1e-9):
            raise AxisLimitError(
                f"{self.axis.label} would have to move at {self.speed:.7g} {unit}/s for a fly scan "
                f"of {self.num} points from {self.start:.7g} to {self.stop:.7g} {unit}: its limit "
                f"is {fastest:g} {unit}/s ({self.axis.highest_velocity.pvname}); nothing has "
                "moved. Take longer per point or more points."
            )

    @property
    def _d_spacing(self) -> float | None:
        return getattr(self.axis.parent, "d_spacing", None)

    def _turned(self, position: float) -> float:
        if self._d_spacing is None or not position > 0:
            return position
        return bragg_angle(position, self._d_spacing)

    def _turned_back(self, axis: float) -> float:
        if self._d_spacing is None:
            return axis
        return bragg_energy(axis, self._d_spacing) if 0 < axis < 90 else math.inf
