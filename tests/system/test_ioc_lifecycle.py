"""The IOC as a process: starting, stopping, and living through the death of its neighbours."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ioc_stack import Stack, running
from simulated_beamline import reserved_port

from beamline.core.epics import client_environment

pytestmark = pytest.mark.system


def ioc(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ioc", "--server", "127.0.0.1:1", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_one_sentence(kind: int):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with ioc("--port", str(port)) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert f"127.0.0.1:{port}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None])
def test_it_stops_with_all_its_children(how: signal.Signals | None):
    with ioc("--port", "0", "--exit-with-parent") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        ready = process.stdout.readline()
        assert ready.startswith("READY prefix=BL02: port=")
        family = [process.pid, *children(process.pid)]
        assert len(family) == 2
        if how is None:
            process.stdin.close()
        else:
            process.send_signal(how)
        status = process.wait(timeout=60)
        until(lambda: all(gone(pid) for pid in family))
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)


def test_two_iocs_side_by_side():
    with ioc("--port", "0") as first, ioc("--port", "0") as second:
        ports = set()
        for process in (first, second):
            assert process.stdout is not None
            ports.add(process.stdout.readline().split("port=")[1].split()[0])
        for process in (first, second):
            process.terminate()
            assert process.wait(timeout=60) == 0
    assert len(ports) == 2


@pytest.fixture
def stack(tmp_path: Path):
    with running(tmp_path) as stack:
        yield stack


def test_the_device_server_dies_in_mid_move_and_comes_back(stack: Stack):
    client = stack.start_client(
        """
        from ophyd import EpicsMotor
        from ophyd.utils.errors import UnknownStatusFailure, WaitTimeoutError
        x = EpicsMotor(P + "SAMPLE:X", name="x")
        x.wait_for_connection(timeout=60)
        def fails(status):
            try:
                status.wait(30)
            except WaitTimeoutError:
                return "not within 30 s"
            except UnknownStatusFailure:
                return True
            return False
        put("SAMPLE:X.VELO", 100.0)
        put("DET:EXPOSURE", 0.25)
        put("SHUTTER:CMD", "Open")
        ended = []
        pv("SAMPLE:X").put(9000.0, use_complete=True, callback=lambda **_: ended.append(1))
        status = x.set(9000.0)
        until(lambda: get("SAMPLE:X.RBV"))
        tell(moving=get("SAMPLE:X.MOVN"))
        sys.stdin.readline()
        failed = fails(status)
        until(lambda: ended)
        tell(failed=failed,
             state=[get("SAMPLE:X.DMOV"), get("SAMPLE:X.MISS")],
             alarm=[get("SAMPLE:X.STAT", as_string=True), get("SAMPLE:X.SEVR", as_string=True)])
        ring = pv("RING:CURRENT")
        tell(ring=[ring.severity, ring.status])
        # A put while the link is down fails, and doesn't hang.
        failed = fails(x.set(10.0))
        put("SCALER1.CNT", 1)
        put("AD1:cam1:Acquire", 1)
        def state():
            return [get("AD1:cam1:DetectorState_RBV", as_string=True),
                    get("AD1:cam1:StatusMessage_RBV", as_string=True)]
        tell(failed_at_once=failed, setpoint=get("SAMPLE:X"),
             camera=state())
        sys.stdin.readline()
        until(lambda: not (get("SAMPLE:X.SEVR") or get("RING:CURRENT.SEVR")
                           or get("AD1:HDF1:Capture.SEVR")))
        until(lambda: get("SAMPLE:X.VELO") == 100.0 and get("DET:EXPOSURE") == 0.25)
        tell(back=[get("SAMPLE:X"), get("SAMPLE:X.RBV")], restored=[get("SAMPLE:X.VELO"),
             get("DET:EXPOSURE"), get("SCALER1.TP")], shutter=get("SHUTTER:STATUS"),
             camera_again=state())
        x.set(100.0).wait(30)
        tell(moved=x.user_readback.get(use_monitor=False))
        """
    )
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert '"moving": 1' in client.stdout.readline()
        stack.server.kill()
        client.stdin.write("\n")
        client.stdin.flush()
        lines = [client.stdout.readline() for _ in range(3)]
        stack.restart_server()
        out, err = client.communicate("\n", timeout=100)
    assert client.returncode == 0, err
    found = {}
    for line in [*lines, *out.splitlines()]:
        found.update(json.loads(line))
    assert found["failed"] is True
    assert found["state"] == [1, 1]
    assert found["alarm"] == ["COMM", "INVALID"]
    assert found["ring"] == [3, 9]
    assert found["failed_at_once"] is True
    assert found["setpoint"] == 9000.0
    assert found["camera"] == ["Error", "no connection to the device server"]
    assert found["camera_again"] == ["Idle", ""]
    # Positions and the shutter are as the new server says; settings are as the user said.
    assert found["back"] == [0.0, 0.0]
    assert found["shutter"] == 0
    assert found["restored"] == [100.0, 0.25, 0.25]
    assert found["moved"] == 100.0
    log = stack.log()
    assert "lost the connection to the device server" in log
    assert "Traceback" not in log


def test_a_device_server_that_hangs_is_noticed(stack: Stack):
    client = stack.start_client(
        """
        x = pv("SAMPLE:X")
        put("SAMPLE:X.VELO", 50.0)
        x.put(9000.0, wait=True, timeout=60)
        tell(alarm=get("SAMPLE:X.SEVR"), done=get("SAMPLE:X.DMOV"))
        """
    )
    with client:
        until(lambda: "MOVING" in talk(stack.server_port, "STATUS:BL02:SAMPLE:X"))
        os.kill(stack.server.pid, signal.SIGSTOP)
        try:
            out, err = client.communicate(timeout=100)
        finally:
            os.kill(stack.server.pid, signal.SIGCONT)
    assert client.returncode == 0, err
    assert '"alarm": 3, "done": 1' in out


def talk(port: int, line: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as server:
        server.sendall(line.encode() + b"\n")
        return server.recv(1000).decode()


def test_a_client_reconnects_to_a_restarted_ioc(stack: Stack):
    client = stack.start_client(
        """
        rbv = pv("SAMPLE:X.RBV")
        tell(first=rbv.get())
        while rbv.connected:
            time.sleep(0.01)
        tell(disconnected=True)
        while not rbv.connected:
            time.sleep(0.01)
        tell(again=rbv.get(use_monitor=False))
        """
    )
    with client:
        assert client.stdout is not None
        assert "first" in client.stdout.readline()
        stack.ioc.kill()
        assert "disconnected" in client.stdout.readline()
        stack.start_ioc()
        out, err = client.communicate(timeout=100)
    assert client.returncode == 0, err
    assert '"again": 0.0' in out


def test_an_ioc_without_a_device_server_serves_alarms(tmp_path: Path):
    port = reserved_port()
    code = (
        "import epics; p = epics.PV('BL02:MONO:ENERGY.RBV', form='time'); "
        "p.wait_for_connection(30); p.get(timeout=30); print(p.severity)"
    )
    with ioc("--port", str(port)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **client_environment(port)},
            capture_output=True, text=True, check=True, timeout=90,
        )  # fmt: skip
        process.terminate()
    assert seen.stdout.strip() == "3"
