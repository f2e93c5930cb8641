"""Who may write: the allow-list of hosts and the IOC's own switch."""

import caproto as ca
import pytest
from ioc_fakes import in_loop
from test_ioc_server import Client, served

from beamline.core.errors import ConfigurationError
from ioc.access import AccessControl
from ioc.fields import Double


@pytest.mark.parametrize(
    ("hosts", "peer", "own", "allowed"),
    [
        (("localhost",), "127.0.0.1", "127.0.0.1", True),
        (("localhost",), "10.1.2.3", "10.1.2.3", True),  # by its own address
        (("localhost",), "10.1.2.4", "10.1.2.3", False),
        (("10.1.2.4",), "10.1.2.4", "10.1.2.3", True),
        (("10.1.2.4",), "127.0.0.1", "127.0.0.1", False),
        (("10.1.0.0/16", "localhost"), "10.1.99.1", "10.9.2.3", True),
        (("10.1.0.0/16",), "10.2.0.1", "10.1.2.3", False),
        ((), "127.0.0.1", "127.0.0.1", False),
    ],
)
def test_hosts(hosts: tuple[str, ...], peer: str, own: str, allowed: bool):
    assert AccessControl(hosts).allows_host(peer, own) is allowed


@pytest.mark.parametrize("host", ["no-such-host.invalid", "10.1.2.3/99", "10.1.2.4/16", ""])
def test_an_unknown_host_is_one_sentence(host: str):
    with pytest.raises(ConfigurationError, match="expected an IPv4 address"):
        AccessControl((host,))


@in_loop
async def test_a_host_that_is_not_listed_reads_but_does_not_write(
    caplog: pytest.LogCaptureFixture,
):
    field = Double(value=3.0)
    async with served(a=field) as context:
        context.access = AccessControl(("127.0.0.2",))
        client = Client(context)
        # What a client says about its host counts for nothing.
        client.host = "127.0.0.2"
        (channel,) = await client.open("a")
        assert channel.access_rights == ca.AccessRights.READ
        client.send(channel.read())
        assert (await client.answer(ca.ReadNotifyResponse)).data[0] == 3.0
        for value in (5.0, 6.0):
            client.seen.clear()
            client.send(channel.write([value], notify=True))
            assert (await client.answer(ca.WriteNotifyResponse)).status.name == "ECA_NOWTACCESS"
        client.send(channel.write([7.0]))
        error = await client.answer(ca.ErrorResponse)
        assert error.status.name == "ECA_NOWTACCESS"
        assert b"a was not set to 7.0: the host 127.0.0.1 is not on" in error.error_message
        assert field.current == 3.0
        assert (context.denied, context.refused) == (3, 0)
        (record,) = [r for r in caplog.records if "denied" in r.message]
        assert "a was not set to 5.0" in record.message
        assert "127.0.0.1" in record.message


@in_loop
async def test_read_only_fields_deny_writes():
    async with served(a=Double(value=3.0, read_only=True)) as context:
        client = Client(context)
        (channel,) = await client.open("a")
        assert channel.access_rights == ca.AccessRights.READ
        client.send(channel.write([5.0], notify=True))
        assert (await client.answer(ca.WriteNotifyResponse)).status.name == "ECA_NOWTACCESS"


@in_loop
async def test_clients_are_told_when_the_ioc_goes_offline_and_comes_back():
    switch = Double(value=0.0)
    switch.always_writable = True
    async with served(
        a=Double(value=3.0), b=Double(value=0.0, read_only=True), s=switch
    ) as context:
        client = Client(context)
        channels = await client.open("a", "b", "s")
        write = ca.AccessRights.READ | ca.AccessRights.WRITE

        async def told(expected: list[ca.AccessRights]) -> None:
            await client.until(lambda: [c.access_rights for c in channels] == expected)

        await told([write, ca.AccessRights.READ, write])
        context.set_online(False)
        await told([ca.AccessRights.READ, ca.AccessRights.READ, write])
        client.send(channels[0].write([5.0], notify=True))
        assert (await client.answer(ca.WriteNotifyResponse)).status.name == "ECA_NOWTACCESS"
        context.set_online(True)
        await told([write, ca.AccessRights.READ, write])
        client.seen.clear()
        client.send(channels[0].write([5.0], notify=True))
        assert (await client.answer(ca.WriteNotifyResponse)).status.name == "ECA_NORMAL"
