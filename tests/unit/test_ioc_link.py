"""The link to the device server, against a server made of a few lines."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from ioc_fakes import in_loop

from beamline.core.errors import ConnectionLostError, DeviceServerError
from ioc.link import DeviceLink, parse_update


class Listener:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.events: list[str] = []
        self.changed = asyncio.Event()

    def link_up(self) -> None:
        self._note("up")

    def link_down(self, reason: str) -> None:
        self._note("down")

    def update(self, values: Mapping[str, str], stamp: float) -> None:
        self.values.update(values)
        self._note(f"update {','.join(values)}")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, event: str, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while self.events.count(event) < times:
                self.changed.clear()
                await self.changed.wait()


class Server:
    """Speaks the protocol as far as the link needs it; answers can be held back."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.silent = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while line := (await reader.readline()).decode().strip():
            self.lines.append(line)
            if self.silent:
                continue
            if line.startswith("SUBSCRIBE"):
                writer.write(b"OK:2;T:A,T:B\nUPD:5.5:0=1,1=2\n")
            elif line == "PING":
                writer.write(b"OK:PONG\n")
            elif line.startswith("ECHO"):
                # An update between two answers.
                writer.write(f"UPD:6:0={line[5:]}\nOK:{line[5:]}\n".encode())
            else:
                writer.write(b"ERR:UNKNOWN_CMD\n")
        writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Server, DeviceLink, Listener]]:
    server, listener = Server(), Listener()
    tcp = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    link = DeviceLink("127.0.0.1", tcp.sockets[0].getsockname()[1], "T:", listener)
    running = asyncio.create_task(link.run())
    try:
        await listener.until("up")
        yield server, link, listener
    finally:
        running.cancel()
        for writer in server.writers:
            writer.close()
        tcp.close()
        await asyncio.gather(running, return_exceptions=True)


def test_updates_are_understood():
    assert parse_update("UPD:12.25:1=3.5,0=-1e-3", ["a", "b"]) == (
        12.25,
        {"b": "3.5", "a": "-1e-3"},
    )


@pytest.mark.parametrize(
    "line", ["UPD:", "UPD:x:0=1", "UPD:1:7=1", "UPD:1:0", "UPD:1:a=1", "OK:PONG", ""]
)
def test_a_broken_update_is_refused(line: str):
    with pytest.raises(DeviceServerError, match="can't be read"):
        parse_update(line, ["a", "b"])


@in_loop
async def test_it_subscribes_and_delivers_before_it_is_up():
    async with linked() as (server, link, listener):
        assert server.lines[0] == "SUBSCRIBE:T:*:50"
        assert listener.events[:2] == ["update T:A,T:B", "up"]
        assert listener.values == {"T:A": "1", "T:B": "2"}
        assert link.connected


@in_loop
async def test_requests_are_pipelined_and_answered_in_order():
    async with linked() as (_, link, listener):
        answers = await asyncio.gather(*(link.request(f"ECHO:{i}") for i in range(100)))
        assert answers == [str(i) for i in range(100)]
        assert listener.values["T:A"] == "99"
        with pytest.raises(DeviceServerError, match="UNKNOWN_CMD"):
            await link.request("NONSENSE")


@in_loop
async def test_an_answer_is_handled_between_the_updates_around_it():
    async with linked() as (_, link, listener):
        seen: list[str] = []
        link.send("ECHO:7", lambda answer: seen.append(f"{answer} {listener.values['T:A']}"))
        link.send("ECHO:8", lambda answer: seen.append(f"{answer} {listener.values['T:A']}"))
        await link.request("ECHO:9")
        assert seen == ["7 7", "8 8"]


@in_loop
async def test_a_lost_connection_fails_what_waits_and_comes_back():
    async with linked() as (server, link, listener):
        server.silent = True
        waiting = link.request("ECHO:1")
        order: list[str] = []
        waiting.add_done_callback(lambda _: order.append("failed"))
        server.writers[0].transport.abort()
        with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:\d+"):
            await waiting
        assert "down" in listener.events
        assert not link.connected
        with pytest.raises(ConnectionLostError, match="no connection"):
            await link.request("ECHO:2")
        server.silent = False
        await listener.until("up", 2)
        assert await link.request("ECHO:3") == "3"


@in_loop
async def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ioc.link._PING_PERIOD", 0.05)
    monkeypatch.setattr("ioc.link._PING_TIMEOUT", 0.2)
    async with linked() as (server, link, listener):
        server.silent = True
        with pytest.raises(ConnectionLostError):
            await link.request("ECHO:1")
        assert "down" in listener.events


@in_loop
async def test_garbage_from_the_server_ends_the_session_and_not_the_ioc():
    async with linked() as (server, _, listener):
        server.writers[0].write(b"UPD:zzz\n")
        await listener.until("up", 2)
        server.writers[1].write(b"OK:nobody asked\n")
        await listener.until("up", 3)


@in_loop
async def test_no_server_at_first():
    listener = Listener()
    link = DeviceLink("127.0.0.1", 1, "T:", listener)
    running = asyncio.create_task(link.run())
    await asyncio.wait_for(link.first_attempt(), 30)
    assert not link.connected
    running.cancel()


@in_loop
async def test_a_server_with_another_prefix_is_told_once(caplog: pytest.LogCaptureFixture):
    attempts = 0
    several = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 2:
            several.set()
        await reader.readline()
        writer.write(b"ERR:UNKNOWN_PV\n")
        await writer.drain()

    tcp = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    link = DeviceLink("127.0.0.1", port, "XY:", Listener())
    running = asyncio.create_task(link.run())
    await several.wait()
    running.cancel()
    tcp.close()
    told = [record.message for record in caplog.records if record.name == "ioc.link"]
    assert told == [
        f"no connection to the device server at 127.0.0.1:{port} for PVs XY:*: UNKNOWN_PV"
    ]
