"""A device server that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from device_client import TIME_SCALE, Client, wait

from beamline.core.processes import Child
from ioc.simulator import start_device_server

TABLE = """\
# name: Cu
# element: Cu
# edge: K
# e0_eV: 8979
# edge_step: 2.6
# thickness_um: 12.5
# x_um: 380
# y_um: -260
# width_um: 2000
# height_um: 1500
# lattice_a_A: 3.6149
# shell: first
# shell: second
# reflection: 1 1 1 2.0871 100
# reflection: 2 0 0 1.8075 46
8000 0.6 0.0 0.3
8978 0.4 0.0 0.2
8980 3.0 2.6 1.5
10000 2.0 1.8 1.0
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "cu.table"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "sim.conf"
    path.write_text("client_patience_s = 0.5\nstalled_axis = 4  # SAMPLE:THETA\n")
    return path


@pytest.fixture(scope="module")
def shared(
    table: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with start_device_server(
        log=log, time_scale=TIME_SCALE, samples=[table, table], config=settings
    ) as child:
        yield child
        assert child.running
    assert log.read_text() == ""


@pytest.fixture
def port(shared: Child) -> Iterator[int]:
    """Port of a server that every test finds, and must leave, in its first state."""
    number = int(shared.info["port"])
    yield number
    assert shared.running
    with Client(number) as client:
        client.do("ABORT")
        for line in (
            "PUT:BL02:SHUTTER:CMD:0",
            "PUT:BL02:ATTEN:FACTOR:1",
            "PUT:BL02:DET:EXPOSURE:0.1",
            "PUT:BL02:SAMPLE:SELECT:0",
        ):
            client.do(line)
        for motor in ("MONO:ENERGY", "SAMPLE:X", "SAMPLE:Y", "SAMPLE:Z", "DET:TTH"):
            client.do(f"PUT:BL02:{motor}.VELO:{1e4 if 'SAMPLE' in motor else 200}")
            client.move(motor, 9000.0 if motor == "MONO:ENERGY" else 0.0)
            client.do(f"PUT:BL02:{motor}.VELO:{SPEEDS[motor]}")
        wait(lambda: client.get("SHUTTER:STATUS") == 0 and client.get("AD1:ACQUIRING") == 0)


SPEEDS = {"MONO:ENERGY": 500, "SAMPLE:X": 2000, "SAMPLE:Y": 2000, "SAMPLE:Z": 2000, "DET:TTH": 20}


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client(port) as opened:
        yield opened
