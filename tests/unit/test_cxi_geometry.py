"""CrystFEL geometry and list files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamline.core.errors import FileFormatError
from beamline.crystallography.geometry import (
    Detector,
    crystfel_geometry,
    read_geometry,
    write_geometry,
    write_list,
)

DETECTOR = Detector(
    shape=(512, 600),
    distance_m=0.1,
    pixel_m=(150e-6, 150e-6),
    beam_centre_px=(258.4, 251.7),
    adu_per_photon=2.5,
)


def values(text):
    lines = (line.split(";")[0].partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def test_corner_is_half_a_pixel_before_the_first_pixel_centre():
    found = values(crystfel_geometry(DETECTOR))
    assert float(found["p0/corner_x"]) == pytest.approx(-258.9)
    assert float(found["p0/corner_y"]) == pytest.approx(-252.2)
    assert (found["p0/max_fs"], found["p0/max_ss"]) == ("599", "511")
    assert float(found["res"]) == pytest.approx(1 / 150e-6)
    assert found["photon_energy"] == "/LCLS/photon_energy_eV eV"
    assert found["clen"] == "/LCLS/detector_1/EncoderValue mm"
    assert found["data"] == "/entry_1/data_1/data"
    assert [found[f"dim{n}"] for n in range(3)] == ["%", "ss", "fs"]
    assert "mask" not in found
    assert values(crystfel_geometry(DETECTOR, mask=True))["mask"].endswith("detector_1/mask")


@given(
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.floats(1e-3, 10),
    st.tuples(st.floats(1e-6, 1e-3), st.floats(1e-6, 1e-3)),
    st.tuples(st.floats(-6000, 6000), st.floats(-6000, 6000)),
)
def test_what_is_written_is_read(tmp_path_factory, shape, distance, pixel, centre):
    path = tmp_path_factory.mktemp("geometry") / "a.geom"
    detector = Detector(shape, distance, pixel, centre)
    write_geometry(path, detector)
    found = read_geometry(path, distance_m=distance)
    assert found.shape == shape
    assert found.distance_m == distance
    assert found.pixel_m == pytest.approx(pixel, rel=1e-8)
    assert found.beam_centre_px == pytest.approx(centre, rel=1e-6, abs=1e-5)


def test_literal_lengths_and_values_per_panel(tmp_path):
    path = tmp_path / "a.geom"
    text = crystfel_geometry(DETECTOR)
    text = text.replace("res =", "p0/res =")
    for clen, metres in (("0.25", 0.25), ("250 mm", 0.25), ("0.25 m ; far", 0.25)):
        path.write_text(text.replace("/LCLS/detector_1/EncoderValue mm", clen))
        assert read_geometry(path).distance_m == metres
    assert read_geometry(path).beam_centre_px == pytest.approx((258.4, 251.7))
    assert read_geometry(path).adu_per_photon == 2.5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("clen =", "; clen =", "no value for 'clen'"),
        ("p0/corner_x", "; p0/corner_x", "no value for 'corner_x' of panel p0"),
        ("p0/min_fs", "q1/corner_x = 3\np0/min_fs", "no value for 'min_ss' of panel q1"),
        ("+1.0x +0.0y", "sideways", "can't be understood"),
        ("+1.0x +0.0y", "1e999x", "must be finite"),
        ("+1.0x +0.0y", "+0.0x +1.0y", "fs and ss in one direction"),
        ("+1.0x +0.0y", ";", "must be 'key = value'"),
        ("res = ", "res = many", "must be a number, found 'many"),
        ("res = ", "res = -", "which must be positive"),
        ("res = ", "res = nan ;", "must be a number, found 'nan'"),
        ("p0/corner_x = ", "p0/corner_x = inf ;", "must be a number, found 'inf'"),
        ("p0/min_ss = 0", "p0/min_ss = 512", "makes no detector"),
        ("p0/min_ss = 0", "p0/min_ss = 0.5", "number of a pixel, found 0.5"),
        ("p0/max_fs = 599", "p0/max_fs = 99999999999", "number of a pixel, found 1e"),
        ("p0/max_fs = 599", "p0/max_fs = 900000\np0/max_ss = 900000 ;", "too many"),
        ("p0/max_ss = 511", "p0/max_ss = 900000", "too many"),
        ("dim1 = ss", "dim1 = fs", "one dimension ss and after it one fs, found % fs fs"),
        ("dim1 = ss\ndim2 = fs", "dim1 = fs\ndim2 = ss", "found % fs ss"),
        ("dim0 = %", "dim0 = panel", "must be ss, fs, % or a number"),
        ("dim0 = %", "dim0 = -3", "must be ss, fs, % or a number"),
        ("p0/min_fs", "p0/no_index = maybe\np0/min_fs", "must be a number, found 'maybe'"),
        ("p0/min_fs", "p0/mask_edge_pixels = -1\np0/min_fs", "must be a number, found '-1'"),
        ("p0/min_fs", "bada/min_x = 3\np0/min_fs", "must have the numbers min_x"),
        ("p0/min_fs", "bada/min_fs = 3\nbada/panel = q\np0/min_fs", "bad region bada|must have"),
        ("p0/min_fs", "p0/clen = 3\np0/min_fs", "different camera length"),
        ("photon_energy = /LCLS/photon_energy_eV eV", "photon_energy = 0 eV", "must be positive"),
        ("photon_energy = /LCLS/photon_energy_eV eV", "wavelength = 1 eV", "in A or m, found"),
        ("/LCLS/detector_1/EncoderValue mm", "12 inch", "length in m or mm, found '12 inch'"),
        ("/LCLS/detector_1/EncoderValue mm", "-0.1", "makes no detector"),
        ("p0/max_fs = 599", "p0/max_fs = -1", "number of a pixel, found -1"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(tmp_path, old, new, words):
    path = tmp_path / "bad.geom"
    path.write_text(crystfel_geometry(DETECTOR).replace(old, new))
    with pytest.raises(FileFormatError, match=rf"bad\.geom.*{words}|{words}.*bad\.geom"):
        read_geometry(path, distance_m=0.1)


def test_a_geometry_that_takes_the_distance_from_the_data_asks_for_it(tmp_path):
    path = tmp_path / "a.geom"
    write_geometry(path, DETECTOR)
    with pytest.raises(FileFormatError, match=r"give it \(distance_m"):
        read_geometry(path)
    with pytest.raises(FileFormatError, match="cannot read"):
        read_geometry(tmp_path / "none.geom")


@pytest.mark.parametrize(
    "change",
    [
        {"distance_m": 0.0},
        {"distance_m": float("nan")},
        {"pixel_m": (1e-4, -1e-4)},
        {"shape": (0, 5)},
        {"beam_centre_px": (float("inf"), 0.0)},
        {"adu_per_photon": 0.0},
    ],
)
def test_an_impossible_detector_is_refused(change):
    good = {
        "shape": (5, 5),
        "distance_m": 0.1,
        "pixel_m": (1e-4, 1e-4),
        "beam_centre_px": (2.0, 2.0),
    }
    with pytest.raises(ValueError, match=f"detector {next(iter(change))} must be"):
        Detector(**{**good, **change})


def test_the_list_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.lst"
    write_list(path, [path.relative_to(tmp_path).with_suffix(".cxi"), tmp_path / "b.cxi"])
    assert path.read_text() == f"{tmp_path / 'a.cxi'}\n{tmp_path / 'b.cxi'}\n"
