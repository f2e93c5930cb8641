"""Where the values of devices go: positioners, detectors, monochromator, source, sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.metadata import ENTRY, INSTRUMENT, SAMPLE
from beamline.nexus.names import clean_text

__all__ = [
    "add_detector",
    "add_monitor",
    "device_names",
    "lay_out_devices",
    "motor_keys",
    "moved_devices",
    "scan_dimensions",
]

_SETPOINTS = ("_user_setpoint", "_setpoint")
_SAMPLE_ROLES = ("position_x", "position_y", "position_z", "rotation_angle")


def _setpoint_of(key: str, keys: Iterable[str]) -> str | None:
    """Find the data key of the setpoint that belongs to a readback, as ophyd names it, or None."""
    names = [f"{key}{ending}" for ending in _SETPOINTS]
    return next((name for name in names if name in keys), None)


def moved_devices(builder: Builder, stream: Stream) -> set[str]:
    """Names of the devices that the plan moves."""
    devices = set(device_names(builder.start, "motors"))
    for fields, _ in scan_dimensions(builder.start):
        devices.update(stream.keys[field].device for field in fields if field in stream.keys)
    return devices


def device_names(start: Mapping[str, Any], role: str) -> list[str]:
    """Read ``motors`` or ``detectors`` of a start document, however they are given."""
    given = start.get(role)
    if isinstance(given, str):
        return [given]
    return [str(name) for name in given] if isinstance(given, list | tuple) else []


def scan_dimensions(start: Mapping[str, Any]) -> list[tuple[list[str], str]]:
    """Read ``hints.dimensions``: data keys and stream of each dimension; empty if malformed."""
    hints = start.get("hints")
    given = hints.get("dimensions") if isinstance(hints, Mapping) else None
    try:
        return [([str(f) for f in fields], str(stream)) for fields, stream in given or ()]
    except (TypeError, ValueError):
        return []


def motor_keys(builder: Builder, stream: Stream) -> dict[str, str | None]:
    """Readback → setpoint (or None) of everything in a stream that is positioned."""
    moved = moved_devices(builder, stream)
    readbacks: dict[str, str | None] = {}
    for name, key in stream.keys.items():
        if not key.is_scalar or name.endswith(_SETPOINTS):
            continue
        setpoint = _setpoint_of(name, stream.keys)
        # A moved device may have further readings; its readback has its name or a setpoint.
        if setpoint is not None or (key.device in moved and name == _readback(stream, key.device)):
            readbacks[name] = setpoint
    return readbacks


def _readback(stream: Stream, device: str) -> str:
    if device in stream.keys:
        return device
    of_device = [name for name, key in stream.keys.items() if key.device == device]
    hinted = [name for name in of_device if name in stream.hinted]
    return (hinted or of_device)[0]


def lay_out_devices(
    builder: Builder, stream: Stream, names: Iterable[str], *, detectors: bool
) -> None:
    """Put the values of a stream where NeXus has places for them.

    Parameters
    ----------
    names
        Data keys to place.
    detectors
        Whether what is neither positioned nor part of the machine is a detector's.
    """
    wanted = {name: stream.keys[name] for name in names}
    roles = builder.options.roles
    scalars = {name for name, key in wanted.items() if key.is_scalar}
    if roles["energy"] in scalars:
        group = builder.group(f"{INSTRUMENT}/monochromator", "NXmonochromator")
        builder.value(f"{group}/energy", stream, roles["energy"], is_float=True)
    if roles["ring_current"] in scalars:
        group = builder.group(f"{INSTRUMENT}/source", "NXsource")
        builder.value(f"{group}/current", stream, roles["ring_current"], is_float=True)
    positioned = {
        readback: setpoint
        for readback, setpoint in motor_keys(builder, stream).items()
        if readback in wanted
    }
    for readback, setpoint in positioned.items():
        _add_positioner(builder, stream, readback, setpoint)
    for role in _SAMPLE_ROLES:
        if roles[role] in scalars:
            builder.value(f"{SAMPLE}/{role}", stream, roles[role], is_float=True)
    if not detectors:
        return
    other = {roles["exposure"], roles["ring_current"]}
    other.update(name for pair in positioned.items() for name in pair if name)
    other.update(
        name for name, key in wanted.items() if key.device in moved_devices(builder, stream)
    )
    for name, key in wanted.items():
        if name in other or builder.has_home(stream, name):
            continue
        if key.is_numeric or key.external:
            add_detector(builder, stream, name, builder.free(INSTRUMENT, name))


def _add_positioner(builder: Builder, stream: Stream, readback: str, setpoint: str | None) -> None:
    path = builder.free(INSTRUMENT, readback)
    builder.group(path, "NXpositioner")
    builder.field(f"{path}/name", clean_text(readback))
    builder.value(f"{path}/value", stream, readback)
    if setpoint is not None:
        builder.value(f"{path}/target_value", stream, setpoint)
    if stream.keys[readback].source:
        builder.field(f"{path}/controller_record", clean_text(stream.keys[readback].source))


def add_detector(builder: Builder, stream: Stream, key: str, path: str) -> None:
    """Add an NXdetector at a path; frames that are outside of the events are linked later."""
    builder.group(path, "NXdetector")
    builder.detectors[stream.name, key] = path
    described = stream.keys[key]
    if key != path.rpartition("/")[2] or described.external:
        builder.field(f"{path}/local_name", clean_text(key))
    if not described.external:
        builder.value(f"{path}/data", stream, key)
    exposure = builder.options.roles["exposure"]
    if exposure in stream.keys and stream.keys[exposure].is_scalar:
        builder.link(f"{path}/count_time", builder.home(stream, exposure))


def add_monitor(builder: Builder, stream: Stream) -> None:
    """Add the incident intensity as the monitor, if it has been placed."""
    roles = builder.options.roles
    incoming = builder.detectors.get((stream.name, roles["i0"]))
    if incoming is None or not stream.keys[roles["i0"]].is_scalar:
        return
    path = builder.group(f"{ENTRY}/monitor", "NXmonitor")
    builder.field(f"{path}/mode", "timer")
    exposure = stream.keys.get(roles["exposure"])
    if exposure is not None and exposure.is_scalar:
        builder.link(f"{path}/preset", builder.home(stream, exposure.name))
    else:
        # The definitions want one; what is not known is not a number.
        builder.field(f"{path}/preset", float("nan"), units="s")
    builder.link(f"{path}/data", f"{incoming}/data")
