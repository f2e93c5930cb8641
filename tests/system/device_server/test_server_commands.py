"""Every command, error and limit of the line protocol."""

from __future__ import annotations

import re
import socket
import threading
import time

import numpy as np
import pytest
from device_client import (
    TIME_SCALE,
    Client,
)

pytestmark = pytest.mark.system


def test_documented_answers(client: Client) -> None:
    answers = {
        "PING": "OK:PONG",
        "GET:BL02:MONO:ENERGY": "OK:9000",
        "GET:BL02:MONO:ENERGY.DMOV": "OK:1",
        "GET:BL02:SAMPLE:X.EGU": "OK:um",
        "STATUS:BL02:SAMPLE:X": "OK:IDLE",
        "PUT:BL02:DET:EXPOSURE:0.3": "OK:PUT",
        "GET:BL02:DET:EXPOSURE": "OK:0.29999999999999999",
        "MGET:BL02:SAMPLE:X,BL02:DET:EXPOSURE": "OK:0,0.29999999999999999",
        "LIST:BL02:SAMPLE:?": "OK:BL02:SAMPLE:X,BL02:SAMPLE:Y,BL02:SAMPLE:Z",
        "LIST:BL02:SAMPLE:[XY]": "OK:BL02:SAMPLE:X,BL02:SAMPLE:Y",
        "LIST:none": "OK:",
        "STOP": "OK:STOPPED",
        "COUNTSTOP": "OK:STOPPED",
        "ACQSTOP": "OK:STOPPED",
        "MSTOP:BL02:SAMPLE:X": "OK:STOPPING",
        "ABORT": "OK:ABORTED",
        "UNSUBSCRIBE": "OK:UNSUBSCRIBED",
        "SAMPLES": "OK:Cu,Cu",
        "MOVE:BL02:SAMPLE:X:0": "OK:MOVING",
        "NOSUCH": "ERR:UNKNOWN_CMD",
        "": "ERR:UNKNOWN_CMD",
        "get:BL02:MONO:ENERGY": "ERR:UNKNOWN_CMD",
        "GET:BL02:NO:SUCH": "ERR:UNKNOWN_PV",
        "GET": "ERR:UNKNOWN_PV",
        "MOVE:BL02:RING:CURRENT:1": "ERR:UNKNOWN_PV",
        "MOVE:BL02:SAMPLE:X:10001": "ERR:INVALID_VALUE",
        "PUT:BL02:RING:CURRENT:1": "ERR:INVALID_VALUE",
        "STOP:BL02:SAMPLE:X": "ERR:INVALID_VALUE",
        "MOVE:BL02:SAMPLE:THETA:1": "ERR:MOTOR_FAULT",
        "PUT:BL02:SAMPLE:THETA:1": "ERR:MOTOR_FAULT",
        "STATUS:BL02:SAMPLE:THETA": "ERR:MOTOR_FAULT",
        "ACQUIRE:1": "ERR:NO_CONSUMER",
    }
    assert {line: client.ask(line) for line in answers} == answers


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "abc", "", "0x10", "1 ", "1,5"])
@pytest.mark.parametrize("command", ["PUT:BL02:MONO:ENERGY", "MOVE:BL02:MONO:ENERGY"])
def test_bad_numbers(client: Client, command: str, value: str) -> None:
    assert client.ask(f"{command}:{value}") == "ERR:INVALID_VALUE"
    assert client.get("MONO:ENERGY.DMOV") == 1


def test_list_and_globs(client: Client) -> None:
    everything = client.ask("LIST")[3:].split(",")
    assert len(everything) == len(set(everything)) > 90
    assert client.ask("LIST:**")[3:].split(",") == everything
    assert client.ask("LIST:")[3:].split(",") == everything
    detectors = client.ask("LIST:*:DET:*")[3:].split(",")
    assert {"BL02:DET:I0", "BL02:DET:TTH.RBV", "BL02:DET:EXPOSURE"} <= set(detectors)
    assert all(":DET:" in name for name in detectors)
    assert all("ENERGY" in name for name in client.ask("LIST:*ENERGY*")[3:].split(","))
    for name in everything:
        assert re.fullmatch(r"OK:(-?[0-9.e+-]+|[a-zA-Z]+)", client.ask(f"GET:{name}")), name


def test_contract_pvs_exist(client: Client) -> None:
    from beamline.core.pvs import PVS

    names = set(client.ask("LIST")[3:].split(","))
    assert {f"BL02:{pv.suffix}" for pv in PVS} <= names
    for pv in PVS:
        if pv.record == "motor":
            low, high = client.get(f"{pv.suffix}.LLM"), client.get(f"{pv.suffix}.HLM")
            assert (low, high) == (pv.low, pv.high)
            assert client.ask(f"GET:BL02:{pv.suffix}.EGU") == f"OK:{pv.units}"


def test_values_survive_the_round_trip(client: Client) -> None:
    for value in (0.1, 1 / 3, 0.12345678901234567, 5e-324, 1.0):
        client.do(f"PUT:BL02:ATTEN:FACTOR:{value!r}")
        assert client.get("ATTEN:FACTOR") == value


def test_truth(client: Client) -> None:
    truth = client.truth()
    assert truth["seed"] == 1
    assert truth["time_scale"] == TIME_SCALE
    first = truth["samples"][0]
    assert first["name"] == "Cu"
    assert first["e0_eV"] == 8979
    assert (first["x_um"], first["y_um"]) == (380, -260)
    assert first["shell"] == ["first", "second"]
    assert first["reflections"][0] == {"h": 1, "k": 1, "l": 1, "d_A": 2.0871, "intensity": 1}
    assert {"a", "b", "c", "alpha", "beta", "gamma"} == set(truth["crystal"])
    assert truth["detector"]["shape"] == [client.get("AD1:NY"), client.get("AD1:NX")]


def test_quit_answers_all_and_closes(client: Client) -> None:
    client.send(b"PING\nQUIT\nPING\n" + b"x" * 100_000)
    assert client.line() == "OK:PONG"
    assert client.line() == "OK:BYE"
    with pytest.raises(ConnectionError):
        client.line()


def test_half_closed_clients_get_their_answers(client: Client) -> None:
    client.send(b"PING\n" * 1000 + b"unfinished")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.stream.read() == b"OK:PONG\n" * 1000


def test_line_ends_and_pieces(client: Client) -> None:
    client.send(b"PING\r\n")
    assert client.line() == "OK:PONG"
    for byte in b"GET:BL02:MONO:ENERGY\n":
        client.send(bytes([byte]))
        time.sleep(0.001)
    assert client.line() == "OK:9000"
    client.send(b"PING\nPING\nGET:BL02:MO")
    assert [client.line(), client.line()] == ["OK:PONG", "OK:PONG"]
    client.send(b"NO:ENERGY\n")
    assert client.line() == "OK:9000"


def test_pipelined_lines_come_back_in_order(client: Client) -> None:
    lines = [f"PUT:BL02:DET:EXPOSURE:{n / 1000}\nGET:BL02:DET:EXPOSURE\n" for n in range(1, 3000)]
    sender = threading.Thread(target=client.send, args=("".join(lines).encode(),))
    sender.start()
    for n in range(1, 3000):
        assert client.line() == "OK:PUT"
        assert float(client.line()[3:]) == n / 1000
    sender.join()


def test_longest_line(client: Client) -> None:
    exact = "LIST:" + "?" * (1024 - 5)
    assert client.ask(exact) == "OK:"
    client.send(exact.encode() + b"\r\n")
    assert client.line() == "OK:"
    assert client.ask(exact + "?").startswith("ERR:")
    assert client.ask("PING") == "OK:PONG"


@pytest.mark.parametrize("length", [1025, 1026, 1027, 4095, 4096, 4097, 8192, 1_000_000])
def test_longer_lines_are_discarded_whole(client: Client, length: int) -> None:
    client.send(b"A" * length + b"\nPING\n")
    assert client.line().startswith("ERR:")
    assert client.line() == "OK:PONG"


def test_an_endless_line_is_answered_before_it_ends(client: Client) -> None:
    client.send(b"A" * 5000)
    assert client.line().startswith("ERR:")
    client.send(b"B" * 50000 + b"\n")
    assert client.ask("PING") == "OK:PONG"


@pytest.mark.parametrize(
    "line",
    [
        b"PI\0NG",
        b"\0",
        b"GET:BL02:MONO:ENERGY\0",
        b"\xff\xfe\x00\x01",
        b"\x80" * 100,
        b"\t",
        b"\x7f",
    ],
)
def test_binary_lines_are_unknown_commands(client: Client, line: bytes) -> None:
    client.send(line + b"\n")
    assert client.line() == "ERR:UNKNOWN_CMD"
    assert client.ask("PING") == "OK:PONG"


def test_random_garbage(port: int) -> None:
    random = np.random.default_rng(4)
    for _ in range(30):
        with Client(port) as hostile:
            data = random.integers(0, 256, 20000, dtype=np.uint8).tobytes()
            hostile.send(data + b"\nPING\n")
            for reply in iter(hostile.line, "OK:PONG"):
                assert reply.startswith("ERR:")
