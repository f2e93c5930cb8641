"""Both validators, under both sets of definitions, and silx, on one file of each kind.

That they find nothing counts because they find each fault that is put in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_documents import Document, feed, line_run, mesh_run, stills_run, xafs_run
from nexus_validators import COMMUNITY, OFFICIAL, Validators, default_plot

from callbacks.nexus import NeXusWriter

pytestmark = pytest.mark.system

#: What both definitions of NXxas in one entry need, and what a run says about itself.
KNOWN_TO_NOBODY = (
    "/entry/element", "/entry/edge", "/entry/energy", "/entry/intensity", "/entry/is_experimental",
    "/entry/nxxas_", "/entry/sample/position_", "/entry/scan_id", "/entry/plan_", "/entry/reason",
    "/entry/exit_status",
)  # fmt: skip


@pytest.fixture(scope="module")
def validators() -> Iterator[dict[str, Validators]]:
    """Both sets of definitions, each in its process."""
    with Validators(OFFICIAL) as official, Validators(COMMUNITY) as community:
        yield {OFFICIAL: official, COMMUNITY: community}


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
    }
    made = {}
    for kind, documents in kinds.items():
        writer = NeXusWriter(directory / kind)
        feed(writer, documents)
        (made[kind],) = writer.files
    return made


@pytest.mark.parametrize("kind", ["xafs", "fluorescence", "xafs_without_baseline"])
def test_a_spectrum_is_valid_under_both_definitions(
    files: dict[str, Path], validators: dict[str, Validators], kind: str
):
    for definitions in (OFFICIAL, COMMUNITY):
        verdict = validators[definitions].application(files[kind], "NXxas")
        assert verdict.errors == [], definitions
        assert verdict.warnings == [], definitions
    name = "tfy" if kind == "fluorescence" else "trans"
    verdict = validators[COMMUNITY].application(
        files[kind], f"NXxas_{name}", f"/entry/nxxas_{name}"
    )
    assert verdict.errors == []
    assert verdict.warnings == []


def test_nothing_else_is_unknown_to_the_definitions(
    files: dict[str, Path], validators: dict[str, Validators]
):
    verdict = validators[COMMUNITY].application(files["xafs"], "NXxas", strict=True)
    assert [p for p in verdict.undocumented if not p.startswith(KNOWN_TO_NOBODY)] == []


@pytest.mark.parametrize("kind", ["line", "mesh", "aborted_mesh", "stills"])
def test_other_scans_are_made_of_valid_base_classes(
    files: dict[str, Path], validators: dict[str, Validators], kind: str
):
    for definitions in (OFFICIAL, COMMUNITY):
        assert validators[definitions].base_classes(files[kind]).errors == []


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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_spectrum_is_found_out(
    files: dict[str, Path], validators: dict[str, Validators], tmp_path: Path, fault: str
):
    broken = tmp_path / "broken.nxs"
    shutil.copy(files["xafs"], broken)
    change, told = FAULTS[fault]
    with h5py.File(broken, "r+") as file:
        change(file)
    errors = [
        error
        for definitions in (COMMUNITY, OFFICIAL)
        for error in validators[definitions].application(broken, "NXxas").errors
    ]
    assert errors, "nobody has noticed"
    assert any(told in error or "required" in error for error in errors), errors


def test_silx_finds_the_default_plot_of_each(files: dict[str, Path]):
    plots = {kind: default_plot(path) for kind, path in files.items()}
    assert plots["xafs"]["is_curve"]
    assert plots["xafs"]["axes_names"] == ["energy"]
    assert plots["line"]["is_curve"]
    assert plots["line"]["auxiliary"] == ["itrans", "ifluor", "irefer", "idiffr"]
    assert plots["mesh"]["is_image"]
    assert plots["mesh"]["signal"].shape == (4, 5)
    assert np.isnan(plots["aborted_mesh"]["signal"]).sum() == 7
    assert plots["stills"]["is_stack"]
    assert plots["stills"]["signal"].shape == (6, 8, 12)


def test_silx_finds_a_fault_in_a_broken_plot(files: dict[str, Path], tmp_path: Path):
    broken = tmp_path / "broken.nxs"
    shutil.copy(files["line"], broken)
    with h5py.File(broken, "r+") as file:
        file["entry/data"].attrs["signal"] = "nothing"
    with pytest.raises(AssertionError):
        default_plot(broken)
