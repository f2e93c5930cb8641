"""Both validators, under both sets of definitions, and silx, on one file of each kind.

That they find nothing counts because they find each fault that is put in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_documents import (
    Document,
    detector_configuration,
    feed,
    line_run,
    mesh_run,
    powder_run,
    stills_run,
    with_counter,
    xafs_run,
)
from nexus_validators import COMMUNITY, OFFICIAL, BothValidators, complaints, default_plot

from callbacks.nexus import NeXusWriter
from callbacks.nxsas import export

pytestmark = [pytest.mark.system, pytest.mark.slow]

#: What both definitions of NXxas in one entry need, and what a run says about itself.
KNOWN_TO_NOBODY = (
    "/entry/element", "/entry/edge", "/entry/energy", "/entry/intensity", "/entry/is_experimental",
    "/entry/nxxas_", "/entry/sample/position_", "/entry/scan_id", "/entry/plan_", "/entry/reason",
    "/entry/exit_status",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind."""
    directory = tmp_path_factory.mktemp("files")
    frames = directory / "frames.h5"
    with h5py.File(frames, "w") as file:
        file["/entry/data/data"] = np.random.default_rng(1).poisson(3, (6, 8, 12)).astype("<u2")
        file["/entry/data/data"].attrs["units"] = "counts"
    kinds: dict[str, Iterable[Document]] = {
        "xafs": xafs_run(),
        "fluorescence": xafs_run(mode="fluorescence"),
        "xafs_without_baseline": xafs_run(with_baseline=False),
        "line": line_run(),
        "mesh": mesh_run(),
        "aborted_mesh": mesh_run(visited=13),
        "stills": stills_run(frames),
        "powder": powder_run(),
        "powder_without_theta": powder_run(with_theta=False),
        "saxs": stills_run(frames, configuration=detector_configuration()),
        "saxs_scan": with_counter(stills_run(frames, configuration=detector_configuration())),
    }
    made = {}
    for kind, documents in kinds.items():
        writer = NeXusWriter(directory / kind)
        feed(writer, documents)
        (made[kind],) = writer.files
    saxs = stills_run(frames, configuration=detector_configuration())
    writer = NeXusWriter(directory / "virtual", frames="virtual")
    feed(writer, stills_run(frames, configuration=detector_configuration()))
    (made["virtual"],) = writer.files
    (made["exported"],) = export(saxs, directory / "exported")["stream_data"]
    return made


@pytest.mark.parametrize("kind", ["xafs", "fluorescence", "xafs_without_baseline"])
def test_a_spectrum_is_valid_under_both_definitions(
    files: dict[str, Path], validators: BothValidators, kind: str
):
    assert complaints(validators.application(files[kind], "NXxas")) == []
    name = "tfy" if kind == "fluorescence" else "trans"
    verdict = validators[COMMUNITY].application(
        files[kind], f"NXxas_{name}", f"/entry/nxxas_{name}"
    )
    assert verdict.errors == []
    assert verdict.warnings == []


def test_nothing_else_is_unknown_to_the_definitions(
    files: dict[str, Path], validators: BothValidators
):
    verdict = validators[COMMUNITY].application(files["xafs"], "NXxas", strict=True)
    assert [p for p in verdict.undocumented if not p.startswith(KNOWN_TO_NOBODY)] == []


@pytest.mark.parametrize(
    "kind", ["line", "mesh", "aborted_mesh", "stills", "powder", "saxs", "saxs_scan"]
)
def test_other_scans_are_made_of_valid_base_classes(
    files: dict[str, Path], validators: BothValidators, kind: str
):
    verdicts = validators.base_classes(files[kind])
    assert {name: verdict.errors for name, verdict in verdicts.items()} == {
        OFFICIAL: [],
        COMMUNITY: [],
    }


@pytest.mark.parametrize(
    ("kind", "definition"),
    [
        ("powder", "NXmonopd"),
        ("powder_without_theta", "NXmonopd"),
        ("saxs", "NXsas"),
        ("saxs_scan", "NXsas"),
        ("exported", "NXsas"),
    ],
)
def test_diffraction_and_small_angle_scattering_follow_their_definitions(
    files: dict[str, Path], validators: BothValidators, kind: str, definition: str
):
    with h5py.File(files[kind], "r") as file:
        assert file["entry/definition"].asstr()[()] == definition
    assert complaints(validators.application(files[kind], definition)) == []


FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no title": (lambda f: f["entry"].pop("title"), "title"),
    "no source": (lambda f: f["entry/instrument"].pop("source"), "NXsource"),
    "no monitor": (lambda f: f["entry"].pop("monitor"), "NXmonitor"),
    "no energy": (lambda f: f["entry"].pop("energy"), "energy"),
    "no element": (lambda f: f["entry"].pop("element"), "element"),
    # Of edge/name alone no validator says that it is missing.
    "no edge": (lambda f: f["entry"].pop("edge"), "edge"),
    "no mode": (lambda f: f["entry/data"].pop("mode"), "mode"),
    "wrong unit": (lambda f: f["entry/energy"].attrs.__setitem__("units", "mm"), "InvalidUnit"),
    "wrong time": (lambda f: f["entry/start_time"].__setitem__((), "yesterday"), "start_time"),
    "wrong probe": (lambda f: f["entry/instrument/source/probe"].__setitem__((), "light"), "probe"),
    "wrong edge": (lambda f: f["entry/edge/name"].__setitem__((), "K7"), "InvalidEnum"),
    "wrong class": (
        lambda f: f["entry/instrument/incoming_beam"].attrs.__setitem__("NX_class", "NXlog"),
        "incoming_beam",
    ),
    "wrong type": (
        lambda f: (
            f["entry"].pop("is_experimental"),
            f["entry"].__setitem__("is_experimental", "yes"),
        ),
        "is_experimental",
    ),
}


@pytest.fixture(scope="module")
def bare(files: dict[str, Path], validators: BothValidators) -> dict[str, Path]:
    """Files without what they say about the run, which validators read for longest; still valid."""
    made = {}
    for kind, definition in (("xafs", "NXxas"), ("powder", "NXmonopd"), ("saxs", "NXsas")):
        made[kind] = files[kind].with_name("bare.nxs")
        shutil.copy(files[kind], made[kind])
        with h5py.File(made[kind], "r+") as file:
            for name in ("bluesky", "baseline", "nxxas_trans"):
                file["entry"].pop(name, None)
            file["entry"].visititems(lambda _, node: settle(node))
        assert complaints(validators.application(made[kind], definition)) == []
    return made


def settle(node: Any) -> None:
    """Make this the home of what had its home in a group that is gone."""
    if node.attrs.get("target", node.name) not in node.file:
        node.attrs["target"] = node.name


def check_found_out(
    bare: Path,
    definition: str,
    change: Callable[[Any], object],
    told: str,
    validators: BothValidators,
) -> None:
    """One of the two sets of definitions is enough to refuse the file for this reason."""
    broken = bare.with_name("broken.nxs")
    shutil.copy(bare, broken)
    with h5py.File(broken, "r+") as file:
        change(file)
    errors: list[str] = []
    for definitions in (COMMUNITY, OFFICIAL):
        errors += validators[definitions].application(broken, definition).errors
        # Of a missing group nexusformat says no name; the file was valid without the fault.
        if any(told in error or "required group" in error for error in errors):
            return
    pytest.fail(f"nobody has noticed: {errors}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_spectrum_is_found_out(
    bare: dict[str, Path], validators: BothValidators, fault: str
):
    check_found_out(bare["xafs"], "NXxas", *FAULTS[fault], validators)


def test_a_virtual_dataset_of_frames_is_valid(files: dict[str, Path], validators: BothValidators):
    # nexusformat 2.1.0 cannot read one with more than one row per file, and gives up.
    for verdict in validators.application(files["virtual"], "NXsas").values():
        assert verdict.pynxtools == []
        assert all("data" in error or "gave up" in error for error in verdict.nexusformat)
    with h5py.File(files["virtual"], "r") as file:
        assert file["entry/data/data"].is_virtual
        assert file["entry/data/data"][()].any()


POWDER_FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no crystal": (lambda f: f["entry/instrument"].pop("crystal"), "CRYSTAL"),
    "no wavelength": (lambda f: f["entry/instrument/crystal"].pop("wavelength"), "wavelength"),
    "no angle": (lambda f: f["entry/instrument/idiffr"].pop("polar_angle"), "polar_angle"),
    "no mode": (lambda f: f["entry/monitor"].pop("mode"), "mode"),
    "no integral": (lambda f: f["entry/monitor"].pop("integral"), "integral"),
    "counts that are no integers": (
        lambda f: (
            f["entry/instrument/idiffr"].pop("data"),
            f["entry/instrument/idiffr"].__setitem__("data", [0.5] * 41),
        ),
        "idiffr/data",
    ),
    "wrong unit": (
        lambda f: f["entry/instrument/crystal/wavelength"].attrs.__setitem__("units", "eV"),
        "wavelength",
    ),
}
SAXS_FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no data": (lambda f: f["entry/instrument/ad1_image"].pop("data"), "data"),
    "no distance": (lambda f: f["entry/instrument/ad1_image"].pop("distance"), "distance"),
    "no pixel size": (
        lambda f: f["entry/instrument/ad1_image"].pop("x_pixel_size"),
        "x_pixel_size",
    ),
    "no wavelength": (
        lambda f: f["entry/instrument/monochromator"].pop("wavelength"),
        "wavelength",
    ),
    "no name": (lambda f: f["entry/instrument"].pop("name"), "name"),
    "wrong unit": (
        lambda f: f["entry/instrument/ad1_image/distance"].attrs.__setitem__("units", "eV"),
        "distance",
    ),
    "wrong step": (
        lambda f: f["entry/instrument/ad1_image/transformations/z"].attrs.__setitem__(
            "transformation_type", "jump"
        ),
        "transformation_type",
    ),
    "wrong probe": (lambda f: f["entry/instrument/source/probe"].__setitem__((), "light"), "probe"),
}


@pytest.mark.parametrize(
    ("kind", "definition", "fault"),
    [
        *(("powder", "NXmonopd", fault) for fault in POWDER_FAULTS),
        *(("saxs", "NXsas", fault) for fault in SAXS_FAULTS),
    ],
)
def test_broken_diffraction_and_scattering_is_found_out(
    bare: dict[str, Path], validators: BothValidators, kind: str, definition: str, fault: str
):
    faults = POWDER_FAULTS if kind == "powder" else SAXS_FAULTS
    check_found_out(bare[kind], definition, *faults[fault], validators)


def test_silx_finds_the_default_plot_of_each(files: dict[str, Path]):
    plots = {kind: default_plot(path) for kind, path in files.items()}
    assert plots["xafs"]["is_curve"]
    assert plots["xafs"]["axes_names"] == ["energy"]
    assert plots["line"]["is_curve"]
    assert plots["line"]["auxiliary"] == ["itrans", "ifluor", "irefer", "idiffr"]
    assert plots["mesh"]["is_image"]
    assert plots["mesh"]["signal"].shape == (4, 5)
    assert np.isnan(plots["aborted_mesh"]["signal"]).sum() == 7
    assert plots["powder"]["axes_names"] == ["polar_angle"]
    assert plots["powder"]["axes"][0][plots["powder"]["signal"].argmax()] == pytest.approx(25.4)
    assert plots["saxs"]["is_stack"]
    assert plots["stills"]["is_stack"]
    assert plots["stills"]["signal"].shape == (6, 8, 12)


def test_silx_finds_a_fault_in_a_broken_plot(files: dict[str, Path], tmp_path: Path):
    broken = tmp_path / "broken.nxs"
    shutil.copy(files["line"], broken)
    with h5py.File(broken, "r+") as file:
        file["entry/data"].attrs["signal"] = "nothing"
    with pytest.raises(AssertionError):
        default_plot(broken)
