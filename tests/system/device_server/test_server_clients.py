"""Many, slow, greedy and dying clients of the device server."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_client import (
    TIME_SCALE,
    Client,
    Subscriber,
    cpu_seconds,
    descriptors,
    wait,
)

from beamline.core.processes import Child
from ioc.simulator import start_device_server

pytestmark = pytest.mark.system


def test_abrupt_closes_leave_nothing_behind(shared: Child, port: int) -> None:
    with Client(port) as witness:
        witness.do("PING")
        before = descriptors(shared.pid)
        for n in range(1000):
            victim = Client(port)
            victim.send(
                [
                    b"", b"GET:BL02:RI", b"LIST\n" * 50, b"MONITOR:BL02:RING:CURRENT:1\n",
                    b"\0\xff\xfe\n" * 50, b"A" * 3000, b"TRUTH\n" * 40 + b"PIN",
                ][n % 7]
            )  # fmt: skip
            if n % 2:
                victim.reset()
            else:
                victim.close()
        assert witness.ask("PING") == "OK:PONG"
        wait(lambda: descriptors(shared.pid) <= before)


def test_more_than_a_thousand_clients(shared: Child, port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this machine allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    before = descriptors(shared.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(port))) for _ in range(2000)]
        for one in clients:
            one.send(b"PING\n")
        assert [one.line() for one in clients] == ["OK:PONG"] * len(clients)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait(lambda: descriptors(shared.pid) <= before)


def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    settings = tmp_path / "sim.conf"
    settings.write_text("client_patience_s = 1.5\n")
    with (
        start_device_server(log=tmp_path / "log", config=settings) as child,
        Client(int(child.info["port"])) as witness,
        Client(int(child.info["port"])) as greedy,
    ):
        witness.do("PING")
        greedy.do("PING")
        before = descriptors(child.pid)
        greedy.socket.setblocking(False)
        served_meanwhile = 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                greedy.socket.send(b"LIST\n" * 1000)
            except BlockingIOError:
                served_meanwhile += 1
            except OSError:
                break
            witness.do("PING")
        else:
            pytest.fail("it is still connected")
        # A server that waited for the greedy one would serve the other once it is gone.
        assert served_meanwhile > 3
        wait(lambda: descriptors(child.pid) < before)


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
    batches = 0

    def flood() -> None:
        nonlocal batches
        with Client(port) as greedy:
            while not stop.is_set():
                greedy.send(b"LIST:*" + b"?*" * 500 + b"\n" + b"TRUTH\n" * 100)
                for _ in range(101):
                    greedy.line()
                batches += 1

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        with Client(port) as client:
            wait(lambda: batches > 0)
            before = batches
            for _ in range(200):
                client.do("PING")
            assert batches - before < 200
    finally:
        stop.set()
        flooding.join()


def test_it_sleeps_while_nothing_happens(shared: Child, port: int) -> None:
    with Client(port) as client:
        client.do("PING")
        before = cpu_seconds(shared.pid)
        time.sleep(0.5)
        assert cpu_seconds(shared.pid) - before <= 0.02


def test_everybody_is_served_during_a_fast_fly_scan(port: int) -> None:
    points, per_second = 40_000, 20_000
    dwell = TIME_SCALE / per_second
    landed = threading.Event()
    rounds: dict[str, int] = {}

    def pipelined(client: Client) -> None:
        lines = ["PING", "GET:BL02:SAMPLE:Z.RBV", "GET:BL02:NO", "NONSENSE", "GET:BL02:FLY:TOTAL"]
        client.send("".join(f"{line}\n" for line in lines * 20).encode())
        replies = [client.line() for _ in lines * 20]
        assert replies == replies[:5] * 20
        assert replies[0] == "OK:PONG"
        assert [reply.partition(":")[0] for reply in replies[1:4]] == ["OK", "ERR", "ERR"]
        assert replies[4] == f"OK:{points}"

    def moving(client: Client) -> None:
        target = 10.0 * (1 + rounds["moving"] % 5)
        client.move("SAMPLE:X", target)
        assert client.get("SAMPLE:X.RBV") == target

    def reading(client: Client) -> None:
        first = int(client.get("FLY:POINTS")) // 2
        words = client.ask(f"FLYDATA:{first},1000")[3:].split(",")
        number, begin, count, nbytes = map(int, words)
        table = np.frombuffer(client.stream.read(nbytes), "<f8").reshape(count, 8)
        assert (begin, number) == (first, client.get("FLY:NUMBER"))
        index = np.arange(first, first + count)
        np.testing.assert_allclose(table[:, 0], (index + 0.5) * dwell, rtol=1e-9)
        np.testing.assert_allclose(table[:, 1], -2000 + 4000 * index / (points - 1), atol=1e-6)
        assert np.isfinite(table).all()

    def following(client: Subscriber) -> None:
        before = float(client.values["BL02:FLY:POINTS"])
        now = float(client.update().get("BL02:FLY:POINTS", before))
        assert before <= now <= points

    def serve(job: Callable[[Any], None]) -> None:
        # The current of the ring changes all the time: updates come after the landing as well.
        with Subscriber(port) if job is following else Client(port) as client:
            while not landed.is_set():
                job(client)
                rounds[job.__name__] += 1

    jobs = [pipelined, moving, reading, following]
    with Client(port) as pilot, ThreadPoolExecutor(len(jobs)) as pool:
        pilot.do(f"FLY:BL02:SAMPLE:Y:-2000,2000,{points},{dwell}")
        rounds.update({job.__name__: 0 for job in jobs})
        serving = [pool.submit(serve, job) for job in jobs]
        try:
            wait(lambda: pilot.get("FLY:STATE") >= 4, timeout=60)
        finally:
            landed.set()
        for one in serving:
            one.result(timeout=30)
        assert (pilot.get("FLY:STATE"), pilot.get("FLY:POINTS")) == (4, points)
        assert min(rounds[job.__name__] for job in jobs) > 0
