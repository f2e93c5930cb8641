"""The IOC is killed and restarted under running clients of three kinds.

RESTARTS in the environment says how often (twice by default), OUTAGE how long the IOC stays away
(s). The times are printed: EPICS' own
library, on which pyepics and aioca stand, waits up to 10 s after a disconnection before it searches
for a PV again, whatever servers send meanwhile.
"""

import json
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ioc_stack import Stack, running

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

RESTARTS = int(os.environ.get("RESTARTS", "2"))
OUTAGE = float(os.environ.get("OUTAGE", "0"))
LIMIT = 10.0

_TELL = """
import json, os, sys, threading, time
def tell(event):
    print(json.dumps([event, time.time()]), flush=True)
"""
CLIENTS = {
    "pyepics": """
        import epics
        def changed(conn, **_):
            if not conn:
                tell("lost")
        def fresh(value, **_):
            tell("value")
        pv = epics.PV("BL02:IOC:STARTTOD", connection_callback=changed, callback=fresh)
        sys.stdin.read()
        os._exit(0)
        """,
    "aioca": """
        import asyncio, aioca
        def fresh(value):
            tell("value" if value.ok else "lost")
        async def main():
            aioca.camonitor("BL02:IOC:STARTTOD", fresh, notify_disconnect=True)
            await asyncio.to_thread(sys.stdin.read)
            os._exit(0)
        asyncio.run(main())
        """,
    "caproto": """
        from caproto.threading.client import Context
        def changed(pv, state):
            if state == "disconnected":
                tell("lost")
        def fresh(sub, response):
            tell("value")
        (pv,) = Context().get_pvs("BL02:IOC:STARTTOD", connection_state_callback=changed)
        pv.wait_for_connection(timeout=10)
        subscription = pv.subscribe()
        subscription.add_callback(fresh)
        sys.stdin.read()
        os._exit(0)
        """,
}


class Client:
    def __init__(self, stack: Stack, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TELL + textwrap.dedent(code)],
            env={**os.environ, **stack.environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.told: queue.Queue[tuple[str, float]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("["):
                self.told.put(tuple(json.loads(line)))

    def wait(self, wanted: str, seconds: float) -> float:
        end = time.monotonic() + seconds
        while True:
            event, when = self.told.get(timeout=max(0.01, end - time.monotonic()))
            if event == wanted:
                return when

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


def test_clients_reconnect_to_a_killed_and_restarted_ioc(tmp_path: Path):
    took: dict[str, list[float]] = {name: [] for name in CLIENTS}
    with running(tmp_path) as stack:
        clients = {name: Client(stack, code) for name, code in CLIENTS.items()}
        try:
            for client in clients.values():
                client.wait("value", 20)
            for turn in range(RESTARTS):
                # Not in step with the timers of the clients.
                time.sleep(0.37 * (turn % 7))
                stack.ioc.kill()
                for client in clients.values():
                    client.wait("lost", 10)
                time.sleep(OUTAGE)
                stack.start_ioc()
                serving = time.time()
                for name, client in clients.items():
                    took[name].append(client.wait("value", 3 * LIMIT) - serving)
        finally:
            for client in clients.values():
                client.stop()
        assert "Traceback" not in stack.log()
    for name, times in took.items():
        print(f"{name}: " + " ".join(f"{seconds:.2f}" for seconds in times))
    assert max(max(times) for times in took.values()) <= LIMIT
