"""The tree of an X-ray absorption spectrum, valid under both definitions called ``NXxas``.

``/entry`` satisfies the official definition of 2009 and the community's newer one; a subentry of
links satisfies ``NXxas_trans`` or, for fluorescence, ``NXxas_tfy``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.elements import element_name
from beamline.nexus.instrument import add_detector, add_monitor
from beamline.nexus.metadata import ENTRY, INSTRUMENT, SAMPLE
from beamline.nexus.names import clean_text
from beamline.nexus.tree import Column, Feed

__all__ = ["absorption", "fluorescence_yield", "is_possible", "lay_out_spectrum"]

_log = logging.getLogger(__name__)
_DATA = f"{ENTRY}/data"
#: Role → name of the detector, for both definitions and beyond them.
_DETECTORS = {
    "i0": "incoming_beam",
    "itrans": "transmitted_beam",
    "ifluor": "fluorescence",
    "irefer": "reference",
}

Array = npt.NDArray[np.float64]


def absorption(i0: Array, itrans: Array) -> Array:
    """Absorption µt = ln(i0/itrans); NaN where a count is not positive."""
    valid = (i0 > 0) & (itrans > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(valid, np.log(i0 / itrans), np.nan)


def fluorescence_yield(i0: Array, ifluor: Array) -> Array:
    """Fluorescence per incident intensity, ifluor/i0; NaN where i0 is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(i0 > 0, ifluor / i0, np.nan)


def _is_fluorescence(builder: Builder) -> bool:
    return str(builder.start.get("mode", "")).lower().startswith("fluo")


def is_possible(builder: Builder, stream: Stream) -> bool:
    """Whether the stream has energy, incident and absorbed intensity; if not, say so in the log."""
    sample = "ifluor" if _is_fluorescence(builder) else "itrans"
    missing = [
        f"{role} ({builder.options.roles[role]!r})"
        for role in ("energy", "i0", sample)
        if (key := stream.keys.get(builder.options.roles[role])) is None or not key.is_scalar
    ]
    if missing:
        _log.warning(
            "run %s is not written as NXxas: stream %r has no number for %s; name the data keys "
            "in the start document, nexus={'roles': {...}}.",
            builder.start["uid"], stream.name, ", ".join(missing),
        )  # fmt: skip
    return not missing


def lay_out_spectrum(builder: Builder, stream: Stream) -> None:
    """Add the tree of a spectrum. Every other data key is left for the general layout."""
    roles = builder.options.roles
    fluorescence = _is_fluorescence(builder)
    sample_role = "ifluor" if fluorescence else "itrans"
    present = {
        role: key for role, key in roles.items()
        if key in stream.keys and stream.keys[key].is_scalar
    }  # fmt: skip
    energy = f"{INSTRUMENT}/monochromator/energy"
    intensity = f"{ENTRY}/intensity"
    builder.group(f"{INSTRUMENT}/monochromator", "NXmonochromator")
    builder.value(energy, stream, present["energy"], kind="f")
    names = {**_DETECTORS, sample_role: "absorbed_beam"}
    paths = {}
    for role, name in names.items():
        if role in present and not builder.has_home(stream, present[role]):
            paths[role] = f"{INSTRUMENT}/{name}"
            add_detector(builder, stream, present[role], paths[role])
    builder.link(f"{ENTRY}/energy", energy)
    inputs = (present["i0"], present[sample_role])
    function = fluorescence_yield if fluorescence else absorption
    feed = Feed("derived", inputs=inputs, function=function)
    builder.add(intensity, Column(stream.name, feed, np.dtype(np.float64), (), {"units": ""}))
    builder.field(f"{ENTRY}/is_experimental", np.bool_(builder.options.is_experimental))
    add_monitor(builder, stream)
    _add_plot(builder, energy, intensity, f"{paths[sample_role]}/data", fluorescence=fluorescence)
    if not _add_element(builder):
        _log.warning(
            "run %s does not claim NXxas: its start document names no element and edge.",
            builder.start["uid"],
        )
        return
    builder.field(f"{ENTRY}/definition", "NXxas")
    _add_subentry(builder, energy, intensity, paths, sample_role)


def _add_element(builder: Builder) -> bool:
    start = builder.start
    symbol, edge = start.get("element"), start.get("edge")
    if not (isinstance(symbol, str) and symbol and isinstance(edge, str) and edge):
        return False
    builder.group(f"{ENTRY}/element", "NXelement")
    builder.field(f"{ENTRY}/element/name", element_name(symbol))
    builder.field(f"{ENTRY}/element/symbol", clean_text(symbol))
    builder.group(f"{ENTRY}/edge", "NXabsorption_edge")
    builder.field(f"{ENTRY}/edge/name", clean_text(edge))
    if isinstance(start.get("e0"), int | float):
        builder.field(f"{ENTRY}/edge/energy", float(start["e0"]), units="eV")
    return True


def _add_plot(
    builder: Builder, energy: str, intensity: str, absorbed: str, *, fluorescence: bool
) -> None:
    builder.group(
        _DATA, "NXdata",
        signal="intensity", axes=["energy"], energy_indices=[0],
        auxiliary_signals=["absorbed_beam"],
    )  # fmt: skip
    builder.link(f"{_DATA}/energy", energy)
    builder.link(f"{_DATA}/intensity", intensity)
    builder.link(f"{_DATA}/absorbed_beam", absorbed)
    builder.field(f"{_DATA}/mode", "Fluorescence Yield" if fluorescence else "Transmission")
    builder.group(ENTRY, "NXentry", default="data")


def _add_subentry(
    builder: Builder, energy: str, intensity: str, paths: Mapping[str, str], sample_role: str
) -> None:
    name = "tfy" if sample_role == "ifluor" else "trans"
    sub = builder.group(f"{ENTRY}/nxxas_{name}", "NXsubentry", default="data")
    builder.field(f"{sub}/definition", f"NXxas_{name}")
    for same in ("title", "start_time", "is_experimental", "element", "edge"):
        builder.link(f"{sub}/{same}", f"{ENTRY}/{same}")
    builder.link(f"{sub}/sample", SAMPLE)
    builder.link(f"{sub}/energy", energy)
    builder.link(f"{sub}/intensity", intensity)
    builder.group(f"{sub}/data", "NXdata", signal="intensity", axes=["energy"], energy_indices=[0])
    builder.link(f"{sub}/data/energy", energy)
    builder.link(f"{sub}/data/intensity", intensity)
    builder.group(f"{sub}/instrument", "NXinstrument")
    builder.link(f"{sub}/instrument/source", f"{INSTRUMENT}/source")
    builder.link(f"{sub}/instrument/monochromator", f"{INSTRUMENT}/monochromator")
    detectors = {"i0": "i0", sample_role: sample_role}
    if name == "trans":
        detectors["irefer"] = "iref"
    for role, detector in detectors.items():
        if role in paths:
            builder.link(f"{sub}/instrument/{detector}", paths[role])
