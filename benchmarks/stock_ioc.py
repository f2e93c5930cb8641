"""An IOC made of caproto's own server and records, to compare ours with.

``python benchmarks/stock_ioc.py PORT VALUES`` prints READY when it serves, and ends with its
standard input.
"""

import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from caproto import ChannelDouble
from caproto.asyncio.server import run
from caproto.ioc_examples.fake_motor_record import FakeMotor
from caproto.server import PVGroup, SubGroup, pvproperty

from beamline.core.processes import Child, free_port

#: As many plain numbers as our IOC has channels, roughly.
VALUES = 1000


class Stock(PVGroup):
    """A motor that moves at once, and a counter."""

    # So fast that the time between two looks at the setpoint is all that it takes.
    axis = SubGroup(FakeMotor, prefix="AXIS", velocity=1e9, user_limits=(-1e4, 1e4),
                    tick_rate_hz=1000.0)  # fmt: skip
    counts = pvproperty(value=1.0, name="COUNTS")


@contextmanager
def running(log: Path):
    """Run this IOC as a process of its own; gives the process and its port."""
    port = free_port()
    child = Child(
        "the stock IOC",
        [sys.executable, __file__, str(port), str(VALUES)],
        log=log,
        env={
            "EPICS_CA_SERVER_PORT": str(port),
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1:9",
        },
    )
    try:
        yield child, port
    finally:
        child.stop()


def main(port: int, values: int) -> None:
    database = dict(Stock(prefix="STOCK:").pvdb)
    for number in range(values):
        database[f"STOCK:V{number}"] = ChannelDouble(value=0.0, units="um", precision=3)

    async def ready(*_):
        print(f"READY port={port}", flush=True)

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    run(database, interfaces=["127.0.0.1"], startup_hook=ready)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
