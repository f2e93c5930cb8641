"""The device server over real sockets: every command, error and limit of its protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from beamline.core.errors import ProcessError
from beamline.core.processes import Child
from beamline.core.units import bragg_angle
from ioc.simulator import device_server_binary, start_device_server

pytestmark = pytest.mark.system

TIME_SCALE = 20.0
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


class Client:
    """A plain client of the line protocol."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def reset(self) -> None:
        """Close with RST, as a crashed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str:
        raw = self.stream.readline()
        if not raw:
            raise ConnectionError("the server has closed the connection")
        assert raw.endswith(b"\n")
        return raw[:-1].decode("ascii")

    def ask(self, line: str) -> str:
        self.send(line.encode("ascii") + b"\n")
        return self.line()

    def get(self, pv: str) -> float:
        reply = self.ask(f"GET:BL02:{pv}")
        assert reply.startswith("OK:"), reply
        return float(reply[3:])

    def do(self, line: str) -> None:
        reply = self.ask(line)
        assert reply.startswith("OK:"), f"{line}: {reply}"

    def move(self, motor: str, position: float) -> None:
        self.do(f"MOVE:BL02:{motor}:{position!r}")
        wait(lambda: self.get(f"{motor}.DMOV") == 1)

    def counts(self) -> dict[str, float]:
        names = ["I0", "IT", "IF", "IR", "XRD"]
        reply = self.ask("MGET:" + ",".join(f"BL02:DET:{name}" for name in names))
        assert reply.startswith("OK:"), reply
        return dict(zip(names, map(float, reply[3:].split(",")), strict=True))

    def truth(self) -> dict[str, object]:
        reply = self.ask("TRUTH")
        assert reply.startswith("OK:{")
        return json.loads(reply[3:])

    def open_shutter(self) -> None:
        self.do("PUT:BL02:SHUTTER:CMD:1")
        wait(lambda: self.get("SHUTTER:STATUS") == 1)


class Subscriber(Client):
    """A client that follows the server's updates."""

    def __init__(self, port: int, glob: str = "BL02:*", interval_ms: int = 20) -> None:
        super().__init__(port)
        count, _, names = self.ask(f"SUBSCRIBE:{glob}:{interval_ms}")[3:].partition(";")
        self.names = names.split(",")
        assert len(self.names) == int(count)
        self.values: dict[str, str] = {}
        self.stamp = 0.0
        assert set(self.update()) == set(self.names)

    def update(self) -> dict[str, str]:
        kind, stamp, body = self.line().split(":", 2)
        assert kind == "UPD"
        assert re.fullmatch(r"\d+\.\d{6}", stamp)
        assert float(stamp) >= self.stamp
        self.stamp = float(stamp)
        pairs = (item.split("=", 1) for item in body.split(","))
        new = {self.names[int(index)]: value for index, value in pairs}
        self.values.update(new)
        return new

    def until(self, pv: str, value: str) -> dict[str, str]:
        while True:
            new = self.update()
            if new.get(f"BL02:{pv}") == value:
                return new


def wait(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


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


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


# --- program -------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(device_server_binary()), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )


def test_help_and_version() -> None:
    assert run("--help").returncode == 0
    assert "--time-scale" in run("--help").stdout
    assert re.fullmatch(r"beamline-sim \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--port"], "--port"),
        (["--port=65536"], "65535"),
        (["--port=abc"], "abc"),
        (["--seed=-1"], "--seed"),
        (["--time-scale=0"], "--time-scale"),
        (["--time-scale=nan"], "--time-scale"),
        (["--prefix=a b"], "--prefix"),
        (["--prefix=" + "x" * 33], "--prefix"),
        (["--host=no.such.host.invalid"], "no.such.host.invalid"),
        (["--sample=/no/such/table"], "/no/such/table"),
        (["--sample=/"], "directory"),
        (["--config=/no/such/config"], "/no/such/config"),
        (["--sample=x"] * 17, "16"),
        (["stray"], "stray"),
    ],
)
def test_refusals_are_one_sentence(arguments: list[str], words: str) -> None:
    done = run("--port=0" if "--port" not in " ".join(arguments) else "--seed=1", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.startswith("beamline-sim: ")
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1


def test_wrong_configuration_key_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sim.conf"
    path.write_text("# physics\nring_max_mA = 300\nring_maximum = 3\n")
    done = run("--port=0", f"--config={path}")
    assert done.returncode == 2
    assert "line 3" in done.stderr
    assert "ring_maximum" in done.stderr


def test_port_in_use(port: int, tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=rf"port {port}: Address already in use"):
        start_device_server(log=tmp_path / "log", port=port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with start_device_server(log=tmp_path / "log") as child:
        with Client(int(child.info["port"])) as client:
            client.do("MOVE:BL02:MONO:ENERGY:12000")
            os.kill(child.pid, number)
            with pytest.raises(ConnectionError):
                client.line()
        wait(lambda: not child.running)
        assert child.stop() == 0
        # The port is free again at once.
        with start_device_server(log=tmp_path / "log", port=int(child.info["port"])):
            pass
    assert (tmp_path / "log").read_text() == ""


def test_it_ends_with_its_parent() -> None:
    process = subprocess.Popen(
        [str(device_server_binary()), "--port=0", "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[0] == "READY"
    assert words[1] == "host=127.0.0.1"
    assert words[3] == f"pid={process.pid}"
    process.stdin.close()
    assert process.wait(5) == 0
    assert process.stdout.read() == ""
    process.stdout.close()


def test_prefix_and_sixteen_samples(tmp_path: Path, table: Path) -> None:
    with (
        start_device_server(log=tmp_path / "log", prefix="X1:", samples=[table] * 16) as child,
        Client(int(child.info["port"])) as client,
    ):
        assert client.ask("GET:X1:MONO:ENERGY") == "OK:9000"
        assert client.ask("GET:BL02:MONO:ENERGY") == "ERR:UNKNOWN_PV"
        assert client.ask("PUT:X1:SAMPLE:SELECT:15") == "OK:PUT"
        assert client.ask("PUT:X1:SAMPLE:SELECT:16") == "ERR:INVALID_VALUE"
        assert client.ask("SAMPLES") == "OK:" + ",".join(["Cu"] * 16)


def test_without_a_sample_nothing_absorbs(tmp_path: Path) -> None:
    with (
        start_device_server(log=tmp_path / "log", time_scale=20) as child,
        Client(int(child.info["port"])) as client,
    ):
        assert client.ask("SAMPLES") == "OK:empty"
        client.open_shutter()
        counts = client.counts()
        assert counts["IT"] == pytest.approx(counts["I0"], rel=0.01)


# --- commands and errors -------------------------------------------------------------------------


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
    samples = truth["samples"]
    assert isinstance(samples, list)
    first = samples[0]
    assert first["name"] == "Cu"
    assert first["e0_eV"] == 8979
    assert (first["x_um"], first["y_um"]) == (380, -260)
    assert first["shell"] == ["first", "second"]
    assert first["reflections"][0] == {"h": 1, "k": 1, "l": 1, "d_A": 2.0871, "intensity": 1}
    assert {"a", "b", "c", "alpha", "beta", "gamma"} == set(truth["crystal"])  # type: ignore[call-overload]
    detector = truth["detector"]
    assert isinstance(detector, dict)
    assert detector["shape"] == [client.get("AD1:NY"), client.get("AD1:NX")]


# --- lines ---------------------------------------------------------------------------------------


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


# --- many, slow and dying clients ----------------------------------------------------------------


def test_abrupt_closes_leave_nothing_behind(shared: Child, port: int) -> None:
    with Client(port) as witness:
        witness.do("PING")
        before = descriptors(shared.pid)
        for n in range(400):
            victim = Client(port)
            victim.send(
                [b"", b"GET:BL02:RI", b"LIST\n" * 50, b"MONITOR:BL02:RING:CURRENT:1\n"][n % 4]
            )
            if n % 2:
                victim.reset()
            else:
                victim.close()
        assert witness.ask("PING") == "OK:PONG"
        wait(lambda: descriptors(shared.pid) == before)


def test_more_than_a_thousand_clients(shared: Child, port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this machine allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    before = descriptors(shared.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(port))) for _ in range(1500)]
        for one in clients:
            one.send(b"PING\n")
        assert [one.line() for one in clients] == ["OK:PONG"] * len(clients)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait(lambda: descriptors(shared.pid) == before)


def test_a_client_that_does_not_read_is_disconnected(shared: Child, port: int) -> None:
    with Client(port) as witness, Client(port) as greedy:
        before = descriptors(shared.pid)
        greedy.socket.setblocking(False)
        delays = []
        lines = itertools.cycle([b"LIST\n" * 1000])
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                greedy.socket.send(next(lines))
            except BlockingIOError:
                pass
            except OSError:
                break
            begun = time.perf_counter()
            witness.do("PING")
            delays.append(time.perf_counter() - begun)
        else:
            pytest.fail("it is still connected")
        assert np.quantile(delays, 0.99) < 0.05
        wait(lambda: descriptors(shared.pid) == before - 1)


def test_a_pipeliner_that_reads_late_loses_nothing(client: Client) -> None:
    """Output beyond the bound holds back the client's own input, and nothing else."""
    sender = threading.Thread(target=client.send, args=(b"LIST\n" * 5000 + b"PING\n",))
    sender.start()
    time.sleep(0.1)
    first = client.line()
    assert [client.line() for _ in range(4999)] == [first] * 4999
    assert client.line() == "OK:PONG"
    sender.join()


def test_one_greedy_client_does_not_delay_others(port: int) -> None:
    stop = threading.Event()

    def flood() -> None:
        with Client(port) as greedy:
            while not stop.is_set():
                greedy.send(b"LIST:*" + b"?*" * 500 + b"\n" + b"TRUTH\n" * 100)
                for _ in range(101):
                    greedy.line()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        with Client(port) as client:
            delays = []
            for _ in range(200):
                begun = time.perf_counter()
                client.do("PING")
                delays.append(time.perf_counter() - begun)
            assert np.quantile(delays, 0.9) < 0.05
    finally:
        stop.set()
        flooding.join()


def test_it_sleeps_while_nothing_happens(shared: Child, port: int) -> None:
    with Client(port) as client:
        client.do("PING")
        before = cpu_seconds(shared.pid)
        time.sleep(0.5)
        assert cpu_seconds(shared.pid) - before <= 0.01


# --- monitors and subscriptions ------------------------------------------------------------------


def test_monitor(client: Client) -> None:
    assert client.ask("MONITOR:BL02:MONO:ENERGY:20") == "OK:MONITORING"
    begun = time.monotonic()
    assert [client.line() for _ in range(10)] == ["DATA:9000"] * 10
    assert 0.15 < time.monotonic() - begun < 1.0
    # A second monitor replaces the first.
    client.send(b"MONITOR:BL02:SAMPLE:X:1\n")
    for reply in iter(client.line, "OK:MONITORING"):
        assert reply == "DATA:9000"
    assert {client.line() for _ in range(20)} == {"DATA:0"}
    client.send(b"STOP\n")
    for reply in iter(client.line, "OK:STOPPED"):
        assert reply == "DATA:0"
    time.sleep(0.05)
    assert client.ask("PING") == "OK:PONG"


@pytest.mark.parametrize("interval", ["0", "0.5", "-1", "nan", "", "x"])
def test_monitor_interval(client: Client, interval: str) -> None:
    assert client.ask(f"MONITOR:BL02:MONO:ENERGY:{interval}") == "ERR:INVALID_VALUE"
    assert client.ask(f"SUBSCRIBE:BL02:*:{interval}") == "ERR:INVALID_VALUE"
    assert client.ask(f"MONITOR:BL02:NO:SUCH:{interval}") == "ERR:UNKNOWN_PV"


def test_monitored_detectors_are_fresh(client: Client) -> None:
    assert client.ask("MONITOR:BL02:DET:I0:1") == "OK:MONITORING"
    assert len({client.line() for _ in range(50)}) > 5


def test_subscription_follows_a_move(client: Client, port: int) -> None:
    with Subscriber(port) as follower:
        client.do("MOVE:BL02:SAMPLE:X:4000")
        began = follower.until("SAMPLE:X.DMOV", "0")
        assert began["BL02:SAMPLE:X"] == "4000"
        positions = [0.0]
        while follower.values["BL02:SAMPLE:X.DMOV"] == "0":
            new = follower.update()
            if "BL02:SAMPLE:X.RBV" in new:
                positions.append(float(new["BL02:SAMPLE:X.RBV"]))
        # The line that says "done" carries the final readback.
        assert new["BL02:SAMPLE:X.RBV"] == "4000"
        assert new["BL02:SAMPLE:X.MOVN"] == "0"
        assert positions == sorted(positions)
        assert len(positions) >= 4


def test_every_put_blinks_done_once(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:SAMPLE:Y.DMOV", 1) as follower:
        for target in (0, 0, 1, 1, -5, 0):
            client.do(f"PUT:BL02:SAMPLE:Y:{target}")
            assert follower.update() == {"BL02:SAMPLE:Y.DMOV": "0"}
            assert follower.update() == {"BL02:SAMPLE:Y.DMOV": "1"}
            assert client.get("SAMPLE:Y.RBV") == target


def test_only_changes_are_sent_and_not_too_often(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:RING:CURRENT", 100) as ring:
        begun = time.monotonic()
        for _ in range(4):
            assert set(ring.update()) == {"BL02:RING:CURRENT"}
        assert 0.25 < time.monotonic() - begun < 2.0
    with Subscriber(port, "BL02:ATTEN:FACTOR", 5) as quiet:
        time.sleep(0.05)
        client.do("PUT:BL02:ATTEN:FACTOR:0.5")
        assert quiet.update() == {"BL02:ATTEN:FACTOR": "0.5"}


def test_a_count_is_told_in_one_line(client: Client, port: int) -> None:
    results = [f"BL02:DET:{name}" for name in ("I0", "IT", "IF", "IR", "XRD")]
    with Subscriber(port) as follower:
        for _ in range(3):  # in the dark, counts may well be equal: they are told all the same
            assert client.ask("COUNT:0.01") == "OK:COUNTING"
            assert follower.until("DET:COUNTING", "1")
            done = follower.until("DET:COUNTING", "0")
            assert done["BL02:DET:ELAPSED"] == "0.01"
            assert set(results) <= set(done)
        # What clients read in between is not what was counted, and does not replace it.
        latched = {name: follower.values[name] for name in results}
        client.open_shutter()
        assert client.counts()["I0"] > 1e5
        follower.until("SHUTTER:STATUS", "1")
        assert {name: follower.values[name] for name in results} == latched


def test_count_takes_its_time_and_can_be_stopped(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:DET:*") as follower:
        begun = time.monotonic()
        client.do("COUNT:4")
        assert client.ask("COUNT:1") == "ERR:BUSY"
        follower.until("DET:COUNTING", "0")
        assert 4 / TIME_SCALE <= time.monotonic() - begun < 4 / TIME_SCALE + 0.5
        client.do("COUNT:1000")
        client.do("COUNTSTOP")
        done = follower.until("DET:COUNTING", "0")
        assert 0 < float(done["BL02:DET:ELAPSED"]) < 20


# --- motors --------------------------------------------------------------------------------------


def test_a_move_is_a_trapezoid_in_time(client: Client) -> None:
    distance, speed, ramp = 8000.0, 2000.0, client.get("SAMPLE:X.ACCL")
    client.do(f"MOVE:BL02:SAMPLE:X:{distance}")
    begun = time.monotonic()
    track = []
    while client.get("SAMPLE:X.DMOV") == 0:
        track.append((time.monotonic() - begun, client.get("SAMPLE:X.RBV")))
    took = (time.monotonic() - begun) * TIME_SCALE
    expected = distance / speed + ramp
    assert expected - 0.05 * TIME_SCALE < took < expected + 0.1 * TIME_SCALE
    assert client.get("SAMPLE:X.RBV") == distance
    times, positions = np.array(track).T
    inside = (positions > 1500) & (positions < 6500)
    assert np.count_nonzero(inside) > 20
    slope = np.polyfit(times[inside] * TIME_SCALE, positions[inside], 1)[0]
    assert slope == pytest.approx(speed, rel=0.05)


def test_energy_is_a_bragg_angle(client: Client) -> None:
    client.do("MOVE:BL02:MONO:ENERGY:12000")
    while client.get("MONO:ENERGY.DMOV") == 0:
        reply = client.ask("MGET:BL02:MONO:ENERGY.RBV,BL02:MONO:ENERGY.ANGLE")
        energy, angle = map(float, reply[3:].split(","))
        assert angle == pytest.approx(bragg_angle(energy), abs=1e-9)
    assert client.get("MONO:ENERGY.ANGLE") == pytest.approx(bragg_angle(12000.0), abs=1e-9)


def test_retarget_stop_and_abort(client: Client) -> None:
    client.do("MOVE:BL02:SAMPLE:X:10000")
    wait(lambda: client.get("SAMPLE:X.RBV") > 500)
    client.do("MOVE:BL02:SAMPLE:X:-1000")
    assert client.get("SAMPLE:X.DMOV") == 0
    wait(lambda: client.get("SAMPLE:X.DMOV") == 1)
    assert client.get("SAMPLE:X.RBV") == -1000
    client.do("MOVE:BL02:SAMPLE:X:10000")
    wait(lambda: client.get("SAMPLE:X.RBV") > 0)
    client.do("MSTOP:BL02:SAMPLE:X")
    wait(lambda: client.get("SAMPLE:X.DMOV") == 1)
    assert 0 < client.get("SAMPLE:X.RBV") == client.get("SAMPLE:X") < 10000
    client.do("MOVE:BL02:SAMPLE:X:10000")
    client.do("MOVE:BL02:MONO:ENERGY:20000")
    client.do("COUNT:1000")
    client.do("ABORT")
    wait(lambda: client.get("SAMPLE:X.DMOV") == client.get("MONO:ENERGY.DMOV") == 1)
    assert client.get("DET:COUNTING") == 0
    assert client.get("MONO:ENERGY.RBV") < 20000


def test_motor_settings(client: Client) -> None:
    assert client.get("SAMPLE:Z.HLS") == client.get("SAMPLE:Z.LLS") == 0
    assert int(client.get("SAMPLE:Z.MSTA")) & 0x2  # done
    assert int(client.get("SAMPLE:THETA.MSTA")) & 0x240 == 0x240  # stalled: slip and problem
    client.do("PUT:BL02:SAMPLE:Z.BDST:10")
    client.move("SAMPLE:Z", -100.0)
    client.do("PUT:BL02:SAMPLE:Z.BDST:0")
    for field, value in (("VELO", 0), ("ACCL", -1), ("HLM", 5001), ("LLM", -5001), ("BDST", 1e4)):
        before = client.get(f"SAMPLE:Z.{field}")
        assert client.ask(f"PUT:BL02:SAMPLE:Z.{field}:{value}") == "ERR:INVALID_VALUE"
        assert client.get(f"SAMPLE:Z.{field}") == before


# --- signals -------------------------------------------------------------------------------------


def test_closed_shutter_means_darks(client: Client) -> None:
    client.do("PUT:BL02:DET:EXPOSURE:10")
    dark = client.counts()
    for name in ("I0", "IT", "IR"):
        assert dark[name] == pytest.approx(2000, abs=300)
    assert dark["IF"] < 150
    assert dark["XRD"] < 150
    client.open_shutter()
    assert client.counts()["I0"] > 1e8


def test_signals_follow_the_beam(client: Client) -> None:
    client.open_shutter()
    client.do("PUT:BL02:DET:EXPOSURE:1")
    full = client.counts()["I0"]
    current = client.get("RING:CURRENT")
    assert full == pytest.approx(2e7 * current / 400, rel=0.005)
    client.do("PUT:BL02:ATTEN:FACTOR:0.25")
    assert client.counts()["I0"] == pytest.approx(full / 4, rel=0.01)
    client.do("PUT:BL02:ATTEN:FACTOR:1")
    client.do("PUT:BL02:DET:EXPOSURE:0.1")
    assert client.counts()["I0"] == pytest.approx(full / 10, rel=0.01)
    client.move("MONO:ENERGY", 11000.0)
    assert client.counts()["I0"] < 0.099 * full
    client.do("PUT:BL02:DET:EXPOSURE:1000")  # 2e10 counts, below full scale
    assert client.counts()["I0"] == pytest.approx(
        1000 * full * 121 / 81 * math.exp(-4 / 9), rel=0.01
    )


def absorption(counts: dict[str, float], dark: float) -> float:
    return math.log((counts["I0"] - dark) / (counts["IT"] - dark))


def test_absorption_is_that_of_the_table(client: Client) -> None:
    client.open_shutter()
    client.do("PUT:BL02:DET:EXPOSURE:1")
    client.move("SAMPLE:X", 380.0)
    client.move("SAMPLE:Y", -260.0)
    for energy, expected in ((8500.0, 0.4978), (8979.0, 1.7), (9490.0, 2.5)):
        client.move("MONO:ENERGY", energy)
        counts = client.counts()
        assert absorption(counts, 200) == pytest.approx(expected, abs=0.01)
        if energy < 8978:
            assert counts["IF"] < 100
        else:
            assert counts["IF"] > 1e4
    client.move("SAMPLE:X", 380.0 + 1000)  # the edge of the foil cuts the beam in half
    counts = client.counts()
    half = (1 + math.exp(-2.5)) / 2
    assert counts["IT"] / counts["I0"] == pytest.approx(half, rel=0.02)
    client.move("SAMPLE:X", 380.0 + 1500)
    assert absorption(client.counts(), 200) == pytest.approx(0, abs=0.01)


def test_powder_reflection(client: Client) -> None:
    client.open_shutter()
    client.move("MONO:ENERGY", 8900.0)
    client.do("PUT:BL02:DET:EXPOSURE:10")
    peak = 2 * math.degrees(math.asin(12398.419843 / 8900 / (2 * 2.0871)))
    client.do("PUT:BL02:DET:TTH.VELO:200")
    readings = []
    for offset in (-1.0, -0.05, 0.0, 0.05, 1.0):
        client.move("DET:TTH", peak + offset)
        readings.append(client.counts()["XRD"])
    assert readings[2] > 20 * max(readings[0], readings[4])
    assert readings[1] / readings[2] == pytest.approx(0.5, abs=0.05)
    assert readings[3] / readings[2] == pytest.approx(0.5, abs=0.05)


def test_a_count_sees_the_shutter_move(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:DET:*") as follower:
        client.send(b"PUT:BL02:SHUTTER:CMD:1\nCOUNT:0.2\n")  # open for three quarters of the gate
        assert client.line() == "OK:PUT"
        assert client.line() == "OK:COUNTING"
        follower.until("DET:COUNTING", "0")
    counted = float(follower.values["BL02:DET:I0"])
    assert counted == pytest.approx(2e7 * 0.15, rel=0.01)


def test_ring_and_hall(client: Client) -> None:
    readings = [client.get("RING:CURRENT")]
    for _ in range(20):
        time.sleep(0.01)
        readings.append(client.get("RING:CURRENT"))
        assert 1e-10 <= client.get("VACUUM:PRESSURE") <= 1e-8
        assert 20 <= client.get("HUTCH:TEMP") <= 26
    assert readings == sorted(readings, reverse=True)
    assert 350 <= readings[-1] < readings[0] <= 400


def dark_counts(seed: int, tmp_path: Path) -> list[str]:
    counts = []
    with (
        start_device_server(log=tmp_path / "log", seed=seed, time_scale=100) as child,
        Client(int(child.info["port"])) as client,
        Subscriber(int(child.info["port"]), "BL02:DET:*") as follower,
    ):
        for _ in range(10):
            client.do("COUNT:1")
            done = follower.until("DET:COUNTING", "0")
            counts.append(",".join(done[f"BL02:DET:{name}"] for name in ("I0", "IT", "IR", "XRD")))
            client.counts()  # reading in between must not disturb the sequence
    return counts


def test_seeds(tmp_path: Path) -> None:
    first = dark_counts(7, tmp_path)
    assert dark_counts(7, tmp_path) == first
    assert dark_counts(8, tmp_path) != first
    assert len(set(first)) > 5


# --- area detector -------------------------------------------------------------------------------


class FrameClient(Client):
    """The consumer of the detector's frames."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        assert self.ask("FRAMES") == "OK:FRAMES"

    def frame(self) -> tuple[dict[str, float], np.ndarray]:
        header = self.line()
        match = re.fullmatch(
            r"FRAME:(?P<number>\d+):(?P<index>\d+),(?P<time>[\d.]+),uint16,(?P<ny>\d+),(?P<nx>\d+),"
            r"(?P<nbytes>\d+),(?P<energy>[\d.e+]+),(?P<exposure>[\d.e+-]+)",
            header,
        )
        assert match is not None, header
        values = {key: float(value) for key, value in match.groupdict().items()}
        raw = self.stream.read(int(values["nbytes"]))
        shape = (int(values["ny"]), int(values["nx"]))
        return values, np.frombuffer(raw, "<u2").reshape(shape)


def spots(client: Client, frame: int) -> list[tuple[float, float, float]]:
    reply = client.ask(f"TRUTH:AD1:{frame}")
    assert reply.startswith("OK:"), reply
    count, *rest = reply[3:].split(";")
    found = [tuple(map(float, item.split(","))) for item in rest]
    assert len(found) == int(count)
    return found  # type: ignore[return-value]


def test_frames_show_the_spots_of_the_truth(client: Client, port: int) -> None:
    client.open_shutter()
    first = int(client.get("AD1:TOTAL"))
    with FrameClient(port) as consumer, Subscriber(port, "BL02:AD1:*") as follower:
        begun = time.monotonic()
        assert client.ask("ACQUIRE:5") == "OK:ACQUIRING"
        assert client.ask("ACQUIRE:5") == "ERR:BUSY"
        assert client.ask("PUT:BL02:AD1:EXPOSURE:1") == "ERR:BUSY"
        frames = [consumer.frame() for _ in range(5)]
        done = follower.until("AD1:ACQUIRING", "0")
        assert done["BL02:AD1:COUNTER"] == "5"
        assert time.monotonic() - begun >= 0.5 / TIME_SCALE
        for n, (header, image) in enumerate(frames):
            assert header["number"] == first + n
            assert header["index"] == n
            assert header["energy"] == 9000
            assert header["exposure"] == 0.1
            assert abs(header["time"] - time.time()) < 60
            visible = spots(client, first + n)
            assert len(visible) > 10
            strong = [spot for spot in visible if spot[2] > 300]
            assert strong
            background = np.median(image)
            for fs, ss, photons in strong:
                x, y = round(fs), round(ss)
                patch = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].astype(float)
                assert patch.sum() - background * patch.size > 0.4 * photons
        assert not np.array_equal(frames[0][1], frames[1][1])
    wait(lambda: client.ask("ACQUIRE:1") == "ERR:NO_CONSUMER")
    assert client.ask(f"TRUTH:AD1:{first + 5}") == "ERR:INVALID_VALUE"


def test_frames_are_dark_behind_a_closed_shutter(client: Client, port: int) -> None:
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1")
        header, image = consumer.frame()
        assert not image.any()
        assert spots(client, int(header["number"])) == []


def test_the_detector_waits_for_its_consumer(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    waited = client.get("AD1:WAITED")
    with FrameClient(port) as consumer:
        with Client(port) as second:
            assert second.ask("FRAMES") == "ERR:BUSY"
        client.do("ACQUIRE:60")
        time.sleep(0.7)  # longer than the patience with ordinary clients
        assert client.get("AD1:ACQUIRING") == 1
        assert client.get("AD1:WAITED") > waited
        indices = [consumer.frame()[0]["index"] for _ in range(60)]
        assert indices == list(range(60))
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:LOST") == 0
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


def test_acquisition_can_be_stopped_and_paced(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    client.do("PUT:BL02:AD1:PERIOD:2")
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1000")
        times = [consumer.frame()[0]["time"] for _ in range(4)]
        assert np.diff(times) == pytest.approx(2 / TIME_SCALE, abs=0.05)
        client.do("ACQSTOP")
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:COUNTER") < 10
    client.do("PUT:BL02:AD1:PERIOD:0")
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


def test_a_lost_consumer_ends_the_acquisition(client: Client, port: int) -> None:
    consumer = FrameClient(port)
    with Subscriber(port, "BL02:AD1:*") as follower:
        client.do("ACQUIRE:100000")
        consumer.frame()
        consumer.reset()
        done = follower.until("AD1:ACQUIRING", "0")
        assert done["BL02:AD1:LOST"] == "1"
    wait(lambda: client.ask("ACQUIRE:1") == "ERR:NO_CONSUMER")
    with FrameClient(port) as next_one:
        wait(lambda: client.ask("ACQUIRE:1") == "OK:ACQUIRING")
        next_one.frame()
        assert client.get("AD1:LOST") == 0


def test_frames_do_not_delay_commands(client: Client, port: int) -> None:
    client.open_shutter()
    client.do("PUT:BL02:AD1:EXPOSURE:0.001")
    stop = threading.Event()

    def consume() -> None:
        with FrameClient(port) as consumer, Client(port) as control:
            control.do("ACQUIRE:1000000")
            while not stop.is_set():
                consumer.frame()

    consuming = threading.Thread(target=consume)
    consuming.start()
    try:
        wait(lambda: client.get("AD1:COUNTER") > 5)
        delays = []
        for _ in range(200):
            begun = time.perf_counter()
            client.do("PING")
            delays.append(time.perf_counter() - begun)
        assert np.quantile(delays, 0.9) < 0.02
    finally:
        stop.set()
        consuming.join()
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


# --- the helper ----------------------------------------------------------------------------------


def test_missing_and_stale_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "ioc"
    monkeypatch.setattr("ioc.simulator.files", lambda name: package)
    with pytest.raises(ProcessError, match="is missing"):
        device_server_binary()
    binary = package / "_bin" / "beamline-sim"
    source = package / "device_server" / "src" / "main.c"
    for path in (binary, source):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(binary, (1, 1))
    assert device_server_binary() == binary  # installed: times of files say nothing
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(ProcessError, match=r"older than its source main\.c"):
        device_server_binary()
