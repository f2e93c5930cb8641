"""The Channel Access server in this process, and a client that speaks the bare protocol."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import caproto as ca
import pytest
from ioc_fakes import in_loop

from beamline.core.errors import ProcessError
from ioc.channel import Field, PutRefusedError
from ioc.fields import CharArray, Double, Enum, Long, Short, String
from ioc.server import Context
from ioc.wire import event


class Client:
    """One connection with its channels."""

    host = "here"

    def __init__(self, context: Context) -> None:
        self._address = ("127.0.0.1", context.port)
        self.circuit = ca.VirtualCircuit(our_role=ca.CLIENT, address=self._address, priority=0)
        self.seen: list[Any] = []

    async def open(self, *names: str) -> list[Any]:
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        self.send(ca.VersionRequest(priority=0, version=13))
        self.send(ca.HostNameRequest(self.host), ca.ClientNameRequest("me"))
        channels = [ca.ClientChannel(name, self.circuit, cid=i) for i, name in enumerate(names)]
        for channel in channels:
            self.send(channel.create())
        for channel in channels:
            await self.until(
                lambda channel=channel: channel.states[ca.CLIENT] is ca.CONNECTED  # type: ignore[misc]
            )
        return channels

    def send(self, *commands: Any) -> None:
        for part in self.circuit.send(*commands):
            self.writer.write(bytes(part))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            data = await asyncio.wait_for(self.reader.read(65536), 30)
            assert data, "the server closed the connection"
            commands, _ = self.circuit.recv(data)
            for command in commands:
                self.circuit.process_command(command)
                self.seen.append(command)

    async def answer(self, kind: type[Any]) -> Any:
        await self.until(lambda: any(isinstance(command, kind) for command in self.seen))
        return next(command for command in self.seen if isinstance(command, kind))

    def events(self) -> list[float]:
        return [c.data[0] for c in self.seen if isinstance(c, ca.EventAddResponse)]


@asynccontextmanager
async def served(**fields: Field) -> AsyncIterator[Context]:
    for name, field in fields.items():
        field.name = name
    context = Context(fields)
    ready = asyncio.Event()
    serving = asyncio.create_task(context.serve(beacon_address=None, ready=ready.set))
    await ready.wait()
    try:
        yield context
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@in_loop
async def test_the_monitor_of_a_put_comes_before_its_completion():
    async with served(a=Double(value=0.0)) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        client.send(channel.subscribe())
        await client.until(lambda: client.events() == [0.0])
        client.send(channel.write([5.0], notify=True))
        response = await client.answer(ca.WriteNotifyResponse)
        assert client.events() == [0.0, 5.0]
        assert response.status.code_with_severity == 1


@in_loop
async def test_a_completion_that_comes_later_and_a_get_meanwhile():
    done: list[asyncio.Future[None]] = []
    field = Double(value=0.0)

    def put(value: float) -> asyncio.Future[None]:
        field.post(value)
        done.append(asyncio.get_running_loop().create_future())
        return done[-1]

    field.put = put
    async with served(a=field) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        client.send(channel.write([5.0], notify=True), channel.read())
        got = await client.answer(ca.ReadNotifyResponse)
        assert got.data[0] == 5.0  # requests of a connection are carried out in order
        assert not any(isinstance(c, ca.WriteNotifyResponse) for c in client.seen)
        field.post(6.0)
        done[0].set_result(None)
        await client.answer(ca.WriteNotifyResponse)


@in_loop
async def test_a_refusal_is_a_status_or_a_sentence():
    def refuse(value: float) -> None:
        raise PutRefusedError(f"no {value:g} today.")

    async with served(a=Double(value=0.0, put=refuse)) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        client.send(channel.write([5.0], notify=True))
        response = await client.answer(ca.WriteNotifyResponse)
        assert response.status.name == "ECA_PUTFAIL"
        client.send(channel.write([7.0]))
        error = await client.answer(ca.ErrorResponse)
        assert b"no 7 today." in error.error_message


@in_loop
async def test_clients_that_go_leave_nothing_behind():
    field = Double(value=0.0)
    async with served(a=field) as context:
        for i in range(20):
            client = Client(context)
            (channel,) = await client.open("a")
            client.send(channel.subscribe())
            await client.until(lambda client=client: len(client.events()) == 1)  # type: ignore[misc]
            if i % 2:
                client.writer.transport.abort()
            else:
                client.writer.close()
        while context.circuits:
            await asyncio.sleep(0.02)
        assert not any(context.subscriptions.values())
        assert not field._subscribers
        assert len(context.server_tasks.tasks) == 0


@in_loop
async def test_a_cleared_channel_gets_no_more_monitors():
    field = Double(value=0.0)
    async with served(a=field, b=Double(value=0.0)) as context:
        client = Client(context)
        first, second = await client.open("a", "b")
        client.send(first.subscribe())
        await client.until(lambda: len(client.events()) == 1)
        client.send(first.clear())
        await client.answer(ca.ClearChannelResponse)
        assert not field._subscribers
        field.post(1.0)
        client.send(second.read())
        await client.answer(ca.ReadNotifyResponse)
        assert client.events() == [0.0]


@in_loop
async def test_a_slow_client_gets_the_newest_value_and_costs_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("ioc.circuit._BACKLOG", 100)
    a, b = Double(value=0.0), Double(value=0.0)
    async with served(a=a, b=b) as context:
        client = Client(context)
        channels = await client.open("a", "b")
        for channel in channels:
            client.send(channel.subscribe())
        await client.until(lambda: len(client.events()) == 2)
        b.post(-1.0)
        for i in range(1, 10001):  # without a pause, nothing can be sent
            a.post(float(i))
        (circuit,) = context.circuits
        assert len(circuit._monitors) <= 101
        await client.until(lambda: 10000.0 in client.events())
        assert -1.0 in client.events()


@in_loop
async def test_requests_may_be_cut_anywhere():
    async with served(a=Double(value=1.5), b=Short(value=7)) as context:
        client = Client(context)
        a, b = await client.open("a", "b")
        requests = b"".join(
            bytes(part)
            for request in (a.read(), b.read(), a.write([2.5], notify=True), a.read(), b.read())
            for part in client.circuit.send(request)
        )
        for size in (1, 7, 16, 17, 40):
            client.seen.clear()
            client.circuit._ioids.update(dict.fromkeys(range(10), a))
            for start in range(0, len(requests), size):
                client.writer.write(requests[start : start + size])
                await asyncio.sleep(0.001)
            await client.until(lambda: len(client.seen) == 5)
            kinds = [type(c).__name__.removesuffix("NotifyResponse") for c in client.seen]
            assert kinds == ["Read", "Read", "Write", "Read", "Read"]
            assert client.seen[3].data[0] == 2.5
            assert client.seen[4].data[0] == 7


@in_loop
async def test_every_number_is_also_given_as_text():
    async with served(
        a=Double(value=1.25, precision=1), b=Enum(value=0, enum_strings=("No", "Yes"))
    ) as it:
        client = Client(it)
        a, b = await client.open("a", "b")
        for data_type in (ca.ChannelType.STRING, ca.ChannelType.TIME_STRING, ca.ChannelType.LONG):
            client.send(a.read(data_type=data_type), b.read(data_type=data_type))
        await client.until(lambda: len([c for c in client.seen if hasattr(c, "ioid")]) >= 6)
        data = [bytes(c.data[0]) if c.data_type % 7 == 0 else c.data[0] for c in client.seen[-6:]]
        assert data == [b"1.2", b"No", b"1.2", b"No", 1, 0]


@in_loop
async def test_events_that_were_off_come_when_they_are_on_again():
    field = Double(value=0.0)
    async with served(a=field) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        client.send(channel.subscribe())
        await client.until(lambda: client.events() == [0.0])
        client.send(ca.EventsOffRequest(), channel.read())
        await client.answer(ca.ReadNotifyResponse)
        for value in (1.0, 2.0):
            field.post(value)
        await asyncio.sleep(0.05)
        client.send(ca.EventsOnRequest())
        await client.until(lambda: len(client.events()) > 1)
        assert client.events() == [0.0, 2.0]


@in_loop
async def test_a_message_without_end_is_not_waited_for():
    async with served(a=Double(value=0.0)) as context:
        client = Client(context)
        await client.open("a")
        client.writer.write(struct.pack(">HHHHIIII", 4, 0xFFFF, 6, 0, 1, 1, 2**31, 2**28))
        client.writer.write(b"\0" * 4096)
        assert await asyncio.wait_for(client.reader.read(), 30) == b""


@in_loop
async def test_filters():
    field = Double(value=0.0)
    async with served(a=field) as context:
        client = Client(context)
        (channel,) = await client.open('a.{"dbnd":{"abs":2.5}}')
        client.send(channel.subscribe())
        await client.until(lambda: client.events() == [0.0])
        for value in (1.0, 2.0, 3.0, 4.0, 6.0):
            field.post(value)
        client.send(channel.read())
        await client.answer(ca.ReadNotifyResponse)
        assert client.events() == [0.0, 3.0, 6.0]


@in_loop
async def test_a_filter_that_does_not_exist_is_a_name_that_does_not_exist(
    caplog: pytest.LogCaptureFixture,
):
    async with served(a=Double(value=0.0)) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        for cid, name in enumerate(('a.{"dbnd":{"nonsense":1}}', 'a.{"while":"x"}', "a.{"), 7):
            # The other side is caproto as well, and would refuse to send it.
            client.writer.write(bytes(ca.CreateChanRequest(name, cid, 13)))
            answer = await asyncio.wait_for(client.reader.readexactly(16), 30)
            assert answer == bytes(ca.CreateChFailResponse(cid))
        client.send(channel.read())
        await client.answer(ca.ReadNotifyResponse)
    assert not caplog.records


@pytest.mark.parametrize(
    "field",
    [
        Double(value=-1.25, units="um", precision=2),
        Long(value=-70000),
        Short(value=-5),
        Enum(value=1, enum_strings=("No", "Yes")),
        String(value="text"),
        CharArray(value="/tmp/data"),
    ],
    ids=lambda field: type(field).__name__,
)
def test_messages_are_those_that_caproto_would_make(field: Field):
    field.alarm.set(ca.AlarmStatus.HIGH, ca.AlarmSeverity.MINOR_ALARM)
    field.stamp.time = 1_790_000_000.123456
    circuit = ca.VirtualCircuit(our_role=ca.SERVER, address=("127.0.0.1", 1), priority=0)
    channel = ca.ServerChannel("a", circuit, 5)
    for data_type in ca.ChannelType:
        if data_type >= ca.ChannelType.PUT_ACKT:
            continue
        try:
            metadata, values = field._encode(data_type)
        except ValueError:  # text that is no number
            continue
        payload, count = field.payload(data_type)
        theirs = channel.subscribe(
            data=values, metadata=metadata, data_type=data_type, data_count=count,
            subscriptionid=9, status=1,
        )  # fmt: skip
        assert event(data_type, count, 9, payload) == bytes(theirs), data_type.name


@in_loop
async def test_names_are_found_and_garbage_is_not_answered():
    async with served(a=Double(value=0.0)) as context:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            await loop.sock_connect(udp, ("127.0.0.1", context.port))
            searcher = ca.Broadcaster(our_role=ca.CLIENT)
            for junk in (b"", b"\0", b"\xff" * 1000, b"GET / HTTP/1.0\r\n\r\n"):
                udp.send(junk)
            udp.send(
                searcher.send(
                    ca.VersionRequest(0, 13),
                    ca.SearchRequest("nobody", 1, 13),
                    ca.SearchRequest("a", 2, 13),
                    ca.SearchRequest("a.NOFIELD", 3, 13),
                    ca.SearchRequest('a.{"dbnd":{"nonsense":1}}', 4, 13),
                )
            )
            data = await asyncio.wait_for(loop.sock_recv(udp, 4096), 30)
            commands = searcher.recv(data, ("127.0.0.1", context.port))
            found = [c for c in commands if isinstance(c, ca.SearchResponse)]
            assert [(c.cid, c.port) for c in found] == [(2, context.port)]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_refused(kind: int):
    async def body() -> None:
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            with pytest.raises(ProcessError, match=rf"127\.0\.0\.1:{port}"):
                Context({}, port=port)

    asyncio.run(body())


@in_loop
async def test_a_put_that_has_not_ended_is_answered_when_the_ioc_stops():
    field = Double(value=0.0)
    field.put = lambda _: asyncio.get_running_loop().create_future()
    async with served(a=field) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        client.send(channel.subscribe())
        await client.until(lambda: client.events() == [0.0])
        client.send(channel.write([5.0], notify=True), channel.read())
        await client.answer(ca.ReadNotifyResponse)
        field.post(1.0)
    response = await client.answer(ca.WriteNotifyResponse)
    assert response.status.name == "ECA_PUTFAIL"
    assert client.events() == [0.0, 1.0]
    assert await client.reader.read() == b""
