"""Our IOC against a bare caproto server: delays and rates of gets, puts and monitors.

Both serve about as many channels and are asked in turn, by real clients (pyepics and aioca, which
use EPICS' own library, and caproto's), each in a process of its own, and over bare sockets, where
the client costs next to nothing. Run with ``python benchmarks/channel_access.py [ROUNDS]``.
"""

import json
import os
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stock_ioc import running

from beamline.core.config import load_settings
from beamline.simulation import Simulation

CLIENTS = 20
#: PVs to write, which the record itself keeps, and PVs to read.
OURS = ("BL02:SAMPLE:X.TWV", [f"BL02:SCALER1.S{n}" for n in range(1, 33)])
STOCK = ("STOCK:V0", [f"STOCK:V{n}" for n in range(1, 33)])
#: Goes through the device server.
DEVICE = ("BL02:ATTEN:FACTOR", OURS[1])

PYEPICS = """
import epics
def connect(written, read):
    global put_pv, gets
    put_pv = epics.PV(written, auto_monitor=True, callback=lambda **_: None)
    gets = [epics.PV(name, auto_monitor=False) for name in read]
    for pv in [put_pv, *gets]:
        assert pv.wait_for_connection(20), pv
def get():
    gets[0].get()
def put(value):
    put_pv.put(value, wait=True)
"""
CAPROTO = """
from caproto.threading.client import Context
def connect(written, read):
    global put_pv, gets, context, subscription, note
    context = Context()
    put_pv, *gets = context.get_pvs(written, *read)
    for pv in [put_pv, *gets]:
        pv.wait_for_connection(timeout=20)
    subscription = put_pv.subscribe()
    note = lambda *_: None
    subscription.add_callback(note)
def get():
    gets[0].read()
def put(value):
    put_pv.write([value], wait=True, notify=True)
"""
MEASURE = """
import json, sys, time
def times(act, number):
    found = []
    for n in range(number):
        start = time.perf_counter()
        act(n)
        found.append(time.perf_counter() - start)
    return sorted(found[number // 10:])
written, read = json.loads(sys.argv[1])
connect(written, read)
gets = times(lambda n: get(), 400)
puts = times(lambda n: put(0.1 + (n % 50) / 100), 400)
print(json.dumps([gets, puts]), flush=True)
import os; os._exit(0)
"""
AIOCA = """
import aioca, asyncio, json, os, sys, time
async def main():
    written, read = json.loads(sys.argv[1])
    await aioca.connect([written, *read], timeout=20)
    aioca.camonitor(written, lambda value: None, all_updates=True)
    found = []
    for act in (lambda n: aioca.caget(read[0]),
                lambda n: aioca.caput(written, 0.1 + (n % 50) / 100, wait=True)):
        each = []
        for n in range(400):
            start = time.perf_counter()
            await act(n)
            each.append(time.perf_counter() - start)
        found.append(sorted(each[40:]))
    print(json.dumps(found), flush=True)
    os._exit(0)
asyncio.run(main())
"""
PROGRAMS = {"pyepics": PYEPICS + MEASURE, "aioca": AIOCA, "caproto": CAPROTO + MEASURE}


def ask_as(client: str, target: tuple[str, list[str]], environment: dict[str, str]):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[client], json.dumps(target)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


class Bare:
    """A client of the bare protocol."""

    HEADER = struct.Struct(">HHHHII")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.rest = b""
        self.send(0, 0, 13, 0, 0)
        self.channels = 0

    def send(self, command, data_type, count, first, second, payload=b"") -> None:
        self.socket.sendall(self.message(command, data_type, count, first, second, payload))

    def message(self, command, data_type, count, first, second, payload=b"") -> bytes:
        return self.HEADER.pack(command, len(payload), data_type, count, first, second) + payload

    def receive(self, wanted: int) -> list[tuple[int, ...]]:
        """Headers of the messages of a kind that one reading brings."""
        data = self.rest + self.socket.recv(1 << 18)
        position, found = 0, []
        while len(data) - position >= 16:
            header = self.HEADER.unpack_from(data, position)
            if len(data) - position < 16 + header[1]:
                break
            position += 16 + header[1]
            if header[0] == wanted:
                found.append(header)
        self.rest = data[position:]
        return found

    def open(self, name: str) -> int:
        text = name.encode() + b"\0"
        self.channels += 1
        self.send(18, 0, 0, self.channels, 13, text + b"\0" * (-len(text) % 8))
        while not (answers := self.receive(18)):
            pass
        return answers[0][5]

    def monitor(self, sid: int) -> None:
        self.send(1, 20, 0, sid, 1, struct.pack(">fffHxx", 0, 0, 0, 1))
        while not self.receive(1):
            pass

    def exchange(self, request, answer: int, number: int, window: int) -> float:
        """Send requests, at most `window` unanswered; give their rate (1/s)."""
        start, sent, done = time.perf_counter(), 0, 0
        while done < number:
            burst = min(window - (sent - done), number - sent)
            if burst > 0:
                self.socket.sendall(b"".join(request(n) for n in range(sent, sent + burst)))
                sent += burst
            done += len(self.receive(answer))
        return number / (time.perf_counter() - start)


def bare_rates(port: int, target: tuple[str, list[str]]) -> dict[str, float]:
    written, read = target
    client = Bare(port)
    sids = [client.open(name) for name in read]
    found = {}
    for window, what in ((1, "gets, one at a time"), (32, "gets, 32 at a time")):
        found[what] = client.exchange(
            lambda n: client.message(15, 20, 0, sids[n % len(sids)], n), 15, 4000, window
        )
    for clients in (1, CLIENTS):
        found[f"updates to {clients} clients"] = updates(port, written, clients)
    return found


def updates(port: int, name: str, clients: int, puts: int = 1000) -> float:
    """Updates per second that arrive, when one client puts as fast as it can."""
    writer = Bare(port)
    sid = writer.open(name)
    watchers = [Bare(port) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    for watcher in watchers:
        watcher.monitor(watcher.open(name))
        selector.register(watcher.socket, selectors.EVENT_READ, watcher)
    selector.register(writer.socket, selectors.EVENT_READ, writer)
    arrived = sent = done = 0
    start = last = time.perf_counter()
    # Until all have come, or none any more: the stock server drops updates when it has many.
    while arrived < puts * clients and time.perf_counter() - last < 1.0:
        while sent < puts and sent - done < 16:
            value = struct.pack(">d", 1.0 + sent)
            writer.send(19, 6, 1, sid, sent, value)
            sent += 1
        for key, _ in selector.select(0.5):
            if key.data is writer:
                done += len(writer.receive(19))
            elif news := len(key.data.receive(1)):
                arrived += news
                last = time.perf_counter()
    for client in (writer, *watchers):
        client.socket.close()
    if arrived < puts * clients:
        print(f"    {name}: {puts * clients - arrived} of {puts * clients} updates never came")
    return arrived / (last - start)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(environment={}, device_port=0, ioc_port=0)
        simulation = Simulation(settings, Path(folder))
        try:
            with running(Path(folder) / "stock.log") as (_, port):
                environment = dict(simulation.environment)
                environment["EPICS_CA_ADDR_LIST"] += f" 127.0.0.1:{port}"
                compare(rounds, environment, int(simulation.ioc.info["port"]), port)
        finally:
            simulation.stop()


def compare(rounds: int, environment: dict[str, str], ours: int, stock: int) -> None:
    rates: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        print(f"\nround {number + 1}, load average {os.getloadavg()[0]:.1f}")
        for client in PROGRAMS:
            for name, target in (("ours", OURS), ("ours, device", DEVICE), ("caproto", STOCK)):
                gets, puts = ask_as(client, target, environment)
                print(
                    f"  {client:8s} {name:13s} get {1e3 * statistics.median(gets):6.2f} ms, "
                    f"{len(gets) / sum(gets):6.0f}/s; put with completion, monitored: "
                    f"p50 {1e3 * statistics.median(puts):6.2f} ms, "
                    f"p95 {1e3 * puts[int(0.95 * len(puts))]:6.2f} ms",
                    flush=True,
                )
        mine, theirs = bare_rates(ours, OURS), bare_rates(stock, STOCK)
        for what, rate in mine.items():
            rates.setdefault(what, []).append((rate, theirs[what]))
            print(f"  {what:24s} ours {rate:7.0f}/s, caproto {theirs[what]:7.0f}/s", flush=True)
    print("\nbare sockets, median of rounds")
    for what, pairs in rates.items():
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        rate = statistics.median(mine for mine, _ in pairs)
        print(f"  {what:24s} {rate:7.0f}/s, {ratio:5.2f} x caproto")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
