"""Many, slow, greedy and dying clients of the device server."""

from __future__ import annotations

import contextlib
import itertools
import resource
import threading
import time

import numpy as np
import pytest
from device_client import (
    Client,
    cpu_seconds,
    descriptors,
    wait,
)

from beamline.core.processes import Child

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


def test_a_client_that_does_not_read_is_disconnected(shared: Child, port: int) -> None:
    with Client(port) as witness, Client(port) as greedy:
        witness.do("PING")
        greedy.do("PING")
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
        wait(lambda: descriptors(shared.pid) < before)


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
        assert cpu_seconds(shared.pid) - before <= 0.02
