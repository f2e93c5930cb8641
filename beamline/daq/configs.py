"""What a scan of the scripting interface shall do, checked before anything moves."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["LinearScanConfig", "MeshScanConfig", "ScanConfig", "XAFSScanConfig"]

Array = npt.NDArray[np.float64]
PVName = Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
#: PV of the motor, first and last position, number of points.
Axis = tuple[PVName, float, float, int]


class ScanConfig(BaseModel):
    """What all scans have in common.

    Attributes
    ----------
    detectors
        PVs to read at every point.
    dwell_time
        Counting time per point, s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    detectors: list[PVName] = Field(min_length=1)
    dwell_time: float = Field(default=0.1, gt=0)

    @field_validator("detectors")
    @classmethod
    def _no_detector_twice(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("a detector is listed twice")
        return value


class LinearScanConfig(ScanConfig):
    """One motor along a line.

    Attributes
    ----------
    motor
        Its PV.
    start, stop
        First and last position, in the unit of the motor.
    steps
        Number of points.
    """

    scan_type: Literal["linear"] = "linear"
    motor: PVName
    start: float
    stop: float
    steps: int = Field(gt=0)

    @model_validator(mode="after")
    def _goes_upwards(self) -> LinearScanConfig:
        _check_range("", self.start, self.stop)
        return self

    @property
    def positions(self) -> Array:
        """(steps,) positions."""
        return np.linspace(self.start, self.stop, self.steps)


class MeshScanConfig(ScanConfig):
    """Two motors over a rectangular grid.

    Attributes
    ----------
    motor1, motor2
        PV, first and last position, number of points; `motor1` is the slow one.
    snake
        Walk every second row backwards.
    """

    scan_type: Literal["mesh"] = "mesh"
    motor1: Axis
    motor2: Axis
    snake: bool = False

    @field_validator("motor1", "motor2")
    @classmethod
    def _is_a_range(cls, value: Axis) -> Axis:
        name, start, stop, steps = value
        _check_range(f"{name}: ", start, stop)
        if steps < 1:
            raise ValueError(f"{name}: the number of points must be > 0, found {steps}")
        return value

    @model_validator(mode="after")
    def _has_two_motors(self) -> MeshScanConfig:
        if self.motor1[0] == self.motor2[0]:
            raise ValueError(f"a mesh needs two motors, found {self.motor1[0]} twice")
        return self

    @property
    def positions1(self) -> Array:
        """Positions of `motor1`."""
        return np.linspace(*self.motor1[1:3], self.motor1[3])

    @property
    def positions2(self) -> Array:
        """Positions of `motor2`."""
        return np.linspace(*self.motor2[1:3], self.motor2[3])


class XAFSScanConfig(ScanConfig):
    """The energy around an absorption edge, in regions of different step.

    Attributes
    ----------
    energy_pv
        PV of the monochromator.
    edge
        Energy of the edge, eV.
    regions
        (start, stop, step), eV from the edge, one behind the other.
    mode
        "transmission" or "fluorescence".
    """

    scan_type: Literal["xafs"] = "xafs"
    energy_pv: PVName = "BL02:MONO:ENERGY"
    edge: float = Field(gt=0)
    regions: list[tuple[float, float, float]] = Field(min_length=1)
    mode: Literal["transmission", "fluorescence"] = "transmission"

    @field_validator("regions")
    @classmethod
    def _follow_each_other(
        cls, value: list[tuple[float, float, float]]
    ) -> list[tuple[float, float, float]]:
        for number, (start, stop, step) in enumerate(value, start=1):
            _check_range(f"region {number}: ", start, stop)
            if not step > 0:
                raise ValueError(f"region {number}: step_size must be > 0, found {step:g}")
            if number > 1 and start < value[number - 2][1]:
                raise ValueError(
                    f"region {number} overlaps the one before it: it starts at {start:g} eV, that "
                    f"one ends at {value[number - 2][1]:g} eV"
                )
        return value

    def generate_energies(self) -> Array:
        """Energies of all points, eV, ascending."""
        from beamline.plans.points import as_region, xafs_points

        regions = [as_region(region, n) for n, region in enumerate(self.regions, start=1)]
        return xafs_points(self.edge, regions, self.dwell_time).energy


def _check_range(where: str, start: float, stop: float) -> None:
    if not stop > start:
        raise ValueError(
            f"{where}stop must be greater than start, found {start:g} to {stop:g}"
        )  # fmt: skip
