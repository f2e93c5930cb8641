"""Detectors of many panels: stacks to slabs and back, positions, masks, CrystFEL files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamline.core.errors import FileFormatError, StorageError
from beamline.crystallography.cxi import CXIFile
from beamline.crystallography.geometry import (
    BadRegion,
    Detector,
    GeometryError,
    Panel,
    crystfel_geometry,
    read_geometry,
    write_geometry,
    write_list,
)


def detector(number, height=12, width=20, *, asics=1, columns=1, gap=0, seed=0):
    """Panels of `asics` pieces each, rotated and tilted at random, in a slab with any gap."""
    rng = np.random.default_rng(seed)
    panels = []
    for unit in range(number):
        row, column = divmod(unit, columns)
        for asic in range(asics):
            angle = rng.uniform(-math.pi, math.pi)
            part = width // asics
            panels.append(
                Panel(
                    name=f"m{unit}b{asic}",
                    origin=(row * (height + gap), column * (width + gap) + asic * part),
                    shape=(height, part),
                    corner=tuple(rng.uniform(-500, 500, 3) * (1, 1, 1e-6)),
                    fs=(math.cos(angle), math.sin(angle), rng.normal(0, 1e-4)),
                    ss=(-math.sin(angle), math.cos(angle), 0.0),
                    pitch_m=75e-6,
                    unit=unit,
                    unit_origin=(0, asic * part),
                )
            )
    shape = tuple(max(p.origin[a] + p.shape[a] for p in panels) for a in (0, 1))
    return Detector(shape, 0.1, (75e-6, 75e-6), None, panels=tuple(panels))


@pytest.mark.parametrize("number", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("options", [{}, {"asics": 4}, {"columns": 2, "gap": 3, "asics": 2}])
def test_stacks_and_slabs_are_the_same_pixels(tmp_path, number, options):
    made = detector(number, **options)
    rng = np.random.default_rng(number)
    assert made.stack_shape == (number, 12, 20)
    for dtype in (np.float32, np.uint16, np.uint32):
        stack = rng.integers(1, 250, (3, *made.stack_shape)).astype(dtype)
        slab = made.to_slab(stack)
        assert slab.shape == (3, *made.slab_shape)
        assert slab.dtype == dtype
        assert np.array_equal(made.to_stack(slab), stack)
        assert slab.sum() == stack.sum()
        assert np.array_equal(made.to_slab(stack[1]), slab[1])
        out = np.zeros(made.slab_shape, dtype)
        assert made.to_slab(stack[2], out) is out
        assert np.array_equal(out, slab[2])
    panel, ss, fs = np.indices(made.stack_shape)
    at_ss, at_fs = made.to_slab_position(panel, ss, fs)
    assert np.array_equal(slab[0][at_ss.astype(int), at_fs.astype(int)], stack[0])
    mask = made.mask()
    assert mask.dtype == np.uint32
    assert np.array_equal(mask == 0, made.to_slab(np.ones(made.stack_shape, bool)))
    path = tmp_path / "a.geom"
    write_geometry(path, made)
    again = read_geometry(path, distance_m=0.1, stack_shape=made.stack_shape)
    assert again.panels == made.panels
    assert again.shape == made.shape


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_positions_go_there_and_back(data):
    number = data.draw(st.sampled_from([1, 2, 4, 8, 64]))
    made = detector(
        number,
        asics=data.draw(st.sampled_from([1, 2, 4])),
        columns=data.draw(st.integers(1, 4)),
        gap=data.draw(st.integers(0, 5)),
    )
    # Multiples of 2^-20 px, in float64 as in float32: sums of them are exact.
    grain = 2.0**-20
    panel = np.array(data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=30)))
    ss = [data.draw(st.integers(-(2**19), int(11.5 * 2**20) - 1)) * grain for _ in panel]
    fs = [data.draw(st.integers(-(2**19), int(19.5 * 2**20) - 1)) * grain for _ in panel]
    back = made.to_panel_position(*made.to_slab_position(panel, ss, fs))
    assert np.array_equal(back[0], panel)
    assert np.array_equal(back[1], ss)
    assert np.array_equal(back[2], fs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]))
def test_what_is_written_is_read_to_the_last_bit(tmp_path_factory, number, seed, asics):
    made = detector(number, asics=asics, columns=2, gap=seed % 3, seed=seed)
    path = tmp_path_factory.mktemp("geometry") / "a.geom"
    write_geometry(path, made, mask=True)
    found = read_geometry(path, distance_m=0.1, stack_shape=made.stack_shape)
    for one, other in zip(found.panels, made.panels, strict=True):
        assert one.corner == other.corner
        assert one.fs == other.fs
        assert one.ss == other.ss
        assert one.pitch_m == pytest.approx(other.pitch_m, rel=1e-15)
        assert (one.origin, one.shape, one.unit) == (other.origin, other.shape, other.unit)


def test_laboratory_positions_of_a_flat_detector_are_those_of_its_beam_centre():
    flat = Detector((40, 50), 0.2, (1e-4, 2e-4), (12.5, 30.25))
    x, y, z = flat.to_laboratory([30.25, 0.0], [12.5, 0.0])
    assert np.allclose(x, [0.0, -12.5e-4])
    assert np.allclose(y, [0.0, -30.25 * 2e-4])
    assert np.allclose(z, 0.2)


def test_laboratory_positions_of_a_rotated_panel():
    panel = Panel("q", (5, 0), (10, 10), (100.0, 50.0, 0.01), (0, 1, 0), (-1, 0, 0), 1e-4)
    made = Detector((15, 10), 0.1, (1e-4, 1e-4), None, panels=(panel,))
    x, y, z = made.to_laboratory(7.0, 4.0)
    # (ss, fs) = (2, 4) on the panel, its centre half a pixel on.
    assert (x, y, z) == pytest.approx(((100 - 2.5) * 1e-4, (50 + 4.5) * 1e-4, 0.11))


def test_another_shape_is_refused_with_both():
    made = detector(4, asics=2)
    made.check((48, 20))
    made.check((4, 12, 20))
    words = r"\(4, 12, 21\) .*slab of \(48, 20\) or a stack of \(4, 12, 20\)"
    with pytest.raises(GeometryError, match=words):
        made.check((4, 12, 21))
    with pytest.raises(GeometryError, match=r"\(3, 12, 20\) .* expected \(4, 12, 20\)"):
        made.to_slab(np.zeros((3, 12, 20)))
    with pytest.raises(GeometryError, match=r"\(20, 48\) .* expected \(48, 20\)"):
        made.to_stack(np.zeros((20, 48)))
    with pytest.raises(GeometryError, match=r"\(5, 12, 20\) .* 8 panels in a slab of \(48, 20\)"):
        made.for_stack((5, 12, 20))
    with pytest.raises(GeometryError, match=r"\(0.0, 12.0, 3.0\) is on no panel"):
        made.to_slab_position([0, 0], [3.0, 12.0], [3.0, 3.0])
    with pytest.raises(GeometryError, match="is on no panel"):
        made.to_slab_position(4, 3.0, 3.0)
    with pytest.raises(GeometryError, match="is on no panel"):
        made.to_slab_position(0, np.nan, 3.0)
    gap = detector(2, gap=5)
    with pytest.raises(GeometryError, match="is on no panel"):
        gap.to_panel_position(14.0, 3.0)


def test_a_stack_is_divided_as_the_data_is():
    made = detector(4, asics=2)
    assert made.for_stack((4, 12, 20)) is made
    each = made.for_stack((8, 12, 10))
    assert [p.unit for p in each.panels] == list(range(8))
    assert each.for_stack((4, 12, 20)).panels == made.panels
    whole = made.for_stack((1, 48, 20))
    slab = np.arange(48 * 20).reshape(48, 20)
    assert np.array_equal(whole.to_stack(slab), slab[None])
    assert np.array_equal(each.to_stack(slab)[1], slab[:12, 10:])


def test_panels_of_different_sizes_are_padded_in_the_stack():
    base = {"corner": (0, 0, 0), "fs": (1, 0, 0), "ss": (0, 1, 0), "pitch_m": 1e-4}
    panels = (
        Panel("a", (0, 0), (4, 10), **base, unit=0),
        Panel("b", (4, 0), (6, 7), **base, unit=1),
    )
    made = Detector((10, 10), 0.1, (1e-4, 1e-4), None, panels=panels)
    assert made.stack_shape == (2, 6, 10)
    slab = np.where(made.mask() == 0, np.arange(1, 101).reshape(10, 10), 0)
    stack = made.to_stack(slab)
    assert np.array_equal(made.to_slab(stack), slab)
    assert not stack[0, 4:].any()
    with pytest.raises(GeometryError, match="on no panel"):
        made.to_slab_position(0, 5.0, 0.0)


MODULES = """
; A stack of modules, as psana has it, with everything that CrystFEL knows.
photon_energy = 9.5 keV
adu_per_eV = 0.0001
clen = -0.1
coffset = 0.2
res = 10000
rigid_group_q0 = p0a0,p0a1,p1a0,p1a1
rigid_group_collection_quadrants = q0
mask_file = /nowhere/mask.h5
mask = /entry_1/mask
data = /entry_1/data
dim0 = %
dim2 = ss
dim3 = fs
bad_line/min_fs = 3
bad_line/max_fs = 4
bad_line/min_ss = 0
bad_line/max_ss = 99
bad_line/panel = p1a1
badcorner/min_x = -0.5
badcorner/max_x = 1.6
badcorner/min_y = -0.5
badcorner/max_y = 1.0
"""


def modules(fs="+1.0x", ss="y"):
    lines = [MODULES]
    for module in range(3):
        for asic in range(2):
            lines += [
                f"p{module}a{asic}/dim1 = {module}",
                f"p{module}a{asic}/min_fs = {asic * 5}",
                f"p{module}a{asic}/max_fs = {asic * 5 + 4}  ; five",
                f"p{module}a{asic}/min_ss = 0",
                f"p{module}a{asic}/max_ss = 7",
                f"p{module}a{asic}/corner_x = {asic * 6}",
                f"p{module}a{asic}/corner_y = {module * 9.5}",
                f"p{module}a{asic}/fs = {fs}",
                f"p{module}a{asic}/ss = {ss}",
            ]
    return "\n".join([*lines, "group_all = p0a0,p0a1,p1a0,p1a1,p2a0,p2a1", ""])


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_arrays_of_a_stack_become_a_slab(tmp_path, ends):
    path = tmp_path / "a.geom"
    path.write_bytes(modules().replace("\n", ends).encode())
    found = read_geometry(path)
    assert found.stack_shape == (3, 8, 10)
    assert found.slab_shape == (24, 10)
    assert found.distance_m == pytest.approx(0.1)
    assert [p.corner[2] for p in found.panels] == [0.0] * 6
    assert found.photon_energy_eV == 9500.0
    assert found.pixel_m == (1e-4, 1e-4)
    assert found.panels[3].settings == (("adu_per_eV", "0.0001"),)
    stack = np.random.default_rng(0).random((3, 8, 10))
    assert np.array_equal(found.to_slab(stack), stack.reshape(24, 10))
    mask = found.to_stack(found.mask())
    assert mask[1, :, 8:9].tolist() == [[0]] * 8
    # The bad region lies on p1a1 in the array, of which only columns 5 to 9 belong to it.
    assert mask.sum() == 2
    assert mask[0, 0, :2].tolist() == [1, 1]
    write_geometry(tmp_path / "b.geom", found)
    again = read_geometry(tmp_path / "b.geom", distance_m=0.1, stack_shape=(3, 8, 10))
    assert again.panels == found.panels
    assert again.lines == found.lines
    assert np.array_equal(again.mask(), found.mask())
    assert dict(found.lines)["group_all"].endswith("p2a1")


def test_asics_of_a_module_share_a_panel_by_their_names(tmp_path):
    path = tmp_path / "a.geom"
    made = detector(4, asics=2)
    text = crystfel_geometry(made)
    for unit in range(4):
        text = text.replace(f"m{unit}b", f"p{unit}a")
    path.write_text(text)
    assert read_geometry(path, distance_m=0.1).stack_shape == (4, 12, 20)
    path.write_text(text.replace("p3a1", "p3a7"))
    assert read_geometry(path, distance_m=0.1).stack_shape == (4, 12, 20)
    path.write_text(text.replace("p3a", "elsewhere"))
    assert read_geometry(path, distance_m=0.1).stack_shape == (8, 12, 10)


def test_defaults_hold_for_the_panels_that_follow(tmp_path):
    path = tmp_path / "a.geom"
    text = crystfel_geometry(detector(2, height=6))
    text = text.replace("m1b0/min_fs", "res = 5000\nno_index = 1\nm1b0/min_fs")
    path.write_text(text)
    found = read_geometry(path, distance_m=0.1)
    assert [p.pitch_m for p in found.panels] == pytest.approx([75e-6, 2e-4])
    assert found.mask()[:6].max() == 0
    assert found.mask()[6:].min() == 1
    write_geometry(path, found)
    assert read_geometry(path, distance_m=0.1) == found


def test_edge_pixels_and_bad_regions_are_masked(tmp_path):
    path = tmp_path / "a.geom"
    made = Detector(
        (10, 12),
        0.1,
        (1e-4, 1e-4),
        (5.0, 4.0),
        bad=(
            BadRegion("bad0", "p0", (2.0, 3.0), (4.0, 3.0)),
            BadRegion("bad1", "", (-0.6, -0.6), (0.5, 0.5)),
        ),
    )
    write_geometry(path, made)
    path.write_text(path.read_text().replace("p0/min_fs", "p0/mask_edge_pixels = 1\np0/min_fs"))
    mask = read_geometry(path, distance_m=0.1).mask()
    want = np.ones((10, 12), int)
    want[1:-1, 1:-1] = 0
    want[3, 2:5] = want[4, 5] = 1
    assert np.array_equal(mask, want)


def test_panels_that_overlap_or_share_nothing_are_refused(tmp_path):
    path = tmp_path / "a.geom"
    text = crystfel_geometry(detector(2))
    path.write_text(text.replace("m1b0/min_ss = 12", "m1b0/min_ss = 11"))
    with pytest.raises(FileFormatError, match="m1b0 lies on pixels of another panel"):
        read_geometry(path, distance_m=0.1)
    path.write_text(text)
    with pytest.raises(GeometryError, match=r"\(3, 12, 20\)"):
        read_geometry(path, distance_m=0.1, stack_shape=(3, 12, 20))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_a_file_holds_is_read_or_named(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("geometry") / "a.geom"
    lines = modules().split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.integers(0, len(lines) - 1))
        key = lines[row].split("=")[0]
        lines[row] = data.draw(
            st.one_of(
                st.just(""),
                st.text(max_size=12),
                st.sampled_from(
                    ["nan", "-1", "1e400", "0", "%", "x", "9999", "0x", "1e-320", "++x", "/a b"]
                ).map(lambda value, key=key: f"{key}={value}"),
            )
        )
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        found = read_geometry(path, distance_m=0.1)
    except FileFormatError:
        return
    assert np.array_equal(found.to_slab(found.to_stack(1 - found.mask())), 1 - found.mask())


def test_paths_may_be_text(tmp_path):
    detector = Detector((4, 4), 0.1, (1e-4, 1e-4), (1.0, 1.0))
    write_geometry(f"{tmp_path}/a.geom", detector, clen=True)
    assert read_geometry(f"{tmp_path}/a.geom").shape == (4, 4)
    write_list(f"{tmp_path}/a.lst", [f"{tmp_path}/a.cxi"])
    assert (tmp_path / "a.lst").read_text() == f"{(tmp_path / 'a.cxi').resolve()}\n"
    file = CXIFile(f"{tmp_path}/a.cxi", detector=detector, dtype="u2", max_num_peak=5)
    assert file.close(end_time="", exit_status="success") == tmp_path / "a.cxi"


def test_a_geometry_that_cannot_be_written_is_one_sentence(tmp_path):
    detector = Detector((4, 4), 0.1, (1e-4, 1e-4), (1.0, 1.0))
    with pytest.raises(StorageError, match=r"nowhere/a\.geom can't be written: No such file"):
        write_geometry(tmp_path / "nowhere" / "a.geom", detector)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"; nothing\n", b"a\n" * 100_000, b"=\n"]
)
def test_files_that_are_no_geometries(tmp_path, content):
    path = tmp_path / "a.geom"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a\.geom"):
        read_geometry(path)
