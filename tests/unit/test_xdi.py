"""The XDI reader: every way in which a file can be unreadable is one clear sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beamline.core.errors import BeamlineError, FileFormatError, MissingError
from beamline.core.units import HC
from ioc.samples import make_table
from ioc.samples.xdi import read_xdi

ENERGY = np.concatenate(
    [np.arange(8880.0, 8960.0, 5.0), np.arange(8960.0, 9000.0, 0.5), np.arange(9000.0, 9400.0, 2.0)]
)
HEADER = ["# XDI/1.0", "# Element.symbol: Cu", "# Element.edge: K"]


def step(energy: np.ndarray) -> np.ndarray:
    return 1.3 * (0.5 + np.arctan((energy - 8980.0) / 1.5) / np.pi) - 2e-4 * (energy - 8980.0)


def xdi(
    columns: dict[str, np.ndarray],
    header: list[str] = HEADER,
    units: str = "eV",
    dashes: bool = True,
) -> str:
    lines = list(header)
    lines += [
        f"# Column.{i}: {name} {units if i == 1 else ''}".rstrip()
        for i, name in enumerate(columns, 1)
    ]
    if dashes:
        lines += ["# ///", "# a comment: with a colon", "#----", "# " + " ".join(columns)]
    lines += [
        "  ".join(f"{value:.12g}" for value in row) for row in zip(*columns.values(), strict=True)
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path: Path):
    def save(content: str | bytes) -> Path:
        path = tmp_path / "spectrum.xdi"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return save


GOOD = xdi({"energy": ENERGY, "mutrans": step(ENERGY)})


def test_reads_mutrans(write):
    spectrum = read_xdi(write(GOOD))
    np.testing.assert_allclose(spectrum.energy, ENERGY)
    np.testing.assert_allclose(spectrum.mu, step(ENERGY), rtol=1e-9)
    assert (spectrum.element, spectrum.edge, spectrum.source) == ("Cu", "K", "mutrans")
    assert spectrum.header["element.symbol"] == "Cu"


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"i0": np.full(len(ENERGY), 1e5), "itrans": 1e5 * np.exp(-step(ENERGY))}, "ln(i0/itrans)"),
        ({"mufluor": step(ENERGY)}, "mufluor"),
        ({"ifluor": step(ENERGY) * 3.0, "i0": np.full(len(ENERGY), 3.0)}, "ifluor/i0"),
        ({"normtrans": step(ENERGY)}, "normtrans"),
        ({"MuTrans": step(ENERGY)}, "mutrans"),
    ],
)
def test_absorption_comes_from_the_columns_there_are(write, columns, source):
    spectrum = read_xdi(write(xdi({"energy": ENERGY, **columns})))
    assert spectrum.source == source
    np.testing.assert_allclose(spectrum.mu, step(ENERGY), atol=1e-9)


def test_column_order_does_not_matter(write):
    itrans = np.exp(-step(ENERGY))
    path = write(
        xdi({"itrans": itrans, "time": ENERGY * 0, "i0": itrans * 0 + 1, "energy": ENERGY})
    )
    np.testing.assert_allclose(read_xdi(path).mu, step(ENERGY), atol=1e-9)


def test_labels_name_columns_where_the_header_does_not(write):
    lines = [line for line in GOOD.splitlines() if "Column." not in line]
    np.testing.assert_allclose(read_xdi(write("\n".join(lines))).energy, ENERGY)


def test_kilo_electronvolts(write):
    path = write(xdi({"energy": ENERGY / 1000.0, "mutrans": step(ENERGY)}, units="keV"))
    np.testing.assert_allclose(read_xdi(path).energy, ENERGY)


def test_angles_with_a_spacing(write):
    angle = np.degrees(np.arcsin(HC / (2 * 3.1356 * ENERGY)))
    header = [*HEADER, "# Mono.d_spacing: 3.1356"]
    path = write(xdi({"angle": angle, "mutrans": step(ENERGY)}, header, units="degrees"))
    np.testing.assert_allclose(read_xdi(path).energy, ENERGY, rtol=1e-9)


def test_unsorted_energies_are_sorted_and_duplicates_averaged(write):
    energy = np.concatenate([ENERGY[::-1], ENERGY[10:12]])
    mu = np.concatenate([step(ENERGY)[::-1], step(ENERGY[10:12]) + 0.2])
    spectrum = read_xdi(write(xdi({"energy": energy, "mutrans": mu})))
    assert spectrum.merged == 2
    np.testing.assert_allclose(spectrum.energy, ENERGY)
    np.testing.assert_allclose(spectrum.mu[10:12], step(ENERGY[10:12]) + 0.1)


def test_line_ends_commas_and_a_byte_order_mark(write):
    text = "\ufeff" + GOOD.replace("\n", "\r\n").replace("  ", ", ")
    np.testing.assert_allclose(read_xdi(write(text)).energy, ENERGY)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(MissingError, match=r"no XDI file .*nowhere\.xdi"):
        read_xdi(tmp_path / "nowhere.xdi")


def test_a_directory(tmp_path):
    with pytest.raises(FileFormatError, match="cannot read"):
        read_xdi(tmp_path)


def replaced(column: str, row: int, value: float) -> str:
    columns = {"energy": ENERGY.copy(), "i0": np.ones(len(ENERGY)), "itrans": np.exp(-step(ENERGY))}
    columns[column][row] = value
    return xdi(columns)


def without(word: str) -> str:
    return "\n".join(line for line in GOOD.splitlines() if word not in line)


UNREADABLE = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "binary": (b"# XDI/1.0\n\x00\x01", "is a binary file"),
    "another format": ("energy,mu\n1,2\n", "is not an XDI file"),
    "no data": ("\n".join(HEADER), "no data below"),
    "no element": (without("symbol"), "Element.symbol"),
    "empty element": (GOOD.replace("symbol: Cu", "symbol:"), "Element.symbol"),
    "no edge": (without("Element.edge"), "Element.edge"),
    "no energy column": (GOOD.replace("1: energy", "1: enery"), "no energy column"),
    "no absorption": (GOOD.replace("2: mutrans", "2: mutrams"), "expected mutrans"),
    "half of it": (xdi({"energy": ENERGY, "itrans": ENERGY}), "expected mutrans"),
    "odd units": (GOOD.replace("energy eV", "energy pixel"), "'pixel', expected eV"),
    "angles without spacing": (
        xdi({"angle": ENERGY / 1000, "mutrans": ENERGY}, units="degrees"),
        "Mono.d_spacing",
    ),
    "a word": (GOOD.replace("\n8960 ", "\nbroken "), "line 26 .* holds 'broken'"),
    "a short row": (GOOD + "9500\n", "1 columns, expected 2"),
    "NaN": (replaced("itrans", 3, np.nan), "itrans = nan"),
    "infinity": (replaced("energy", 3, np.inf), "energy = inf"),
    "zero current": (replaced("i0", 0, 0.0), "i0 = 0, expected a number above 0"),
    "negative current": (replaced("itrans", 7, -5.0), "itrans = -5, expected a number above 0"),
    "zero energy": (replaced("energy", 7, 0.0), "energy = 0, expected"),
    "few points": (xdi({"energy": ENERGY[:5], "mutrans": ENERGY[:5]}), "holds 5 different"),
    "one energy": (xdi({"energy": ENERGY * 0 + 9000, "mutrans": ENERGY}), "holds 1 different"),
    "column zero": (GOOD.replace("Column.1", "Column.0"), "no energy column"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_are_refused_with_a_reason(write, case):
    content, message = UNREADABLE[case]
    with pytest.raises(FileFormatError, match=message) as caught:
        read_xdi(write(content))
    assert "spectrum.xdi" in str(caught.value)
    assert "\n" not in str(caught.value)


BODY = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.one_of(
            st.sampled_from([*HEADER, *GOOD.splitlines(), "#---", "# ///", "", "#"]),
            st.text(max_size=30),
            st.lists(st.floats(), max_size=3).map(lambda v: " ".join(map(str, v))),
        ),
        max_size=60,
    ).map(lambda lines: "\n".join(["# XDI/1.0", *lines]).encode("utf-8", "surrogatepass")),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BODY)
@example(b"# XDI/1.0\n# Column." + b"9" * 5000 + b": energy\n1 2")
@example(b"# XDI/1.0\n,,,\n")
def test_any_bytes_give_a_table_or_an_error_of_ours(tmp_path, content):
    path = tmp_path / "hostile.xdi"
    path.write_bytes(content)
    with contextlib.suppress(BeamlineError):
        make_table(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(ENERGY) - 1),
            st.sampled_from(["energy", "mutrans"]),
            st.one_of(st.floats(-1e4, 1e4), st.floats()),
        ),
        max_size=5,
    ),
    st.floats(1e-3, 1e3),
    st.floats(-50, 50),
)
def test_a_damaged_spectrum_never_makes_a_bad_table(tmp_path, damage, gain, offset):
    columns = {"energy": ENERGY.copy(), "mutrans": gain * step(ENERGY) + offset}
    for row, name, value in damage:
        columns[name][row] = value
    path = tmp_path / "damaged.xdi"
    path.write_text(xdi(columns))
    try:
        table = make_table(path)
    except BeamlineError:
        return
    assert np.all(np.diff(table.energy) > 0)
    for values in (table.total, table.fluorescence, table.reference):
        assert np.all(np.isfinite(values))
        assert np.all(values >= 0)
    assert abs(table.truth.e0 - 8979.0) < 60
    assert table.truth.edge_step > 0
