"""Documents over the network: rows per second end to end, beside bluesky's 0MQ in the same run.

Ours: journal, publishing process, callback server with a consumer that counts rows, or with the
NeXus writer. The baseline: bluesky's Publisher, Proxy and RemoteDispatcher with a consumer that
counts rows; nothing is recorded, and pickle is used, as it comes. The time is from the first
document given to the sender to the last document that reached the consumer. Run with
``python benchmarks/network.py [ROWS]``; ends with status 1 if ours loses a row or makes less than
20,000 rows per second of pages.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from nexus_writer import documents

from beamline.core.processes import Child, free_port
from beamline.documents import JournalWriter
from beamline.documents.network import DocumentPublisher

LEAST = 20_000
ROUNDS = 3
SILENCE = 5.0  # seconds without a document after which the rest counts as lost


def _tally(_start=None):
    """Make a consumer that counts rows and writes them down, at the stop document at the latest."""
    path = Path(os.environ["TALLY"])
    state = {"rows": 0, "stop": False, "last": 0.0}

    def consumer(name, doc):
        if name == "event":
            state["rows"] += 1
        elif name == "event_page":
            state["rows"] += len(doc["seq_num"])
        state["stop"] |= name == "stop"
        now = time.time()
        if state["stop"] or now - state["last"] > 0.05:
            state["last"] = now
            new = path.with_suffix(".new")
            new.write_text(json.dumps(state))
            new.replace(path)

    return [consumer]


def _remote_dispatcher(port):
    from bluesky.callbacks.zmq import RemoteDispatcher

    dispatcher = RemoteDispatcher(("127.0.0.1", port))
    dispatcher.subscribe(_tally()[0])
    print("READY", flush=True)
    dispatcher.start()


def _proxy(inward, outward):
    from bluesky.callbacks.zmq import Proxy

    proxy = Proxy(("127.0.0.1", inward), ("127.0.0.1", outward))
    print("READY", flush=True)
    proxy.start()


@dataclass
class Result:
    rate: float
    lost: int
    sender: float  # µs per document in the thread that sends


def wait_for(path, rows):
    """Return the tally when it is complete, or when nothing has come for a while."""
    state, changed = {"rows": 0, "stop": False, "last": time.time()}, time.monotonic()
    while time.monotonic() - changed < SILENCE:
        time.sleep(0.005)
        if path.exists():
            found = json.loads(path.read_text())
            if found != state:
                state, changed = found, time.monotonic()
            if state["stop"] and state["rows"] >= rows:
                break
    return state


def send(consumers, parts):
    """Give all documents to all; return the time of the beginning and µs per document of each."""
    spent, count = [0.0] * len(consumers), 0
    began = time.time()
    for part in parts:
        for name, doc in part:
            count += 1
            for index, consumer in enumerate(consumers):
                before = time.perf_counter()
                consumer(name, doc)
                spent[index] += time.perf_counter() - before
    return began, [1e6 * seconds / count for seconds in spent]


def ours(rows, *, pages, consumer):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tally = folder / "tally"
        parts = list(documents(rows, pages))
        with JournalWriter(folder / "journal") as journal, DocumentPublisher(folder) as publisher:
            server = Child(
                "callback server",
                [
                    *(sys.executable, "-m", "beamline", "callbacks", "--health-port", "0"),
                    *("--address", publisher.address, "--output-dir", str(folder / "out")),
                    *("--consumer", consumer),
                ],
                log=folder / "server.log",
                env={
                    "TALLY": str(tally),
                    "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
                },
            )
            with server:
                time.sleep(1.0)
                began, (recorded, published) = send([journal, publisher], parts)
                if consumer == "nexus":
                    state = _wait_for_nexus(server, rows)
                else:
                    state = wait_for(tally, rows)
        return Result(rows / (state["last"] - began), rows - state["rows"], published), recorded


def _wait_for_nexus(server, rows):
    while True:
        with urllib.request.urlopen(server.info["health"], timeout=5) as answer:
            text = answer.read().decode()
        if "runs_finished_total 1.0" in text:
            lost = 0 if "lost_total 0.0" in text else rows
            return {"rows": rows - lost, "last": time.time()}
        time.sleep(0.02)


def bluesky(rows, *, pages):
    from bluesky.callbacks.zmq import Publisher

    inward, outward = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {"TALLY": str(folder / "tally")}
        me = [sys.executable, __file__]
        with (
            Child("proxy", [*me, "proxy", str(inward), str(outward)], log=folder / "p", env=env),
            Child("dispatcher", [*me, "dispatcher", str(outward)], log=folder / "d", env=env),
        ):
            parts = list(documents(rows, pages))
            publisher = Publisher(("127.0.0.1", inward))
            time.sleep(1.0)  # it has no handshake
            began, (sent,) = send([publisher], parts)
            state = wait_for(folder / "tally", rows)
            publisher.close()
        return Result(state["rows"] / (state["last"] - began), rows - state["rows"], sent)


def main():
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    few = rows // 5
    cases = {
        "pages, ours": lambda: ours(rows, pages=True, consumer="network:_tally"),
        "pages, bluesky": lambda: (bluesky(rows, pages=True), 0.0),
        "pages into NeXus, ours": lambda: ours(rows, pages=True, consumer="nexus"),
        "events, ours": lambda: ours(few, pages=False, consumer="network:_tally"),
        "events, bluesky": lambda: (bluesky(few, pages=False), 0.0),
    }
    results = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, measure in cases.items():
            results[name].append(measure())
    print(f"{rows:,} rows of pages of 1,000, {few:,} single events; median of {ROUNDS} rounds")
    for name, found in results.items():
        rate = statistics.median(result.rate for result, _ in found)
        sender = statistics.median(result.sender for result, _ in found)
        journal = statistics.median(recorded for _, recorded in found)
        lost = [result.lost for result, _ in found]
        also = f", journal {journal:.1f} µs" if journal else ""
        print(f"{name:24} {rate:10,.0f} rows/s, lost {lost}, {sender:.2f} µs per document{also}")
    mine = [result for name in results if "ours" in name for result, _ in results[name]]
    slow = [result.rate for result, _ in results["pages, ours"] if result.rate < LEAST]
    if any(result.lost for result in mine) or slow:
        sys.exit("ours lost rows, or was slower than it must be.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["dispatcher"]:
        _remote_dispatcher(int(sys.argv[2]))
    elif sys.argv[1:2] == ["proxy"]:
        _proxy(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
