"""The default plot of a run: what a viewer shows when the file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.grid import grid_of, nominal_positions
from beamline.nexus.instrument import device_names, motor_keys, moved_devices
from beamline.nexus.metadata import ENTRY
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.roles import scan_dimensions
from beamline.nexus.tree import Attribute, Grid, GridAxis

__all__ = ["lay_out_plot", "main_stream", "shows_frames"]

DATA = f"{ENTRY}/data"


def main_stream(start: Mapping[str, Any]) -> str:
    """Name of the stream that a run is about."""
    for _, stream in scan_dimensions(start):
        return stream
    return "primary"


def shows_frames(builder: Builder, stream: Stream) -> bool:
    """Whether the frames are what the run is about: it takes some and scans nothing."""
    frames = any(key.external for key in stream.keys.values())
    return frames and not (_axes(builder, stream) and _signals(builder, stream))


def lay_out_plot(builder: Builder, stream: Stream, name: str = "data") -> None:
    """Add an NXdata group for a scan along a line or over a mesh, or for a time series.

    The signal is the first hinted detector, the other hinted ones are auxiliary signals.

    Parameters
    ----------
    name
        Of the group in the entry; "data" is the default plot. "NAME/data" is one in an NXsubentry
        of its own: some definitions ask of every NXdata of the entry what they want of their own.
    """
    path = f"{ENTRY}/{name}"
    signals = _signals(builder, stream)
    if not signals:
        return
    parent = path.rpartition("/")[0]
    if parent != ENTRY:
        builder.group(parent, "NXsubentry", default="data")
        builder.field(f"{parent}/title", builder.title)
    fields = _axes(builder, stream)
    order = grid_of(builder.start, fields)
    if order is not None and all(stream.keys[name].is_scalar for name in signals):
        _add_mesh(builder, path, stream, signals, fields)
    else:
        _add_line(builder, path, stream, signals, fields)
    if path == DATA:
        builder.group(ENTRY, "NXentry", default="data")


def _axes(builder: Builder, stream: Stream) -> list[str]:
    """Find the data key of each dimension of the scan; none for a time series."""
    axes = []
    for fields, _ in scan_dimensions(builder.start):
        usable = [name for name in fields if name in stream.keys and stream.keys[name].is_scalar]
        axes += usable[:1]
    if axes or any(fields == ["time"] for fields, _ in scan_dimensions(builder.start)):
        return axes
    motors = device_names(builder.start, "motors")
    readbacks = motor_keys(builder, stream)
    return [name for name in readbacks if stream.keys[name].device in motors][:1]


def _signals(builder: Builder, stream: Stream) -> list[str]:
    keys = stream.keys
    moved = moved_devices(builder, stream)
    positioned = {n for pair in motor_keys(builder, stream).items() for n in pair if n}
    usable = [
        name for name, key in keys.items()
        if key.device not in moved and name not in positioned and not key.external
        and name != builder.options.roles["exposure"]
    ]  # fmt: skip
    scalars = [name for name in usable if keys[name].is_scalar]
    arrays = [name for name in usable if keys[name].is_numeric and keys[name].shape]
    hinted = [name for name in stream.hinted if name in scalars]
    frames = any(key.external for key in keys.values())
    chosen = hinted or ([] if frames else scalars or arrays[:1])
    if not chosen and not frames:
        chosen = [name for name, key in keys.items() if key.is_scalar][:1]
    wanted = builder.options.signal
    # Rows of differing length are no array that could be drawn.
    if wanted in usable and keys[wanted].is_numeric and keys[wanted].shape is not None:
        chosen = [wanted, *(name for name in chosen if name != wanted)]
    # Signals of one plot have one shape.
    return [name for name in chosen if keys[name].shape == keys[chosen[0]].shape]


def _add_line(
    builder: Builder, path: str, stream: Stream, signals: list[str], fields: list[str]
) -> None:
    names: dict[str, str] = {}
    for field in fields:
        if field not in signals:
            names[field] = unused_name(nexus_name(field), names.values())
    axes = list(names.values()) or ["time"]
    for signal in signals:
        names[signal] = unused_name(nexus_name(signal), [*names.values(), "time"])
    rank = 1 + len(stream.keys[signals[0]].shape or ())
    attributes: dict[str, Attribute] = {
        "signal": names[signals[0]],
        "axes": [axes[0], *["."] * (rank - 1)],
        **{f"{axis}_indices": [0] for axis in axes},
    }
    if signals[1:]:
        attributes["auxiliary_signals"] = [names[signal] for signal in signals[1:]]
    builder.group(path, "NXdata", **attributes)
    builder.field(f"{path}/title", builder.title)
    if axes == ["time"]:
        builder.link(f"{path}/time", f"{stream.path}/time")
    for field, name in names.items():
        builder.value(f"{path}/{name}", stream, field)


def _add_mesh(
    builder: Builder, path: str, stream: Stream, signals: list[str], fields: list[str]
) -> None:
    order = grid_of(builder.start, fields)
    assert order is not None  # noqa: S101  (the caller has asked)
    names: dict[str, str] = {}
    for field in [*fields, *signals]:
        names[field] = unused_name(nexus_name(field), names.values())
    axes = [names[field] for field in fields]
    attributes: dict[str, Attribute] = {
        "signal": names[signals[0]],
        "axes": axes,
        **{f"{axis}_indices": [dimension] for dimension, axis in enumerate(axes)},
    }
    if signals[1:]:
        attributes["auxiliary_signals"] = [names[signal] for signal in signals[1:]]
    builder.group(path, "NXdata", **attributes)
    builder.field(f"{path}/title", builder.title)
    relative = str(builder.start.get("plan_name", "")).startswith("rel_")
    positions = nominal_positions(builder.start, order)
    for dimension, (field, values) in enumerate(zip(fields, positions, strict=True)):
        moved_by = field if relative else ""
        shown = _attributes(stream, field)
        axis = GridAxis(stream.name, values, order, dimension, moved_by, shown)
        builder.add(f"{path}/{names[field]}", axis)
    for signal in signals:
        grid = Grid(stream.name, signal, order, _attributes(stream, signal))
        builder.add(f"{path}/{names[signal]}", grid)


def _attributes(stream: Stream, key: str) -> dict[str, Attribute]:
    units = stream.keys[key].units
    attributes: dict[str, Attribute] = {} if units is None else {"units": clean_text(units)}
    if nexus_name(key) != key:
        attributes["original_name"] = clean_text(key)
    return attributes
