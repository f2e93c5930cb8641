"""The repeater: clients register, get beacons, and are forgotten when they are gone."""

import asyncio
import socket
from pathlib import Path

import caproto as ca
from ioc_fakes import in_loop

from beamline.core.processes import free_port
from ioc.repeater import start_repeater


def client(port: int) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind(("127.0.0.1", 0))
    request = ca.RepeaterRegisterRequest("127.0.0.1")
    udp.sendto(bytes(request), ("127.0.0.1", port))
    return udp


async def receive(udp: socket.socket) -> list[object]:
    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(udp, 4096), 30)
    return list(ca.Broadcaster(our_role=ca.CLIENT).recv(data, ("127.0.0.1", 1)))


@in_loop
async def test_beacons_reach_registered_clients():
    port = free_port()
    repeater = await start_repeater(port)
    assert repeater is not None
    with client(port) as first, client(port) as second:
        for udp in (first, second):
            assert isinstance((await receive(udp))[0], ca.RepeaterConfirmResponse)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ioc:
            ioc.sendto(b"garbage", ("127.0.0.1", port))
            ioc.sendto(bytes(ca.Beacon(13, 5064, 0, "127.0.0.1")), ("127.0.0.1", port))
        for udp in (first, second):
            (beacon,) = await receive(udp)
            assert isinstance(beacon, ca.Beacon)
            assert beacon.server_port == 5064
    # Both are gone; a third one is served all the same.
    with client(port) as third:
        await receive(third)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ioc:
            for i in range(3):
                ioc.sendto(bytes(ca.Beacon(13, 5064, i, "127.0.0.1")), ("127.0.0.1", port))
        for _ in range(3):
            await receive(third)
    repeater.close()


@in_loop
async def test_one_that_runs_already_is_left_alone():
    port = free_port()
    first = await start_repeater(port)
    assert first is not None
    assert await start_repeater(port) is None
    first.close()


@in_loop
async def test_clients_of_a_predecessor_are_remembered(tmp_path: Path):
    port, memory = free_port(), tmp_path / "clients"
    repeater = await start_repeater(port, memory)
    assert repeater is not None
    with client(port) as first, client(port) as second:
        await receive(first)
        await receive(second)
        gone = second.getsockname()[1]
        second.close()
        repeater.abort()
        await asyncio.sleep(0)
        memory.write_bytes(memory.read_bytes() + b"70000\n-1\nx\n\xff\n")
        again = await start_repeater(port, memory)
        assert again is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ioc:
            for i in range(2):
                ioc.sendto(bytes(ca.Beacon(13, 5064, i, "127.0.0.1")), ("127.0.0.1", port))
        for _ in range(2):
            (beacon,) = await receive(first)
            assert isinstance(beacon, ca.Beacon)
        assert memory.read_text() == f"{first.getsockname()[1]}\n"
        assert str(gone) not in memory.read_text()
        again.close()
