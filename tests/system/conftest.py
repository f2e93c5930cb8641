"""A simulated beamline for the tests: device server and IOC, started once, on free ports."""

from collections.abc import Iterator

import pytest
from nexus_validators import BothValidators
from simulated_beamline import (
    MAIN_PORT,
    SPARE_PORT,
    Documents,
    Stack,
    start_speckle_stack,
    start_stack,
)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Iterator[Stack]:
    """The beamline that all tests share; they leave it as they found it."""
    stack = start_stack("BL02:", MAIN_PORT, tmp_path_factory.mktemp("simulated"))
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def bl(simulated, tmp_path_factory):
    """The connected devices of the shared beamline."""
    from devices import Beamline

    beamline = Beamline(simulated.prefix, frames_dir=tmp_path_factory.mktemp("frames"))
    beamline.connect(timeout=60)
    beamline.counters.exposure.set(0.01).wait(10)
    yield beamline
    beamline.destroy()


@pytest.fixture(scope="session")
def validators() -> Iterator[BothValidators]:
    """Both sets of definitions, each in its process."""
    with BothValidators() as both:
        yield both


@pytest.fixture
def fragile(tmp_path) -> Iterator[Stack]:
    """A beamline of its own, for a test that kills or restarts a part of it."""
    stack = start_stack("FRAGILE:", SPARE_PORT, tmp_path / "fragile")
    yield stack
    stack.stop()


@pytest.fixture
def fragile_bl(fragile, tmp_path):
    """The connected devices of the beamline that may break."""
    from devices import Beamline

    beamline = Beamline(fragile.prefix, frames_dir=tmp_path / "frames")
    beamline.connect(timeout=60)
    yield beamline
    beamline.destroy()


@pytest.fixture(scope="session")
def speckle(tmp_path_factory) -> Iterator[Stack]:
    """A beamline with a small detector that sees spheres diffuse."""
    stack = start_speckle_stack(
        tmp_path_factory.mktemp("speckle"),
        time_scale=20,
        detector_nx=128, detector_ny=128, beam_centre_x_px=60.4, beam_centre_y_px=66.7,
        beam_stop_px=6, detector_distance_m=0.05, diffusion_A2_per_s=400, flux_counts_per_s=1e5,
    )  # fmt: skip
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def speckle_bl(speckle, tmp_path_factory):
    """The connected devices of that beamline, speckle in its detector."""
    from devices import Beamline

    beamline = Beamline(speckle.prefix, frames_dir=tmp_path_factory.mktemp("speckle-frames"))
    beamline.connect(timeout=60)
    beamline.area_detector.sim_mode.set("Speckle").wait(10)
    yield beamline
    beamline.destroy()


@pytest.fixture
def docs() -> Documents:
    return Documents()


@pytest.fixture
def engine(docs):
    """A RunEngine without signal handlers; documents go to `docs`."""
    from bluesky import RunEngine

    run_engine = RunEngine({}, context_managers=[])
    run_engine.subscribe(docs)
    return run_engine
