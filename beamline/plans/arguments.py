"""What users hand to plans, checked before anything happens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from bluesky.protocols import Movable, Readable, WritesExternalAssets

from beamline.core.errors import BeamlineError
from beamline.plans.metadata import name_of

__all__ = [
    "PlanArgumentError",
    "as_number",
    "check_common",
    "check_exposures",
    "check_motor",
    "check_readable",
    "devices_of",
    "exposure_of",
]

#: What bluesky writes into every start document itself.
_RESERVED = ("uid", "time")


class PlanArgumentError(BeamlineError, ValueError, TypeError):
    """An argument of a plan is wrong: of the wrong type or with a wrong value."""


def check_motor(argument: str, motor: Any) -> None:
    """Check that a device can be moved and read.

    Parameters
    ----------
    argument
        Name of the argument, for the message.
    motor
        What the user gave.

    Raises
    ------
    PlanArgumentError
        Naming the motors that the device has, where it is a group of them.
    """
    if _is_text_or_class(motor):
        raise PlanArgumentError(
            f"{argument} must be a motor, found {_shown(motor)}: give the device itself, such as "
            "bl.sample.x."
        )
    if isinstance(motor, Movable) and isinstance(motor, Readable):
        return
    if not isinstance(motor, Readable):
        raise PlanArgumentError(
            f"{argument} must be a motor, such as bl.sample.x, found {_shown(motor)}."
        )
    parts = [
        f"{motor.name}.{attribute}"
        for attribute in getattr(motor, "component_names", ())
        if hasattr(part := getattr(motor, attribute), "position") and isinstance(part, Movable)
    ]
    suggestion = f"; did you mean {' or '.join(parts)}?" if parts else ", it can't be moved."
    raise PlanArgumentError(
        f"{argument} must be a motor, but {motor.name} is not a motor{suggestion}"
    )


def devices_of(argument: str, devices: Any) -> list[Any]:
    """Check a list of devices that can be read; return it with each device once.

    Parameters
    ----------
    argument
        Name of the argument, for the message.
    devices
        What the user gave.

    Raises
    ------
    PlanArgumentError
        If it is no list, or naming what in it can't be read.
    """
    if isinstance(devices, Readable) and not isinstance(devices, type):
        raise PlanArgumentError(
            f"{argument} must be a list of devices, found {devices.name} alone: put it into "
            f"brackets, [{devices.name}]."
        )
    if isinstance(devices, str | Mapping) or not isinstance(devices, Iterable):
        raise PlanArgumentError(
            f"{argument} must be a list of devices, such as [bl.counters], found {_shown(devices)}."
        )
    unique: list[Any] = []
    for number, device in enumerate(devices):
        check_readable(f"{argument}[{number}]", device)
        if not any(device is other for other in unique):
            unique.append(device)
    return unique


def check_readable(argument: str, device: Any) -> None:
    """Check that something is a device that can be read.

    Raises
    ------
    PlanArgumentError
        Naming the argument and what was found. A device is refused too if a part of it has frames
        in files that it would not refer to itself: events without their frames.
    """
    if _is_text_or_class(device) or not isinstance(device, Readable):
        raise PlanArgumentError(
            f"{argument} must be a device, found {_shown(device)}: give the device itself, such as "
            "bl.counters."
        )
    if isinstance(device, WritesExternalAssets) or not hasattr(device, "walk_subdevices"):
        return
    for name, part in device.walk_subdevices():
        if isinstance(part, WritesExternalAssets):
            raise PlanArgumentError(
                f"{argument} must be one detector, found {device.name}, which has several devices "
                f"and would lose the frames of {part.name}: give its part, {device.name}.{name}."
            )


def check_common(
    sample: str | Mapping[str, Any] | None,
    md: Mapping[str, Any] | None,
    baseline: Sequence[Any] | None,
) -> None:
    """Check the arguments that all plans have.

    Raises
    ------
    PlanArgumentError
        Naming the argument, what was expected and what was found.
    """
    if sample is not None and not isinstance(sample, str | Mapping):
        raise PlanArgumentError(
            'sample must be a name, such as "Cu foil", or a mapping with "name", found '
            f"{_shown(sample)}."
        )
    if md is not None:
        if not isinstance(md, Mapping) or not all(isinstance(key, str) for key in md):
            raise PlanArgumentError(
                "md must be a mapping of names to values, such as {'purpose': 'test'}, found "
                f"{_shown(md)}."
            )
        taken = [key for key in _RESERVED if key in md]
        if taken:
            raise PlanArgumentError(
                f"md must not have the key {' or '.join(map(repr, taken))}, which every start "
                "document has from bluesky, found "
                f"{', '.join(f'{key}={md[key]!r}' for key in taken)}: choose another name."
            )
    if baseline is not None:
        devices_of("baseline", baseline)


def exposure_of(devices: Iterable[Any], exposure: float | None) -> list[tuple[Any, float]]:
    """Pair the exposure signals of the devices with the time to set.

    Raises
    ------
    PlanArgumentError
        If the time is not a positive number or outside the range of a device, or if none of the
        devices has an exposure.
    """
    if exposure is None:
        return []
    number = as_number("exposure", exposure)
    if not number > 0:
        raise PlanArgumentError(
            f"exposure, the exposure time, must be greater than 0 s, found {exposure!r}."
        )
    having = [device for device in devices if hasattr(device, "exposure")]
    if not having:
        raise PlanArgumentError(
            f"exposure is {number:g} s, but none of the detectors has an exposure time."
        )
    check_exposures("exposure", having, [number])
    return [(device.exposure, number) for device in having]


def check_exposures(argument: str, devices: Iterable[Any], times: Iterable[float]) -> None:
    """Check times (s) against the range that the exposure of each device has.

    Raises
    ------
    PlanArgumentError
        Naming device, range, unit and the first time outside it.
    """
    times = list(times)
    for device in devices:
        signal = getattr(device, "exposure", None)
        low, high = getattr(signal, "limits", None) or (0.0, 0.0)
        # EPICS convention: equal limits are no limits.
        if low is None or high is None or not low < high:
            continue
        for time in times:
            if not low <= time <= high:
                pv = getattr(signal, "setpoint_pvname", "")
                raise PlanArgumentError(
                    f"{argument} must be {low:g} to {high:g} s for {device.name}"
                    f"{f' ({pv})' if pv else ''}, found {time:g} s."
                )


def as_number(argument: str, value: Any) -> float:
    """Return a finite number as a float.

    Raises
    ------
    PlanArgumentError
        For anything else, text and truth values included.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise PlanArgumentError(f"{argument} must be a finite number, found {value!r}.")
    return float(value)


def _is_text_or_class(value: Any) -> bool:
    return isinstance(value, str | bytes | type)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "name"):
        return name_of(value)
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
