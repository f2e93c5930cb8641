"""Samples made of measured spectra: the spectrum, put on the scale of tabulated absorption.

A measured spectrum has an arbitrary offset and slope (gains, efficiencies) and a short range. A
line is added that carries its pre-edge to the tabulated one, and the step is scaled to the
tabulated jump; so normalising the table gives the measured normalised spectrum, exactly. Outside
the measured range the tabulated curve goes on, and what is between the two at the joint fades out
over 1000 eV: slowly enough for the sum to keep falling.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from beamline.analysis.xafs import NormalizedSpectrum, XAFSProcessor
from beamline.core.errors import ConfigurationError, FileFormatError, SpectrumError
from ioc.samples.absorption import (
    ENERGY_MAX,
    ENERGY_MIN,
    Absorption,
    core_width,
    density_of,
    edge_energy,
    energy_grid,
    resolution,
    split_absorption,
)
from ioc.samples.builtin import BUILTIN, builtin_absorption, metal_of
from ioc.samples.exafs import broadened_step
from ioc.samples.table import SampleTable, SampleTruth
from ioc.samples.xdi import Spectrum, read_xdi

__all__ = ["measured_table"]

Array = npt.NDArray[np.float64]

_FADE = 1000.0  # eV
_CALIBRATION = 60.0  # eV between the edge found and the tabulated one: chemistry and calibration
_THICKNESS = (1e-3, 1e5)  # µm
_NAME_LENGTH = 25  # of an EPICS enumeration


def measured_table(path: Path, thickness_um: float | None = None) -> SampleTable:
    """Make a sample table of a spectrum in an XDI file.

    Parameters
    ----------
    path
        The XDI file.
    thickness_um
        Thickness (µm) of the pure element that the sample stands for. By default that for which
        the tabulated jump is as high as the measured one.

    Raises
    ------
    MissingError, FileFormatError
        As `read_xdi`; and if the spectrum has no edge, not the one its header says, or too little
        on either side of it.
    ConfigurationError
        If the thickness is no thickness.
    """
    spectrum = read_xdi(path)
    if thickness_um is not None and not _THICKNESS[0] <= thickness_um <= _THICKNESS[1]:
        raise ConfigurationError(
            f"the thickness of {path} must be between {_THICKNESS[0]:g} and {_THICKNESS[1]:g} µm, "
            f"found {thickness_um}."
        )
    try:
        tabulated = edge_energy(spectrum.element, spectrum.edge)
    except ConfigurationError as error:
        raise FileFormatError(f"the header of {path} names an edge, but {error}") from None
    inside = (spectrum.energy > ENERGY_MIN) & (spectrum.energy < ENERGY_MAX)
    energy, mu = spectrum.energy[inside], spectrum.mu[inside]
    processor = XAFSProcessor()
    try:
        e0 = processor.find_edge(energy, mu)
        pre_edge, post_edge = _ranges(energy - e0)
        result = processor.normalize(energy, mu, e0, pre_edge, post_edge)
    except SpectrumError as error:
        raise FileFormatError(f"the spectrum in {path} cannot be used: {error}") from None
    if abs(e0 - tabulated) > _CALIBRATION:
        raise FileFormatError(
            f"the edge in {path} is at {e0:.1f} eV, expected the {spectrum.element} "
            f"{spectrum.edge} edge within {_CALIBRATION:g} eV of {tabulated:.1f} eV as its header "
            "says."
        )
    return _anchored(path, spectrum, result, thickness_um)


def _ranges(x: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """Fit ranges (eV relative to the edge): the usual ones if the spectrum is long enough."""
    low, high = float(x[0]), float(x[-1])
    pre_edge = (-150.0, -30.0)
    if np.count_nonzero((x >= pre_edge[0]) & (x <= pre_edge[1])) < 5:
        pre_edge = (max(low, -200.0), -10.0)
    post_edge = (50.0, 300.0) if high > 150.0 else (min(25.0, 0.5 * high), high)
    return pre_edge, post_edge


def _anchored(
    path: Path, spectrum: Spectrum, measured: NormalizedSpectrum, thickness_um: float | None
) -> SampleTable:
    element, edge = spectrum.element, spectrum.edge
    density = density_of(element)

    def tabulated(energy: Array) -> Absorption:
        return split_absorption({element: 1.0}, density, element, edge, energy)

    e0, energy = measured.e0, measured.energy
    jump = float(tabulated(np.array([e0])).jump[0])
    thickness = measured.edge_step / jump if thickness_um is None else thickness_um
    if not _THICKNESS[0] <= thickness <= _THICKNESS[1]:
        raise FileFormatError(
            f"the edge step in {path} is {measured.edge_step:.3g}, that of {thickness:.3g} µm "
            f"of {element}: state a thickness."
        )
    scale = jump * thickness / measured.edge_step
    in_pre = (energy >= e0 + measured.pre_edge[0]) & (energy <= e0 + measured.pre_edge[1])
    pre = np.polynomial.Polynomial.fit(
        energy[in_pre], thickness * tabulated(energy[in_pre]).other, 1
    )
    inner = scale * (measured.mu - measured.pre) + pre(energy)

    grid = energy_grid(e0)
    below, above = grid[grid < energy[0] - 0.5], grid[grid > energy[-1] + 0.5]
    table = np.concatenate([below, energy, above])
    parts = tabulated(table)
    background = thickness * parts.other
    total = background + thickness * parts.jump * (table > e0)
    first, last = len(below), len(below) + len(energy) - 1
    total[:first] += (inner[0] - total[first]) * np.exp((below - energy[0]) / _FADE)
    total[last + 1 :] += (inner[-1] - total[last]) * np.exp((energy[-1] - above) / _FADE)
    total[first : last + 1] = inner
    total = np.maximum(total, 0.0)  # noise of a thin sample

    formula = _formula(spectrum)
    metal = metal_of(element, edge)
    if formula == element:
        reference, reference_name = total, "the sample itself"
    elif metal is not None:
        reference = builtin_absorption(metal, table)[0] * metal.thickness_um
        reference_name = f"{metal.formula} {metal.thickness_um:g} um"
    else:
        width, position = core_width(element, edge), edge_energy(element, edge)
        step = broadened_step(table - position, width, resolution(position))
        reference = (parts.other + parts.jump * step) / jump
        reference_name = f"{element} {1.0 / jump:.3g} um, without fine structure"
    lattice = metal.lattice if metal is not None and formula == element else None
    truth = SampleTruth(
        name=_name(path),
        formula=formula,
        element=element,
        edge=edge,
        e0=e0,
        edge_step=jump * thickness,
        thickness_um=thickness,
        origin="measured",
        x_um=310.0,
        y_um=-190.0,
        width_um=2000.0,
        height_um=1500.0,
        lattice_a=None if lattice is None else lattice.a,
        reflections=() if lattice is None else lattice.reflections(),
        notes={
            "file": path.name,
            "measured_from_eV": f"{energy[0]:.10g}",
            "measured_to_eV": f"{energy[-1]:.10g}",
            "measured_edge_step": f"{measured.edge_step:.6g}",
            "measured_as": spectrum.source,
            "merged_points": f"{spectrum.merged}",
            "anchor_pre_edge_eV": "{:g} {:g}".format(*measured.pre_edge),
            "anchor_post_edge_eV": "{:g} {:g}".format(*measured.post_edge),
            "thickness_from": "the measured step" if thickness_um is None else "the user",
            "tabulated_as": f"{element} {density:g} g/cm3",
            "reference": reference_name,
        },
    )
    return SampleTable(truth, table, total, np.maximum(total - background, 0.0), reference)


def _name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", path.stem)[:_NAME_LENGTH]
    return f"{name}-measured" if name in BUILTIN else name


def _formula(spectrum: Spectrum) -> str:
    for key in ("sample.formula", "sample.stoichiometry"):
        words = spectrum.header.get(key, "").split()
        if words:
            return words[0]
    return spectrum.element if spectrum.header.get("sample.name") == spectrum.element else "unknown"
