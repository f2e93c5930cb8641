"""Sample tables: what they say is true, analysis must find."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xraydb

from beamline.analysis.xafs import XAFSProcessor
from beamline.core.errors import ConfigurationError, FileFormatError, MissingError
from ioc.samples import builtin_names, make_table, read_table, write_table
from ioc.samples.absorption import density_of, edge_energy, energy_grid, split_absorption
from ioc.samples.exafs import Shell, broadened_step, chi
from ioc.samples.lattice import Lattice
from ioc.samples.xdi import read_xdi

DATA = Path(__file__).parents[3] / "shared" / "data"
MEASURED = ("Cu_Foil_rt_2016Foils.xdi", "cu_metal_rt.xdi")
E0 = {"Cu": 8979.0, "Fe": 7112.0, "Fe2O3": 7124.0, "Fe2O3-grains": 7124.0, "Au": 11919.0}
processor = XAFSProcessor()


@pytest.fixture(scope="module", params=builtin_names())
def table(request):
    return make_table(request.param)


def test_the_builtin_samples_are_there():
    assert set(builtin_names()) == set(E0)


def test_energies_cover_the_monochromator(table):
    assert table.energy[0] <= 4000.0
    assert table.energy[-1] >= 20000.0
    assert np.all(np.diff(table.energy) > 0)
    near = np.abs(table.energy - table.truth.e0) < 5.0
    assert np.diff(table.energy[near]).max() < 0.06


def test_absorption_is_physical(table):
    assert np.all(table.total > 0)
    assert np.all(table.fluorescence >= 0)
    assert np.all(table.reference > 0)
    assert np.all(table.fluorescence < table.total)
    below = table.energy < table.truth.e0 - 40.0
    assert table.fluorescence[below].max() < 1e-5


def test_the_steepest_point_is_the_configured_edge(table):
    assert table.truth.e0 == E0[table.truth.name]
    slope = np.gradient(table.total, table.energy)
    assert abs(table.energy[np.argmax(slope)] - table.truth.e0) < 0.1
    assert abs(processor.find_edge(table.energy, table.total) - table.truth.e0) < 0.1


@pytest.mark.parametrize(
    ("post_edge", "tolerance"), [((50.0, 300.0), 0.01), ((100.0, 1000.0), 0.012)]
)
def test_normalisation_finds_the_edge_step(table, post_edge, tolerance):
    result = processor.normalize(table.energy, table.total, post_edge=post_edge)
    assert abs(result.edge_step / table.truth.edge_step - 1) < tolerance


def test_far_from_the_edge_it_is_the_tabulated_absorption(table):
    truth = table.truth
    density = float(truth.notes["density_g_cm3"])
    for energy in (5000.0, truth.e0 - 400.0, truth.e0 + 1500.0, 19000.0):
        tabulated = xraydb.material_mu(truth.formula, energy, density=density, kind="total")
        expected = float(np.ravel(tabulated)[0]) * 1e-4 * truth.thickness_um
        assert np.interp(energy, table.energy, table.total) == pytest.approx(expected, rel=0.01)


def test_foils_are_off_centre_and_larger_than_the_beam(table):
    truth = table.truth
    assert abs(truth.x_um) > 50
    assert abs(truth.y_um) > 50
    assert min(truth.width_um, truth.height_um) > 500


def test_a_thicker_foil_absorbs_more():
    thin, thick = make_table("Cu", thickness_um=5.0), make_table("Cu", thickness_um=10.0)
    np.testing.assert_allclose(thick.total, 2.0 * thin.total)
    np.testing.assert_allclose(thick.reference, thin.reference)
    assert thick.truth.edge_step == pytest.approx(2.0 * thin.truth.edge_step)


def test_the_reference_of_a_compound_is_the_metal():
    table = make_table("Fe2O3")
    assert processor.find_edge(table.energy, table.reference) == pytest.approx(7112.0, abs=0.1)


@pytest.mark.parametrize("thickness", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_thickness_that_is_none(thickness):
    with pytest.raises(ConfigurationError, match="thickness of Cu"):
        make_table("Cu", thickness_um=thickness)


def test_a_table_survives_the_file(table, tmp_path):
    path = write_table(table.truth.name, tmp_path / "new" / "tables")
    again = read_table(path)
    for field in ("energy", "total", "fluorescence", "reference"):
        np.testing.assert_allclose(getattr(again, field), getattr(table, field), rtol=1e-9)
    for field in ("name", "formula", "element", "edge", "origin", "e0", "x_um", "notes"):
        assert getattr(again.truth, field) == getattr(table.truth, field)
    assert [r.d for r in again.truth.reflections] == pytest.approx(
        [r.d for r in table.truth.reflections], abs=1e-6
    )
    assert len(again.truth.shells) == len(table.truth.shells)
    header = [line for line in path.read_text(encoding="ascii").splitlines() if line[0] == "#"]
    assert max(map(len, header)) < 200


def test_equal_tables_share_a_file_and_others_get_a_number(tmp_path):
    first = write_table("Cu", tmp_path)
    assert write_table("Cu", tmp_path) == first
    second = write_table("Cu", tmp_path, thickness_um=3.0)
    assert second != first
    assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_a_map_stands_beside_its_table(tmp_path):
    table = make_table("Fe2O3-grains")
    assert table.thickness.shape == (36, 48)
    assert table.thickness.max() == 255
    assert (table.thickness == 0).mean() > 0.1
    assert len(np.unique(table.thickness)) > 10
    path = write_table("Fe2O3-grains", tmp_path)
    again = read_table(path)
    assert (again.thickness == table.thickness).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "Fe2O3-grains.pgm", "Fe2O3-grains.table",
    ]  # fmt: skip
    assert "# map: Fe2O3-grains.pgm\n" in path.read_text()
    assert write_table("Fe2O3-grains", tmp_path) == path
    # A map that somebody has changed is not taken for ours.
    path.with_suffix(".pgm").write_text("P2\n1 1\n1\n1\n")
    second = write_table("Fe2O3-grains", tmp_path)
    assert second.name == "Fe2O3-grains-2.table"
    assert (read_table(second).thickness == table.thickness).all()
    path.with_suffix(".pgm").write_text("P2\n2 2\n1\n1\n")
    with pytest.raises(FileFormatError, match=r"Fe2O3-grains\.pgm"):
        read_table(path)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write the sample table of 'Cu'"):
        write_table("Cu", tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Cuu", "did you mean 'Cu'"), ("zirconium", "built in"), ("x" * 5000, "no sample")],
)
def test_an_unknown_sample(name, hint):
    with pytest.raises(MissingError, match=hint):
        make_table(name)


def test_a_broken_table_file(tmp_path):
    path = tmp_path / "broken.table"
    for content in ("", "# name: x\n1 2 3 4\n", "1 2 3\n", "# shell: Cu\n"):
        path.write_text(content)
        with pytest.raises(FileFormatError, match=r"broken\.table"):
            read_table(path)


# The lattice.


def test_cubic_spacings_and_absences():
    lines = make_table("Cu").truth.reflections
    assert [(r.h, r.k, r.l) for r in lines[:5]] == [
        (1, 1, 1),
        (2, 0, 0),
        (2, 2, 0),
        (3, 1, 1),
        (2, 2, 2),
    ]
    assert lines[0].d == pytest.approx(3.615 / math.sqrt(3))
    assert all((r.h + r.k + r.l) % 2 == 0 for r in make_table("Fe").truth.reflections)
    assert max(r.intensity for r in lines) == pytest.approx(100.0)


def test_haematite_has_its_strong_lines():
    lines = {(r.h, r.k, r.l): r for r in make_table("Fe2O3").truth.reflections}
    # Spacings of the International Centre for Diffraction Data, card 33-0664.
    for hkl, d in {(0, 1, 2): 3.684, (1, 0, 4): 2.700, (1, 1, 0): 2.519, (1, 1, 6): 1.6941}.items():
        assert lines[hkl].d == pytest.approx(d, abs=0.003)
    strongest = sorted(lines.values(), key=lambda r: -r.intensity)[:4]
    assert {(r.h, r.k, r.l) for r in strongest} & {(1, 0, 4), (1, 1, 0), (1, 1, 6)}
    # c glide: h -h 0 l needs an even l; rhombohedral centring: -h + k + l = 3n.
    assert (0, 0, 3) not in lines
    assert (1, 0, 0) not in lines


def test_multiplicities_of_a_primitive_cube():
    lines = Lattice(4.0, None, (("Cu", 0.0, 0.0, 0.0),)).reflections(d_min=1.5, faintest=0.0)
    assert [(r.h, r.k, r.l) for r in lines] == [
        (1, 0, 0),
        (1, 1, 0),
        (1, 1, 1),
        (2, 0, 0),
        (2, 1, 0),
        (2, 1, 1),
    ]
    # 200 and 100 both have six planes: their ratio is that of the form factors, below 1.
    assert 0.3 < lines[3].intensity / lines[0].intensity < 1.0
    assert lines[1].intensity > lines[0].intensity  # twelve planes


# The model of the edge.


def test_step_is_symmetric_and_complete():
    x = np.linspace(-80, 80, 3201)
    step = broadened_step(x, 5.4, 1.5)
    np.testing.assert_allclose(step + step[::-1], 1.0, atol=1e-6)
    assert np.all(np.diff(step) >= 0)
    assert abs(step[0]) < 1e-9
    assert abs(np.interp(-30.0, x, step)) < 2e-3


def test_fine_structure_has_the_distance_that_was_put_in():
    k = np.arange(0.0, 16.0, 0.05)
    r = 3.0
    signal = chi(k, [Shell("Cu", 12, r, 0.005)], 1.0)
    assert np.all(np.isfinite(signal))
    assert np.all(signal[k <= 0.05] == 0.0)
    window = np.exp(-(((k - 8.0) / 3.0) ** 2))
    trial = np.arange(1.5, 4.5, 0.01)
    # The documented phase, -1.6 - 0.615 k, is taken out.
    power = [
        abs(np.sum(signal * k**2 * window * np.exp(-1j * (2 * k * t - 0.615 * k)))) for t in trial
    ]
    assert trial[np.argmax(power)] == pytest.approx(r, abs=0.03)


def test_the_copper_foil_looks_like_copper():
    """Its first shell at 2.556 Å is a maximum of |χ(R)| near 2.24 Å, as in real foils."""
    table = make_table("Cu")
    k = np.arange(3.0, 12.0, 0.05)
    e = table.truth.e0 + 3.80998211 * k**2
    mu = np.interp(e, table.energy, table.fluorescence)
    smooth = np.polynomial.Polynomial.fit(k, mu, 4)(k)
    signal = (mu / smooth - 1.0) * k**2 * np.hanning(len(k))
    trial = np.arange(1.2, 4.0, 0.01)
    power = [abs(np.sum(signal * np.exp(-2j * k * t))) for t in trial]
    assert trial[np.argmax(power)] == pytest.approx(2.24, abs=0.06)


def test_edges_of_gold_are_taken_apart():
    e = energy_grid(11919.0)
    parts = split_absorption({"Au": 1.0}, density_of("Au"), "Au", "L3", e)
    whole = xraydb.mu_elam("Au", e) * density_of("Au") * 1e-4
    far = np.min(np.abs(e[:, None] - np.array([11919.0, 13734.0, 14353.0])), axis=1) > 40.0
    np.testing.assert_allclose(
        (parts.other + parts.jump * (e > 11919.0))[far], whole[far], rtol=2e-3
    )
    assert np.all(np.diff(parts.jump) < 0)  # no trace of the L2 and L1 edges


def test_edges_that_cannot_be_simulated():
    with pytest.raises(ConfigurationError, match="no element 'Xx'"):
        edge_energy("Xx", "K")
    with pytest.raises(ConfigurationError, match="no 'L7' edge"):
        edge_energy("Cu", "L7")
    with pytest.raises(ConfigurationError, match="4000 to 20000"):
        edge_energy("S", "K")


# Measured spectra.


def spectrum(tmp_path: Path, e0: float, *, element: str = "Cu", edge: str = "K", name="foil.xdi"):
    """A spectrum with an offset and slope of its own, and no fine structure."""
    energy = np.concatenate(
        [e0 + np.arange(-90.0, -20, 5.0), e0 + np.arange(-20, 30, 0.25), e0 + np.arange(30, 600, 4)]
    )
    x = energy - e0
    mu = -0.49 + 3e-4 * x + 1.7 * broadened_step(x, 1.5, 1.2) * (energy / e0) ** -2
    lines = [
        "# XDI/1.0",
        f"# Element.symbol: {element}",
        f"# Element.edge: {edge}",
        "# Column.1: energy eV",
        "# Column.2: mutrans",
    ]
    path = tmp_path / name
    path.write_text(
        "\n".join([*lines, *(f"{a:.4f} {b:.9f}" for a, b in zip(energy, mu, strict=True))])
    )
    return path


def test_a_measured_spectrum_is_anchored_to_tables(tmp_path):
    path = spectrum(tmp_path, 8981.3)
    measured, table = read_xdi(path), make_table(path)
    truth = table.truth
    assert truth.origin == "measured"
    assert truth.e0 == pytest.approx(8981.3, abs=0.1)
    # The thickness is that for which the step stays as it was measured.
    assert truth.edge_step == pytest.approx(1.7, rel=0.02)
    assert truth.thickness_um == pytest.approx(1.7 / 0.2151, rel=0.03)
    a, b = (
        processor.normalize(e, m, truth.e0)
        for e, m in ((measured.energy, measured.mu), (table.energy, table.total))
    )
    assert b.edge_step == pytest.approx(truth.edge_step, rel=0.01)
    difference = np.interp(a.energy, b.energy, b.norm) - a.norm
    assert np.sqrt(np.mean(difference**2)) < 0.003
    foil = make_table("Cu", thickness_um=truth.thickness_um)
    for energy in (4000.0, 6000.0, 8850.0, 20000.0):
        here, there = (np.interp(energy, t.energy, t.total) for t in (table, foil))
        assert here == pytest.approx(there, rel=0.03)
    # No jump where the measured range ends.
    end = measured.energy[-1]
    near = (table.energy > end - 30) & (table.energy < end + 30)
    assert np.abs(np.diff(table.total[near])).max() < 0.02


def test_a_stated_thickness_scales_the_spectrum(tmp_path):
    path = spectrum(tmp_path, 8980.0)
    table = make_table(path, thickness_um=5.0)
    assert table.truth.thickness_um == 5.0
    assert table.truth.edge_step == pytest.approx(5.0 * 0.2151, rel=0.005)
    found = processor.normalize(table.energy, table.total)
    assert found.edge_step == pytest.approx(table.truth.edge_step, rel=0.01)
    with pytest.raises(ConfigurationError, match="thickness of"):
        make_table(path, thickness_um=-1.0)


def test_an_element_without_a_builtin_foil(tmp_path):
    table = make_table(spectrum(tmp_path, 9660.5, element="Zn"))
    assert table.truth.formula == "unknown"
    assert table.truth.reflections == ()
    assert processor.find_edge(table.energy, table.reference) == pytest.approx(9659.0, abs=0.3)


@pytest.mark.parametrize(
    ("element", "edge", "message"),
    [
        ("Fe", "K", "expected the Fe K edge within 60 eV of 7112.0"),
        ("Qq", "K", "no element 'Qq'"),
        ("Cu", "M9", "no 'M9' edge"),
        ("Cu", "L3", "4000 to 20000 eV"),
    ],
)
def test_a_header_that_does_not_fit_the_spectrum(tmp_path, element, edge, message):
    path = spectrum(tmp_path, 8980.0, element=element, edge=edge)
    with pytest.raises(FileFormatError, match=message):
        make_table(path)


def test_a_spectrum_without_an_edge(tmp_path):
    path = spectrum(tmp_path, 8980.0)
    lines = path.read_text().splitlines()
    flat = [line if line[0] == "#" else line.split()[0] + " 0.25" for line in lines]
    path.write_text("\n".join(flat))
    with pytest.raises(FileFormatError, match=r"cannot be used: no absorption edge"):
        make_table(path)


def test_names_fit_records_and_replies(tmp_path):
    path = spectrum(tmp_path, 8980.0, name="a, strange: näme that goes on and on and on.xdi")
    name = make_table(path).truth.name
    assert name.isascii()
    assert len(name) <= 25
    assert not set(name) & set(",: ")
    assert make_table(spectrum(tmp_path, 8980.0, name="Cu.xdi")).truth.name != "Cu"


@pytest.mark.parametrize("name", MEASURED)
def test_the_real_copper_foils(name, tmp_path):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA}, which is not part of the project")
    measured, table = read_xdi(path), read_table(write_table(path, tmp_path))
    truth = table.truth
    assert truth.e0 == pytest.approx(8980.1 if "2016" in name else 8980.6, abs=0.2)
    assert truth.edge_step == pytest.approx(2.69, rel=0.02)
    assert np.all(table.total > 0)
    a = processor.normalize(measured.energy, measured.mu)
    b = processor.normalize(table.energy, table.total)
    assert b.e0 == pytest.approx(truth.e0, abs=0.05)
    assert b.edge_step == pytest.approx(truth.edge_step, rel=0.002)
    difference = np.interp(a.energy, b.energy, b.norm) - a.norm
    assert np.sqrt(np.mean(difference**2)) < 0.003
    assert truth.reflections
