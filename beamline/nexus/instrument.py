"""Where the values of devices go: positioners, detectors, monochromator, source, sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.metadata import ENTRY, INSTRUMENT, SAMPLE
from beamline.nexus.names import clean_text
from beamline.nexus.roles import scan_dimensions

__all__ = [
    "add_counter",
    "add_detector",
    "add_monitor",
    "device_names",
    "lay_out_devices",
    "motor_keys",
    "moved_devices",
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
    builder: Builder,
    stream: Stream,
    names: Iterable[str],
    *,
    detectors: bool,
    counters_aside: bool = False,
) -> None:
    """Put the values of a stream where NeXus has places for them.

    Parameters
    ----------
    names
        Data keys to place.
    detectors
        Whether what is neither positioned nor part of the machine is a detector's.
    counters_aside
        Make counters monitors of the entry instead of detectors: of every NXdetector some
        definitions want what only the main one has.
    """
    wanted = {name: stream.keys[name] for name in names}
    roles = builder.options.roles
    scalars = {name for name, key in wanted.items() if key.is_scalar}
    if roles["energy"] in scalars:
        group = builder.group(f"{INSTRUMENT}/monochromator", "NXmonochromator")
        builder.value(f"{group}/energy", stream, roles["energy"], kind="f")
    if roles["ring_current"] in scalars:
        group = builder.group(f"{INSTRUMENT}/source", "NXsource")
        builder.value(f"{group}/current", stream, roles["ring_current"], kind="f")
    positioned = {
        readback: setpoint
        for readback, setpoint in motor_keys(builder, stream).items()
        if readback in wanted
    }
    for readback, setpoint in positioned.items():
        _add_positioner(builder, stream, readback, setpoint)
    for role in _SAMPLE_ROLES:
        if roles[role] in scalars:
            builder.value(f"{SAMPLE}/{role}", stream, roles[role], kind="f")
    if not detectors:
        return
    other = {roles["exposure"], roles["ring_current"]}
    other.update(name for pair in positioned.items() for name in pair if name)
    other.update(
        name for name, key in wanted.items() if key.device in moved_devices(builder, stream)
    )
    for name, key in wanted.items():
        placed = builder.has_home(stream, name) or (stream.name, name) in builder.detectors
        if name in other or placed or not (key.is_numeric or key.external):
            continue
        if counters_aside and not key.external:
            is_i0 = name == roles["i0"] and key.is_scalar
            where = f"{ENTRY}/monitor" if is_i0 else builder.free(ENTRY, name)
            add_counter(builder, stream, name, where)
        else:
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


def add_detector(
    builder: Builder, stream: Stream, key: str, path: str, *, kind: Literal["", "f", "i"] = ""
) -> None:
    """Add an NXdetector at a path; frames that are outside of the events are linked later."""
    builder.group(path, "NXdetector")
    builder.detectors[stream.name, key] = path
    described = stream.keys[key]
    if key != path.rpartition("/")[2] or described.external:
        builder.field(f"{path}/local_name", clean_text(key))
    if not described.external:
        builder.value(f"{path}/data", stream, key, kind=kind)
    exposure = builder.options.roles["exposure"]
    if exposure in stream.keys and stream.keys[exposure].is_scalar:
        builder.link(f"{path}/count_time", builder.home(stream, exposure))


def add_monitor(builder: Builder, stream: Stream) -> None:
    """Add the incident intensity as the monitor, if it has been placed."""
    roles = builder.options.roles
    incoming = builder.detectors.get((stream.name, roles["i0"]))
    if incoming is None or not stream.keys[roles["i0"]].is_scalar:
        return
    path = f"{ENTRY}/monitor"
    _add_preset(builder, stream, path)
    builder.link(f"{path}/data", f"{incoming}/data")


def add_counter(builder: Builder, stream: Stream, key: str, path: str) -> None:
    """Add a counter as an NXmonitor at a path.

    ``integral`` is per point, as the counts are: each is an integral over the counting time.
    """
    _add_preset(builder, stream, path)
    builder.value(f"{path}/data", stream, key, kind="f")
    builder.link(f"{path}/integral", f"{path}/data")


def _add_preset(builder: Builder, stream: Stream, path: str) -> None:
    builder.group(path, "NXmonitor")
    builder.field(f"{path}/mode", "timer")
    exposure = stream.keys.get(builder.options.roles["exposure"])
    if exposure is not None and exposure.is_scalar:
        builder.link(f"{path}/preset", builder.home(stream, exposure.name))
    else:
        # The definitions want one; what is not known is not a number.
        builder.field(f"{path}/preset", float("nan"), units="s")
