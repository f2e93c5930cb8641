"""Built-in samples: foils whose absorption is tabulated and whose fine structure is calculated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError
from beamline.core.units import ELECTRON_MASS_TERM
from ioc.samples.absorption import core_width, energy_grid, resolution, split_absorption
from ioc.samples.exafs import Shell, broadened_step, chi
from ioc.samples.grains import grain_map
from ioc.samples.lattice import Lattice
from ioc.samples.table import SampleTable, SampleTruth

__all__ = ["BUILTIN", "BuiltinSample", "builtin_absorption", "builtin_table", "metal_of"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WhiteLine:
    """A Gaussian peak on top of an edge: height (of the step), position and FWHM (eV)."""

    height: float
    position: float
    width: float


@dataclass(frozen=True)
class BuiltinSample:
    """All that a built-in sample is made of; see `ioc.samples.table.SampleTruth` for units."""

    formula: str
    fractions: dict[str, float]  # of the mass
    density: float  # g/cm³
    element: str
    edge: str
    e0: float
    thickness_um: float
    lattice: Lattice
    shells: tuple[Shell, ...]
    x_um: float
    y_um: float
    white_lines: tuple[WhiteLine, ...] = ()
    s02: float = 0.9
    width_um: float = 2000.0
    height_um: float = 1500.0
    grains: int = 0  # of a sample that is not the same everywhere
    notes: dict[str, str] = field(default_factory=dict)


_FCC = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_BCC = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))


def _metal(symbol: str, a: float, sites: tuple[tuple[float, float, float], ...]) -> Lattice:
    return Lattice(a, None, tuple((symbol, *site) for site in sites))


def _fcc_shells(symbol: str, a: float, sigma2: tuple[float, ...]) -> tuple[Shell, ...]:
    squares = (0.5, 1.0, 1.5, 2.0)
    return tuple(
        Shell(symbol, n, a * q**0.5, s)
        for n, q, s in zip((12, 6, 24, 12), squares, sigma2, strict=True)
    )


def _bcc_shells(symbol: str, a: float, sigma2: tuple[float, ...]) -> tuple[Shell, ...]:
    squares = (0.75, 1.0, 2.0, 2.75, 3.0)
    return tuple(
        Shell(symbol, n, a * q**0.5, s)
        for n, q, s in zip((8, 6, 12, 24, 8), squares, sigma2, strict=True)
    )


def _hematite() -> Lattice:
    """R-3c, hexagonal axes: R. L. Blake et al., Am. Mineral. 51 (1966) 123."""
    z, x = 0.3553, 0.3059
    iron = [(0.0, 0.0, z), (0.0, 0.0, 0.5 - z), (0.0, 0.0, -z), (0.0, 0.0, 0.5 + z)]
    oxygen = [(x, 0.0, 0.25), (0.0, x, 0.25), (-x, -x, 0.25)]
    oxygen += [(-x, 0.0, 0.75), (0.0, -x, 0.75), (x, x, 0.75)]
    centring = ((0.0, 0.0, 0.0), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3))
    atoms = [
        (symbol, u + s, v + t, w + r)
        for symbol, sites in (("Fe", iron), ("O", oxygen))
        for u, v, w in sites
        for s, t, r in centring
    ]
    return Lattice(5.0346, 13.752, tuple(atoms))


#: The samples by name. Distances follow from the lattices, mean square deviations are those of
#: textbooks for room temperature.
BUILTIN: dict[str, BuiltinSample] = {
    "Cu": BuiltinSample(
        formula="Cu",
        fractions={"Cu": 1.0},
        density=8.96,
        element="Cu",
        edge="K",
        e0=8979.0,
        thickness_um=7.5,
        lattice=_metal("Cu", 3.615, _FCC),
        shells=_fcc_shells("Cu", 3.615, (0.0085, 0.0115, 0.0110, 0.0105)),
        x_um=380.0,
        y_um=-260.0,
    ),
    "Fe": BuiltinSample(
        formula="Fe",
        fractions={"Fe": 1.0},
        density=7.874,
        element="Fe",
        edge="K",
        e0=7112.0,
        thickness_um=5.0,
        lattice=_metal("Fe", 2.8665, _BCC),
        shells=_bcc_shells("Fe", 2.8665, (0.0050, 0.0065, 0.0085, 0.0090, 0.0080)),
        x_um=-240.0,
        y_um=310.0,
    ),
    "Fe2O3": BuiltinSample(
        formula="Fe2O3",
        fractions={"Fe": 0.69943, "O": 0.30057},
        density=5.26,
        element="Fe",
        edge="K",
        e0=7124.0,
        thickness_um=10.0,
        lattice=_hematite(),
        shells=(
            Shell("O", 3, 1.945, 0.0040),
            Shell("O", 3, 2.116, 0.0060),
            Shell("Fe", 1, 2.900, 0.0050),
            Shell("Fe", 3, 2.971, 0.0055),
            Shell("Fe", 3, 3.364, 0.0060),
            Shell("Fe", 6, 3.705, 0.0065),
        ),
        white_lines=(WhiteLine(0.30, 8.0, 7.0), WhiteLine(0.05, -10.5, 2.5)),
        x_um=150.0,
        y_um=420.0,
        notes={"chemical_shift_eV": "12.0"},
    ),
    "Au": BuiltinSample(
        formula="Au",
        fractions={"Au": 1.0},
        density=19.3,
        element="Au",
        edge="L3",
        e0=11919.0,
        thickness_um=6.0,
        lattice=_metal("Au", 4.0782, _FCC),
        shells=_fcc_shells("Au", 4.0782, (0.0080, 0.0107, 0.0105, 0.0110)),
        x_um=-410.0,
        y_um=-180.0,
    ),
}


#: The same mineral as grains of different thickness, with holes between them.
BUILTIN["Fe2O3-grains"] = replace(
    BUILTIN["Fe2O3"], x_um=-150.0, y_um=180.0, width_um=1200.0, height_um=900.0, grains=40
)
_MAP_PIXEL_UM, _MAP_SEED = 25.0, 7


def _thickness(sample: BuiltinSample) -> npt.NDArray[np.uint16] | None:
    if sample.grains == 0:
        return None
    shape = (round(sample.height_um / _MAP_PIXEL_UM), round(sample.width_um / _MAP_PIXEL_UM))
    return grain_map(shape, sample.grains, _MAP_SEED)


def metal_of(element: str, edge: str) -> BuiltinSample | None:
    """Find the built-in foil of a pure element with the given edge, if there is one."""
    for sample in BUILTIN.values():
        if (sample.formula, sample.edge) == (element, edge):
            return sample
    return None


def builtin_absorption(sample: BuiltinSample, energy: Array) -> tuple[Array, Array]:
    """Absorption (1/µm) of a sample, and of its edge alone, at `energy` (eV, (n,))."""
    parts = split_absorption(sample.fractions, sample.density, sample.element, sample.edge, energy)
    shape = _edge_shape(sample, energy - sample.e0, parts.other, parts.jump)
    edge = parts.jump * shape
    return parts.other + edge, edge


def _edge_shape(sample: BuiltinSample, x: Array, other: Array, jump: Array) -> Array:
    """Absorption of the edge in units of its step, with the maximum of dµ/dE at x = 0."""
    width, sharpness = core_width(sample.element, sample.edge), resolution(sample.e0)
    k = np.sqrt(np.maximum(x, 0.0) / ELECTRON_MASS_TERM)
    fine = 1.0 + chi(k, sample.shells, sample.s02)

    def shape(shift: float) -> Array:
        y = x + shift
        lines = np.zeros_like(y)
        for line in sample.white_lines:
            lines += line.height * np.exp(
                -4.0 * np.log(2.0) * ((y - line.position) / line.width) ** 2
            )
        return broadened_step(y, width, sharpness) * fine + lines

    # Lines and fine structure move the steepest point: shift the step until that lies at e0.
    near = np.abs(x) < 8.0
    shift = 0.0
    for _ in range(20):
        slope = np.gradient((other + jump * shape(shift))[near], x[near])
        off = float(x[near][np.argmax(slope)])
        if abs(off) < 0.02:
            break
        shift += 0.7 * off
    return shape(shift)


def builtin_table(name: str, thickness_um: float | None = None) -> SampleTable:
    """Make the table of a built-in sample, of its own or another thickness (µm)."""
    sample = BUILTIN[name]
    thickness = sample.thickness_um if thickness_um is None else thickness_um
    if not 0.0 < thickness < 1e5:
        raise ConfigurationError(
            f"the thickness of {name} must be between 0 and 100000 µm, found {thickness}."
        )
    energy = energy_grid(sample.e0)
    total, edge = builtin_absorption(sample, energy)
    metal = metal_of(sample.element, sample.edge) or sample
    if metal is sample:
        reference = total * sample.thickness_um
    else:
        reference = builtin_absorption(metal, energy)[0] * metal.thickness_um
    at_e0 = np.array([sample.e0])
    jump = split_absorption(
        sample.fractions, sample.density, sample.element, sample.edge, at_e0
    ).jump
    notes = {
        "reference": f"{metal.formula} {metal.thickness_um:g} um",
        "reference_e0_eV": f"{metal.e0:g}",
        "density_g_cm3": f"{sample.density:g}",
        "s02": f"{sample.s02:g}",
        "core_width_eV": f"{core_width(sample.element, sample.edge):g}",
        "resolution_eV": f"{resolution(sample.e0):.4g}",
        **sample.notes,
    }
    if sample.lattice.c is not None:
        notes["lattice_c_A"] = f"{sample.lattice.c:g}"
    truth = SampleTruth(
        name=name,
        formula=sample.formula,
        element=sample.element,
        edge=sample.edge,
        e0=sample.e0,
        edge_step=float(jump[0] * thickness),
        thickness_um=thickness,
        origin="built-in",
        x_um=sample.x_um,
        y_um=sample.y_um,
        width_um=sample.width_um,
        height_um=sample.height_um,
        lattice_a=sample.lattice.a,
        reflections=sample.lattice.reflections(),
        shells=sample.shells,
        notes=notes,
    )
    return SampleTable(
        truth, energy, total * thickness, edge * thickness, reference, _thickness(sample)
    )
