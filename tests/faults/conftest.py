"""A simulated beamline that the tests break and mend, and a client that does so."""

from collections.abc import Iterator

import pytest
from simulated_beamline import FAULTY_PORT, Documents, Stack, start_stack

from beamline.daq import DeviceClient


@pytest.fixture(scope="session")
def faulty(tmp_path_factory) -> Iterator[Stack]:
    """Device server and IOC that all tests of faults share."""
    stack = start_stack("FAULTY:", FAULTY_PORT, tmp_path_factory.mktemp("faulty"))
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def faulty_bl(faulty, tmp_path_factory):
    """The connected devices of that beamline."""
    from devices import Beamline

    beamline = Beamline(faulty.prefix, frames_dir=tmp_path_factory.mktemp("frames"))
    beamline.connect(timeout=60)
    beamline.counters.exposure.set(0.01).wait(10)
    yield beamline
    beamline.destroy()


@pytest.fixture
def device(faulty) -> Iterator[DeviceClient]:
    """A connection to the device server, to break things with; all is mended at the end."""
    host, _, port = faulty.address.partition(":")
    with DeviceClient(host, int(port)) as client:
        yield client
        client.request("FAULT:ALL:NONE")


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
