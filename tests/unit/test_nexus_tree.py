"""The pure part: which nodes the documents of a run become."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky.utils import snake_cyclers
from cycler import cycler
from hypothesis import given
from hypothesis import strategies as st
from nexus_documents import (
    Run,
    detector_configuration,
    line_run,
    mesh_run,
    number,
    powder_run,
    stills_run,
    with_counter,
    xafs_run,
)

from beamline.nexus import Column, ExternalLink, Field, Grid, GridAxis, Group, Link, RunTree, Tree
from beamline.nexus.grid import GridOrder, grid_of, nominal_positions
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.rows import MisfitError, converted, fit


def tree_of(documents: Any) -> Tree:
    """All nodes of a run."""
    tree: RunTree | None = None
    rows: dict[str, int] = {}
    streams: dict[str, str] = {}
    for name, doc in documents:
        if name == "start":
            tree = RunTree(doc, file_name="x.nxs")
            tree.start()
            continue
        assert tree is not None
        if name == "descriptor":
            tree.descriptor(doc)
            streams[doc["uid"]] = doc["name"]
        elif name in ("resource", "stream_resource"):
            tree.resource(name, doc)
        elif name == "stream_datum":
            tree.frames.datum(doc)
        elif name == "event":
            stream = streams[doc["descriptor"]]
            rows[stream] = rows.get(stream, 0) + 1
        elif name == "stop":
            tree.stop(doc, rows)
    assert tree is not None
    return tree.tree


def attributes(tree: Tree, path: str) -> dict[str, Any]:
    node = tree[path]
    assert isinstance(node, Group)
    return dict(node.attributes)


def value(tree: Tree, path: str) -> Any:
    node = tree[path]
    assert isinstance(node, Field), node
    return node.value


def feed_of(tree: Tree, path: str) -> tuple[str, str]:
    """Stream and data key that end up at a path, links followed."""
    node = tree[path]
    while isinstance(node, Link):
        node = tree[node.target]
    assert isinstance(node, Column), node
    return node.stream, node.feed.key


# --- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "documents",
    [xafs_run(3), line_run(3), mesh_run((2, 2)), stills_run(Path("/frames/x.h5"), 2)],
    ids=["xafs", "line", "mesh", "stills"],
)
def test_parents_and_targets_come_first(documents: Any):
    tree = tree_of(documents)
    seen: set[str] = set()
    for path, node in tree.items():
        parent = path.rpartition("/")[0] or "/"
        assert parent in seen or path == "/", path
        if isinstance(node, Link):
            assert node.target in seen, path
        seen.add(path)


# --- absorption spectra -------------------------------------------------------------------------


def test_a_spectrum_has_the_places_of_both_definitions():
    tree = tree_of(xafs_run(3))
    assert value(tree, "/entry/definition") == "NXxas"
    assert (value(tree, "/entry/element/symbol"), value(tree, "/entry/element/name")) == (
        "Cu", "copper",
    )  # fmt: skip
    assert value(tree, "/entry/edge/name") == "K"
    for path, key in {
        "/entry/energy": "mono_energy",
        "/entry/data/energy": "mono_energy",
        "/entry/instrument/monochromator/energy": "mono_energy",
        "/entry/instrument/incoming_beam/data": "i0",
        "/entry/instrument/absorbed_beam/data": "itrans",
        "/entry/instrument/reference/data": "irefer",
        "/entry/instrument/fluorescence/data": "ifluor",
        "/entry/instrument/idiffr/data": "idiffr",
        "/entry/monitor/data": "i0",
        "/entry/monitor/preset": "exposure",
        "/entry/data/absorbed_beam": "itrans",
    }.items():
        assert feed_of(tree, path) == ("primary", key), path
    assert feed_of(tree, "/entry/instrument/source/current") == ("baseline", "ring_current")
    assert feed_of(tree, "/entry/sample/position_x") == ("baseline", "sample_x")
    assert attributes(tree, "/entry/data") == {
        "signal": "intensity", "axes": ["energy"], "energy_indices": [0],
        "auxiliary_signals": ["absorbed_beam"],
    }  # fmt: skip
    assert value(tree, "/entry/nxxas_trans/definition") == "NXxas_trans"


def test_intensity_is_the_logarithm_of_the_ratio():
    tree = tree_of(xafs_run(3))
    node = tree["/entry/intensity"]
    assert isinstance(node, Column)
    assert node.feed.inputs == ("i0", "itrans")
    assert node.feed.function is not None
    i0, itrans = np.array([np.e, 2.0, 0.0, 5.0]), np.array([1.0, 2.0, 1.0, -1.0])
    np.testing.assert_allclose(node.feed.function(i0, itrans), [1.0, 0.0, np.nan, np.nan])


def test_fluorescence_is_the_ratio_and_another_subentry():
    tree = tree_of(xafs_run(3, mode="fluorescence"))
    assert feed_of(tree, "/entry/instrument/absorbed_beam/data") == ("primary", "ifluor")
    assert feed_of(tree, "/entry/instrument/transmitted_beam/data") == ("primary", "itrans")
    assert value(tree, "/entry/data/mode") == "Fluorescence Yield"
    assert value(tree, "/entry/nxxas_tfy/definition") == "NXxas_tfy"
    assert "/entry/nxxas_trans" not in tree
    node = tree["/entry/intensity"]
    assert isinstance(node, Column)
    assert node.feed.function is not None
    np.testing.assert_allclose(node.feed.function(np.array([4.0]), np.array([1.0])), [0.25])


def test_other_names_are_mapped_to_roles_by_the_start_document():
    run = Run(
        plan_name="my_xas", element="Fe", edge="K",
        nexus={
            "definition": "NXxas", "is_experimental": False,
            "roles": {"energy": "dcm-en", "i0": "ic1", "itrans": "ic2"},
        },
    )  # fmt: skip
    keys = {"dcm": {"dcm-en": number("keV")}, "c": {"ic1": number(), "ic2": number()}}
    tree = tree_of([run.begin(), run.describe("primary", keys)])
    assert feed_of(tree, "/entry/energy") == ("primary", "dcm-en")
    assert feed_of(tree, "/entry/instrument/absorbed_beam/data") == ("primary", "ic2")
    assert not value(tree, "/entry/is_experimental")
    assert value(tree, "/entry/definition") == "NXxas"


def test_a_simulated_instrument_is_no_experiment():
    instrument = {"name": "x", "simulated": True}
    assert not value(tree_of(xafs_run(2, instrument=instrument)), "/entry/is_experimental")
    assert not value(tree_of(xafs_run(2, simulated=True)), "/entry/is_experimental")
    assert value(tree_of(xafs_run(2, simulated=False)), "/entry/is_experimental")
    assert value(tree_of(xafs_run(2)), "/entry/is_experimental")


def test_a_spectrum_without_its_counters_does_not_claim_a_definition(
    caplog: pytest.LogCaptureFixture,
):
    run = Run(plan_name="xafs_scan", element="Cu", edge="K")
    keys = {"det": {"other": number()}, "mono": {"mono_energy": number("eV")}}
    with caplog.at_level(logging.WARNING):
        tree = tree_of([run.begin(), run.describe("primary", keys)])
    assert "/entry/definition" not in tree
    assert "itrans" in caplog.text
    assert attributes(tree, "/entry/data")["signal"] == "other"


def test_a_spectrum_of_an_unknown_element_does_not_claim_a_definition():
    tree = tree_of(xafs_run(3, element=None, edge=None))
    assert "/entry/definition" not in tree
    assert attributes(tree, "/entry/data")["signal"] == "intensity"


# --- other plots --------------------------------------------------------------------------------


def test_a_line_shows_the_first_hinted_detector_over_the_motor():
    tree = tree_of(line_run(3))
    assert attributes(tree, "/entry/data") == {
        "signal": "i0", "axes": ["sample_x"], "sample_x_indices": [0],
        "auxiliary_signals": ["itrans", "ifluor", "irefer", "idiffr"],
    }  # fmt: skip
    assert feed_of(tree, "/entry/data/sample_x") == ("primary", "sample_x")
    assert tree["/entry/instrument/detector"] == Link("/entry/instrument/i0")
    assert feed_of(tree, "/entry/instrument/sample_x/target_value")[1] == "sample_x_user_setpoint"


def test_the_signal_can_be_chosen():
    tree = tree_of(line_run(3, nexus={"signal": "itrans"}))
    assert attributes(tree, "/entry/data")["signal"] == "itrans"
    assert attributes(tree, "/entry/data")["auxiliary_signals"][0] == "i0"


def test_a_mesh_is_a_grid():
    tree = tree_of(mesh_run((4, 5)))
    assert attributes(tree, "/entry/data")["axes"] == ["sample_y", "sample_x"]
    signal, axis = tree["/entry/data/i0"], tree["/entry/data/sample_x"]
    assert isinstance(signal, Grid)
    assert isinstance(axis, GridAxis)
    assert signal.order == GridOrder((4, 5), (False, True))
    np.testing.assert_allclose(axis.values, [10, 12.5, 15, 17.5, 20])
    assert axis.attributes == {"units": "um"}


def test_frames_are_linked_and_shown():
    tree = tree_of(stills_run(Path("/frames/a b.h5"), 2))
    link = ExternalLink("/frames/a b.h5", "/entry/data/data")
    assert tree["/entry/instrument/ad1_image/data"] == link
    assert tree["/entry/data/ad1_image"] == link
    assert attributes(tree, "/entry/data")["axes"] == [".", ".", "."]
    path = "/entry/bluesky/streams/primary/ad1_image/frames_referenced"
    assert value(tree, path) == 2


def test_frames_elsewhere_are_named_and_not_linked(caplog: pytest.LogCaptureFixture):
    documents = list(stills_run(Path("/frames/x.h5"), 2))
    for name, doc in documents:
        if name == "stream_resource":
            doc["uri"] = "s3://bucket/x.h5"
    with caplog.at_level(logging.WARNING):
        tree = tree_of(documents)
    assert "s3://bucket/x.h5" in caplog.text
    assert not [node for node in tree.values() if isinstance(node, ExternalLink)]


def test_missing_frames_are_counted(caplog: pytest.LogCaptureFixture):
    documents = [d for d in stills_run(Path("/f.h5"), 4) if d[0] != "stream_datum"]
    with caplog.at_level(logging.WARNING):
        tree_of(documents)
    assert "4 events of stream 'primary' have only 0 rows of 'ad1_image'" in caplog.text


@pytest.mark.parametrize(
    "hints",
    [None, {}, {"dimensions": []}, {"dimensions": [[["nothing"], "primary"]]}, {"dimensions": 3}],
)
def test_a_run_without_usable_hints_is_a_time_series(hints: Any):
    run = Run(plan_name="count", detectors=["det"], **({} if hints is None else {"hints": hints}))
    keys = {"det": {"det": number("counts"), "text": {"dtype": "string", "shape": []}}}
    if hints == {"dimensions": 3}:
        run.start["hints"] = {"dimensions": 3}
    tree = tree_of([run.begin(), run.describe("primary", keys, hints={})])
    assert attributes(tree, "/entry/data")["signal"] == "det"
    assert attributes(tree, "/entry/data")["axes"] == ["time"]


def test_another_stream_takes_the_place_of_a_missing_primary_one():
    run = Run(plan_name="fly", hints={})
    tree = tree_of(
        [run.begin(), run.describe("flown", {"det": {"det": number("counts")}}), run.stop()]
    )
    assert feed_of(tree, "/entry/data/det") == ("flown", "det")


def test_baseline_leaves_the_places_of_the_scan_to_the_scan():
    documents = list(xafs_run(3))
    for order in (documents, [documents[0], documents[3], documents[1], *documents[4:]]):
        tree = tree_of(order)
        assert feed_of(tree, "/entry/instrument/monochromator/energy")[0] == "primary"
        assert feed_of(tree, "/entry/instrument/mono_energy/value")[0] == "primary"
        assert feed_of(tree, "/entry/sample/position_y") == ("baseline", "sample_y")
        assert tree["/entry/baseline"] == Link("/entry/bluesky/streams/baseline")


def test_time_stamps_are_logs_with_their_start():
    tree = tree_of(line_run(2))
    node = tree["/entry/bluesky/streams/primary/i0/time"]
    assert isinstance(node, Column)
    assert node.feed.kind == "timestamps"
    assert node.attributes == {"units": "s", "start": "2025-11-20T12:00:00.250000+00:00"}
    log = tree["/entry/bluesky/streams/primary/i0"]
    assert isinstance(log, Group)
    assert log.nx_class == "NXlog"


def test_keys_that_are_no_names_are_mapped_and_kept():
    run = Run(plan_name="count", detectors=["d"])
    keys = {"d": {"stage-x": number("mm"), "stage_x": number("mm"), "2theta": number("deg")}}
    tree = tree_of([run.begin(), run.describe("primary", keys)])
    logs = "/entry/bluesky/streams/primary"
    assert feed_of(tree, f"{logs}/stage_x/value")[1] == "stage-x"
    assert feed_of(tree, f"{logs}/stage_x_2/value")[1] == "stage_x"
    assert feed_of(tree, f"{logs}/_2theta/value")[1] == "2theta"
    assert attributes(tree, f"{logs}/stage_x")["original_name"] == "stage-x"
    assert value(tree, "/entry/instrument/stage_x/local_name") == "stage-x"


# --- metadata -----------------------------------------------------------------------------------


def test_metadata_is_kept_as_fields_and_as_documents():
    run = Run(
        plan_name="count", nothing=None, nested={"a": {"b": [1, 2], "none": None}},
        mixed=[1, "x", None], array=np.arange(3), big=2**80, empty=[], flag=True,
        text="µ\0\udcff", plan_args={"num": 1},
    )  # fmt: skip
    tree = tree_of([run.begin(), run.stop("fail", "no beam")])
    metadata = "/entry/bluesky/metadata"
    assert f"{metadata}/nothing" not in tree
    assert f"{metadata}/nested/a/none" not in tree
    np.testing.assert_array_equal(value(tree, f"{metadata}/nested/a/b"), [1, 2])
    assert json.loads(value(tree, f"{metadata}/mixed")) == [1, "x", None]
    assert json.loads(value(tree, f"{metadata}/big")) == 2**80
    assert value(tree, f"{metadata}/empty") == "[]"
    assert value(tree, f"{metadata}/flag") == np.True_
    assert value(tree, f"{metadata}/text") == "µ\\0\\udcff"
    document = json.loads(value(tree, "/entry/bluesky/documents/start"))
    assert document["nothing"] is None
    assert document["array"] == [0, 1, 2]
    assert value(tree, "/entry/exit_status") == "fail"
    assert value(tree, "/entry/reason") == "no beam"
    assert json.loads(value(tree, "/entry/plan_args")) == {"num": 1}
    assert value(tree, "/entry/end_time") == "2025-11-20T12:00:01.250000+00:00"


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        ("foil", "foil"), ({"name": "foil"}, "foil"), ({}, "unspecified"), (None, "unspecified"),
    ],
)  # fmt: skip
def test_the_sample_may_be_given_in_any_way(sample: Any, name: str):
    assert value(tree_of([Run(sample=sample).begin()]), "/entry/sample/name") == name


def test_users_may_be_given_in_any_way():
    tree = tree_of([Run(users=["A", {"name": "B", "email": "b@x"}, 3]).begin()])
    assert value(tree, "/entry/user/name") == "A"
    assert value(tree, "/entry/user_2/email") == "b@x"
    assert "/entry/user_3" not in tree


def test_wrong_options_are_logged_and_ignored(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        tree_of([Run(nexus={"definition": "NXwrong", "roles": {"beam": "i0"}}).begin()])
    assert "'NXwrong'" in caplog.text
    assert "'beam'" in caplog.text


# --- names, grids, rows -------------------------------------------------------------------------


@given(st.text(max_size=80))
def test_every_name_becomes_a_valid_one(name: str):
    mapped = nexus_name(name)
    assert mapped.isidentifier()
    assert mapped.isascii()
    assert len(mapped) <= 63
    assert nexus_name(mapped) == mapped


def test_reserved_names_are_left_alone():
    assert nexus_name("m1_user_offset") == "m1_user_offset_value"
    assert nexus_name("NXdata") == "x_NXdata"
    assert unused_name("a" * 63, {"a" * 63}) == "a" * 61 + "_2"


@given(st.text(alphabet=st.characters(), max_size=30))
def test_text_can_always_be_encoded(text: str):
    assert "\0" not in clean_text(text)
    clean_text(text).encode()


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=2, max_size=4),
)
def test_the_path_through_a_grid_is_bluesky_s(axes: list[tuple[int, bool]]):
    order = GridOrder(tuple(n for n, _ in axes), tuple(s for _, s in axes))
    cyclers = [cycler(str(i), range(n)) for i, (n, _) in enumerate(axes)]
    path = list(snake_cyclers(cyclers, [s for _, s in axes]))
    expected = [
        int(np.ravel_multi_index([point[str(i)] for i in range(len(axes))], order.shape))
        for point in path
    ]
    assert order.places(np.arange(order.size)).tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3]}, {"shape": [2, 0]}, {"shape": None}, {"shape": [2, 3.5]},
        {"num_points": 5}, {"shape": [2**40, 2**40]},
        {"hints": {"gridding": "rectilinear_nonsequential"}},
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused(change: dict[str, Any]):
    start = {"shape": [2, 3], "num_points": 6, "snaking": [False, True]}
    assert grid_of(start, ["y", "x"]) == GridOrder((2, 3), (False, True))
    assert grid_of({**start, **change}, ["y", "x"]) is None


def test_positions_of_a_list_scan_are_those_of_the_list():
    start = {"plan_args": {"args": ["m1", [1, 2, 7], "m2", [1, 5]]}, "extents": [[1, 7], [1, 5]]}
    y, x = nominal_positions(start, GridOrder((3, 2), (False, False)))
    np.testing.assert_array_equal(y, [1, 2, 7])
    np.testing.assert_array_equal(x, [1, 5])


INT, FLOAT, BOOL = np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.bool_)


@pytest.mark.parametrize(
    ("values", "dtype", "shape", "wider"),
    [
        ([1, 2.5], INT, (), (FLOAT, ())),
        ([1, None], INT, (), (FLOAT, ())),
        ([1, float("nan")], INT, (), (FLOAT, ())),
        ([1, 2**63], INT, (), (np.dtype(np.uint64), ())),
        ([1, 2**70], INT, (), (None, ())),
        ([True, 2], BOOL, (), (INT, ())),
        ([0.5], BOOL, (), (FLOAT, ())),
        (["a", 1], FLOAT, (), (None, ())),
        ([1.0, "a"], FLOAT, (), (None, ())),
        ([1.0, 2j], FLOAT, (), (None, ())),
        ([[1, 2], [1, 2, 3]], FLOAT, (2,), (FLOAT, None)),
        ([[1, 2, 3]], FLOAT, (2,), (FLOAT, (3,))),
        ([[[1]], [[1], [2]]], FLOAT, (1, 1), (None, ())),
        ([[1.0], [2.0, 3.0]], INT, None, (FLOAT, None)),
        ([[1], ["a"]], INT, None, (None, ())),
    ],
)
def test_values_that_do_not_fit_say_what_would(values: Any, dtype: Any, shape: Any, wider: Any):
    with pytest.raises(MisfitError) as caught:
        fit(values, dtype, shape)
    # As text: numpy takes None for float64 when it compares.
    assert (str(caught.value.dtype), caught.value.shape) == (str(wider[0]), wider[1])
    assert len(fit(values, *wider)) == len(values)


def test_values_that_fit_are_unchanged():
    assert fit([1, 2], INT, ()).tolist() == [1, 2]
    assert fit([1.0, 2.0], INT, ()).tolist() == [1, 2]
    np.testing.assert_array_equal(fit([1, None], FLOAT, ()), [1, np.nan])
    assert fit([True, False], BOOL, ()).dtype == BOOL
    assert fit(["a", None, 3, [1]], None, ()).tolist() == ["a", "", "3", "[1]"]
    assert fit([np.arange(4).reshape(2, 2)] * 3, FLOAT, (2, 2)).shape == (3, 2, 2)
    assert [row.tolist() for row in fit([[1], None, 5], INT, None)] == [[1], [], [5]]
    assert fit([["a", "b"]], None, (2,)).tolist() == [["a", "b"]]


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())))
def test_whatever_comes_finds_a_column(values: list[Any]):
    dtype, shape = BOOL, ()
    for _ in range(6):
        try:
            assert len(fit(values, dtype, shape)) == len(values)
        except MisfitError as misfit:
            dtype, shape = misfit.dtype, misfit.shape
        else:
            return
    pytest.fail(f"no column for {values}")


def test_rows_are_converted_with_their_column():
    assert converted(np.array([1, 2]), FLOAT, ()).tolist() == [1.0, 2.0]
    assert converted(np.array([1.5, 2.0]), None, ()).tolist() == ["1.5", "2.0"]
    rows = converted(np.array([[1, 2], [3, 4]]), FLOAT, None)
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]


# --- diffraction and small-angle scattering -----------------------------------------------------


def test_a_pattern_takes_the_wavelength_from_the_baseline():
    tree = tree_of(powder_run())
    assert value(tree, "/entry/definition") == "NXmonopd"
    wavelength = tree["/entry/instrument/monochromator/crystal/wavelength"]
    assert isinstance(wavelength, Column)
    assert wavelength.stream == "baseline"
    assert wavelength.feed.function is not None
    made = wavelength.feed.function(np.array([9000.0, 0.0]))
    np.testing.assert_allclose(made, [12398.419843 / 9000.0, np.nan])
    counts = tree["/entry/instrument/idiffr/data"]
    assert isinstance(counts, Column)
    assert counts.dtype == np.int64
    assert tree["/entry/instrument/detector"] == Link("/entry/instrument/idiffr")
    assert attributes(tree, "/entry/monitor") == {}
    assert tree["/entry/instrument/det_tth/value"] == Link("/entry/instrument/idiffr/polar_angle")


def without_baseline(documents: Any) -> tuple[list[Any], list[Any]]:
    """Take the documents of the baseline out; return the others, and them."""
    documents = list(documents)
    uids = {doc["uid"] for name, doc in documents if doc.get("name") == "baseline"}
    ours = [d for d in documents if d[1]["uid"] in uids or d[1].get("descriptor") in uids]
    return [d for d in documents if d not in ours], ours


def test_a_pattern_is_claimed_wherever_the_baseline_comes():
    documents, late = without_baseline(powder_run())
    assert "/entry/definition" not in tree_of(documents)
    documents[-1:-1] = late
    assert value(tree_of(documents), "/entry/definition") == "NXmonopd"


def test_what_a_definition_lacks_is_named(caplog: pytest.LogCaptureFixture):
    tree_of(without_baseline(powder_run())[0])
    told = "is not written as NXmonopd: the documents name no energy ('mono_energy')"
    assert told in caplog.text
    caplog.clear()
    tree_of(stills_run(Path("/f.h5"), configuration=detector_configuration(distance=None)))
    assert "is not written as NXsas: the documents name no distance of the detector" in caplog.text
    caplog.clear()
    tree_of(line_run(nexus={"definition": "NXsas", "geometry": {"distance": "far", "beam_x": 1}}))
    assert "the geometry 'distance' in the metadata 'nexus' is ignored" in caplog.text
    assert "is not written as NXsas: stream 'primary' has no frames" in caplog.text


def test_the_geometry_of_a_detector():
    tree = tree_of(stills_run(Path("/f.h5"), configuration=detector_configuration()))
    assert value(tree, "/entry/definition") == "NXsas"
    path = "/entry/instrument/ad1_image"
    assert value(tree, f"{path}/distance") == 5.0
    assert value(tree, f"{path}/beam_center_x") == pytest.approx(6.5 * 7.5e-5)
    assert value(tree, f"{path}/count_time") == 0.1
    # The chain of transformations brings the pixel in the beam to the axis of the beam.
    place, step = np.zeros(3), value(tree, f"{path}/depends_on")
    while step != ".":
        field = tree[step]
        assert isinstance(field, Field)
        place += np.asarray(field.attributes["vector"]) * field.value
        step = field.attributes["depends_on"]
    fast, slow = (tree[f"{path}/module/{axis}_pixel_direction"] for axis in ("fast", "slow"))
    for field, pixels in ((fast, 6.5), (slow, 4.0)):
        assert isinstance(field, Field)
        place += pixels * field.value * np.asarray(field.attributes["vector"])
    np.testing.assert_allclose(place, [0, 0, 5.0], atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "claimed"), [("SAXS", True), ("Still", False), (1, True), (0, False), (7, False)]
)
def test_the_mode_of_the_detector_decides(mode: Any, claimed: bool):
    configuration = detector_configuration(sim_mode=mode)
    described = configuration["data_keys"]["ad1_sim_mode"]
    described["enum_strs"] = ["Still", "SAXS", "Speckle"]
    tree = tree_of(stills_run(Path("/f.h5"), configuration=configuration))
    assert ("/entry/definition" in tree) == claimed


def test_a_small_angle_entry_has_one_plot_and_a_scan_has_its_own():
    documents = stills_run(Path("/f.h5"), configuration=detector_configuration())
    tree = tree_of(with_counter(documents))
    assert value(tree, "/entry/definition") == "NXsas"
    plots = [path for path, n in tree.items() if isinstance(n, Group) and n.nx_class == "NXdata"]
    assert sorted(plots) == ["/entry/data", "/entry/scan/data"]
    assert tree["/entry/scan"].nx_class == "NXsubentry"
    assert attributes(tree, "/entry/scan/data")["signal"] == "i0"


def test_a_geometry_that_the_user_states_goes_first():
    documents = stills_run(
        Path("/f.h5"),
        configuration=detector_configuration(distance=None, sim_mode=None),
        nexus={"definition": "NXsas", "geometry": {"distance": 2.0, "pixel_x": 1e-4}},
    )
    tree = tree_of(documents)
    assert value(tree, "/entry/definition") == "NXsas"
    assert value(tree, "/entry/instrument/ad1_image/distance") == 2.0
    assert value(tree, "/entry/instrument/ad1_image/x_pixel_size") == 1e-4


def test_a_definition_can_be_declined():
    assert "/entry/definition" not in tree_of(powder_run(nexus={"definition": ""}))
    configuration = detector_configuration()
    documents = stills_run(Path("/f.h5"), configuration=configuration, nexus={"definition": ""})
    tree = tree_of(documents)
    assert "/entry/definition" not in tree
    assert "/entry/data/ad1_image" in tree
