"""Documents that the network drops, doubles and reorders: noticed, and the file is the same."""

from __future__ import annotations

import random
import sys
import threading
import time
import urllib.request
from collections import Counter

import msgpack
import pytest
import zmq
from nexus_documents import Run, counter_keys, motor_keys

from beamline.core.processes import Child
from beamline.documents import JournalWriter
from beamline.nexus.compare import compare_files
from callbacks.nexus import NeXusWriter


class BadWire:
    """A 0MQ relay for one subscriber that spoils messages with documents, one in a hundred each."""

    def __init__(self, address: str, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._back = self._context.socket(zmq.DEALER)
        for socket in (self._front, self._back):
            socket.set(zmq.LINGER, 0)
        self._front.bind("tcp://127.0.0.1:0")
        self._back.connect(address)
        self.address = self._front.get_string(zmq.LAST_ENDPOINT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        poller.register(self._back, zmq.POLLIN)
        subscriber = b""
        held: list[bytes] | None = None
        while not self._stopping.is_set():
            ready = dict(poller.poll(20))
            if self._front in ready:
                subscriber, *frames = self._front.recv_multipart()
                self._back.send_multipart(frames)
            if self._back in ready:
                frames = self._back.recv_multipart()
                what = self._fate(frames)
                copies = {"drop": 0, "double": 2, "reorder": 0}.get(what, 1)
                if what == "reorder" and held is None:
                    held = frames
                    continue
                for _ in range(copies):
                    self._front.send_multipart([subscriber, *frames])
                if held is not None and copies:
                    self._front.send_multipart([subscriber, *held])
                    held = None

    def _fate(self, frames: list[bytes]) -> str:
        if frames[0] != b"docs":
            return "pass"
        chance = self._random.random()
        for what, upper in (("drop", 0.01), ("double", 0.02), ("reorder", 0.03)):
            if chance < upper:
                self.done[what] += 1
                self.documents[what] += msgpack.unpackb(frames[1])["count"]
                return what
        return "pass"

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.mark.faults
def test_a_wire_that_drops_doubles_and_reorders_changes_nothing(tmp_path):
    journal = JournalWriter(tmp_path / "journal")
    live = NeXusWriter(tmp_path / "live")
    children = []
    wire = None
    try:
        publisher = Child(
            "publisher",
            [
                *(sys.executable, "-m", "beamline.documents.network", str(tmp_path / "journal")),
                *("--batch", "2"),
            ],
            log=tmp_path / "publisher.log",
        )
        children.append(publisher)
        wire = BadWire(publisher.info["address"], seed=7)
        server = Child(
            "callback server",
            [
                *(sys.executable, "-m", "beamline", "callbacks", "--address", wire.address),
                *("--health-port", "0", "--output-dir", str(tmp_path / "server")),
                *("--consumer", "nexus=stop"),
            ],
            log=tmp_path / "server.log",
        )
        children.append(server)
        run = Run(plan_name="count", detectors=["counters"], num_points=4000)
        keys = {"counters": counter_keys(), "sample_x": motor_keys("sample_x", "um")}
        names = [name for described in keys.values() for name in described]
        documents = [run.begin(), run.describe("primary", keys)]
        documents += [
            run.event("primary", dict.fromkeys(names, float(number))) for number in range(4000)
        ]
        documents.append(run.stop())
        for name, doc in documents:
            journal(name, doc)
            live(name, doc)
        found = {}
        deadline = time.monotonic() + 75
        while found.get("runs_finished_total") != 1 and time.monotonic() < deadline:
            time.sleep(0.1)
            with urllib.request.urlopen(server.info["health"], timeout=60) as answer:
                lines = answer.read().decode().splitlines()
            found = {
                line.split(" ")[0].removeprefix("beamline_callbacks_"): float(line.split(" ")[-1])
                for line in lines
                if not line.startswith("#")
            }
        assert found["runs_finished_total"] == 1
        assert found["delivered_total"] == len(documents)
        assert found["lost_total"] == 0
        # The wire did its worst, and all of it was noticed.
        assert min(wire.done[what] for what in ("drop", "double", "reorder")) >= 5
        assert found["duplicates_total"] >= wire.documents["double"]
        # What is spoilt in a stretch that is sent again anyway is no gap of its own: a subscriber
        # that the machine keeps waiting asks for longer stretches.
        spoilt = wire.documents["drop"] + wire.documents["reorder"]
        assert 0 < found["missed_total"] <= spoilt
        assert found["gaps_total"] <= found["missed_total"]
        assert found["refilled_total"] > 0
        (file,) = live.files
        assert compare_files(file, tmp_path / "server" / "nexus" / file.name) == []
    finally:
        for child in reversed(children):
            child.stop()
        if wire is not None:
            wire.close()
        journal.close()
