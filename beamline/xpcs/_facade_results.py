"""Correlation functions and their parameters in the layouts that the field uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._facade_maps import checked, load_q_partition, q_unit
from beamline.xpcs._facade_source import Source, join
from beamline.xpcs.geometry import convert_q
from beamline.xpcs.schemas import G2Data

__all__ = ["list_twotime", "load_g2", "load_twotime"]

_MULTITAU = "/xpcs/multitau"
_TWOTIME = ("/xpcs/twotime/correlation_map", "/exchange/C2T_all")
_DETECTOR = "/entry/instrument/detector_1"
_LEGACY_DETECTOR = "/measurement/instrument/detector"


def load_g2(source: Source, group: str) -> G2Data:
    """Read g2, its errors, delays in s and q in 1/nm."""
    if source.has(join(group, "g2")):
        return _own(source, group)
    for place in (group, _MULTITAU):
        if source.has(join(place, "normalized_g2")):
            return _aps(source, place)
    if source.has("/exchange/norm-0-g2"):
        return _legacy(source)
    raise source.missing(join(group, "g2"), join(_MULTITAU, "normalized_g2"), "/exchange/norm-0-g2")


def _own(source: Source, group: str) -> G2Data:
    q_values = source.first(join(group, "q_values"), join(group, "q_list"))
    if q_values is None:
        raise source.missing(join(group, "q_values"))
    return _g2(
        source,
        join(group, "g2"),
        source.array(join(group, "g2")),
        source.array(join(group, "g2_err")),
        source.vector(join(group, "delay_times")),
        source.vector(q_values),
    )


def _aps(source: Source, group: str) -> G2Data:
    frame = source.quantity(join(_DETECTOR, "frame_time"), "time", "s")
    for name in ("stride_frame", "avg_frame"):
        path = join(group, f"config/{name}")
        frame *= source.number(path) if source.has(path) else 1.0
    path = join(group, "normalized_g2")
    return _g2(
        source, path, source.array(path).T, source.array(f"{path}_err").T,
        source.vector(join(group, "delay_list")) * frame, _q(source, "/xpcs/qmap"),
    )  # fmt: skip


def _legacy(source: Source) -> G2Data:
    frame = source.quantity(join(_LEGACY_DETECTOR, "exposure_period"), "time", "s")
    for name in ("stride_frames", "avg_frames"):
        path = f"/xpcs/{name}"
        frame *= source.number(path) if source.has(path) else 1.0
    path = "/exchange/norm-0-g2"
    return _g2(
        source, path, source.array(path).T, source.array("/exchange/norm-0-stderr").T,
        source.vector("/exchange/tau") * frame, _q(source, "/xpcs"),
    )  # fmt: skip


def _q(source: Source, group: str) -> npt.NDArray[np.float64]:
    """Return q of each column of g2, 1/nm."""
    if group == "/xpcs" and not source.has("/xpcs/dqmap"):
        values = source.vector("/xpcs/dqlist")
        return convert_q(values, q_unit(source, group), "nm^-1")
    bins = load_q_partition(source, group)
    return convert_q(bins.dynamic_q, bins.map_units[0], "nm^-1")


def _g2(
    source: Source,
    path: str,
    g2: npt.NDArray[Any],
    errors: npt.NDArray[Any],
    delays: npt.NDArray[np.float64],
    q_values: npt.NDArray[np.float64],
) -> G2Data:
    found: G2Data = checked(
        source, path, lambda: G2Data(g2, errors, delays, tuple(q_values.tolist()))
    )
    return found


def list_twotime(source: Source) -> list[str]:
    """Return the paths of all two-time correlation functions."""
    return [
        join(group, name)
        for group in _TWOTIME
        for name in source.names(group)
        if source.is_dataset(join(group, name))
    ]


def load_twotime(source: Source, key: str | int | None) -> npt.NDArray[np.float64]:
    """Read one two-time correlation function, completed if only one half of it is stored."""
    path = _twotime_path(source, key)
    stored = source.array(path)
    if stored.ndim != 2 or stored.shape[0] != stored.shape[1] or stored.dtype.kind not in "iuf":
        raise source.fail(
            path, f"expected square numbers, found {stored.dtype} of shape {stored.shape}."
        )
    # A transpose of float64 takes as much memory again, so the half is added in place.
    values = stored.astype(np.float64)
    lower, upper = np.tril(values, -1).any(), np.triu(values, 1).any()
    if lower != upper:
        diagonal = values.diagonal().copy()
        values += values.T.copy()
        np.fill_diagonal(values, diagonal)
    values.flags.writeable = False
    return values


def _twotime_path(source: Source, key: str | int | None) -> str:
    paths = list_twotime(source)
    if not paths:
        raise source.missing(*_TWOTIME)
    if key is None:
        return paths[0]
    if not isinstance(key, str):
        for path in paths:
            digits = path.rsplit("_", 1)[-1]
            if digits.isdigit() and int(digits) == key:
                return path
    else:
        found = source.first(*(join(group, key) for group in _TWOTIME), f"/{key.strip('/')}")
        if found is not None and source.is_dataset(found):
            return found
    names = ", ".join(path.rsplit("/", 1)[-1] for path in paths[:8])
    raise source.fail(
        f"{key}",
        f"there is no such two-time correlation function; there are {len(paths)}: {names}.",
    )
