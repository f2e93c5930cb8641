"""Lock step: time passes with the commands, and the same commands give the same bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from device_client import Client

from ioc.simulator import start_device_server

pytestmark = pytest.mark.system

SCRIPT = """\
SUBSCRIBE:BL02:*:10
FRAMES
PUT:BL02:SHUTTER:CMD:1
MOVE:BL02:SAMPLE:X:380
STATUS:BL02:SAMPLE:X
MOVE:BL02:SAMPLE:Y:-260
MOVE:BL02:MONO:ENERGY:9100
COUNT:0.5
MGET:BL02:DET:I0,BL02:DET:IT,BL02:DET:IF
ADVANCE:3600
GET:BL02:RING:CURRENT
COUNT:0.5
PUT:BL02:AD1:EXPOSURE:0.02
ACQUIRE:3
ADVANCE:0
PUT:BL02:AD1:MODE:2
ACQUIRE:2
ADVANCE:0
PUT:BL02:AD1:SPARSE:1
ACQUIRE:2
ADVANCE:0
FLY:BL02:SAMPLE:Y:-300,-200,50,0.01
FLYDATA:0,50
TRUTH:AD1:2
FAULT:BL02:SAMPLE:X:LIMIT=500
MOVE:BL02:SAMPLE:X:900
GET:BL02:SAMPLE:X.RBV
STATUS:BL02:SAMPLE:X
ADVANCE:-1
ADVANCE
QUIT
"""


def told(table: Path, log: Path, **options: object) -> bytes:
    """Everything that a server sends to a client with that script."""
    with (
        start_device_server(log=log, samples=[table], lock_step=True, **options) as child,  # type: ignore[arg-type]
        Client(int(child.info["port"])) as client,
    ):
        client.send(SCRIPT.encode())
        return client.stream.read()


def test_the_same_commands_give_the_same_bytes(table: Path, tmp_path: Path) -> None:
    first = told(table, tmp_path / "log", seed=7)  # more than an hour of simulated time
    assert first.count(b"FRAME:") == 7
    assert first.count(b"OK:MOVING") == 4
    assert first.count(b"OK:FLYING") == 1
    assert b"OK:1,0,50," in first
    assert first.count(b"OK:IDLE") == 1  # arrived before the next command
    assert first.count(b"ERR:INVALID_VALUE") == 2
    assert first.rstrip().endswith(b"OK:BYE")
    assert first == told(table, tmp_path / "log", seed=7, time_scale=100.0)
    assert first != told(table, tmp_path / "log", seed=8)


def test_reads_do_not_advance_time(table: Path, tmp_path: Path) -> None:
    with (
        start_device_server(log=tmp_path / "log", samples=[table], lock_step=True) as child,
        Client(int(child.info["port"])) as client,
    ):
        assert '"lock_step":true' in client.ask("TRUTH")
        client.do("ADVANCE:1000")
        before = client.get("RING:CURRENT"), client.get("HUTCH:TEMP")
        time.sleep(0.1)
        assert (client.get("RING:CURRENT"), client.get("HUTCH:TEMP")) == before
        client.do("ADVANCE:1000")
        assert client.get("RING:CURRENT") < before[0] - 5


def test_a_server_with_a_clock_has_no_advance(client: Client) -> None:
    assert client.ask("ADVANCE:1") == "ERR:UNKNOWN_CMD"
