"""Real EPICS clients against the IOC and the device server."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ioc_stack import Stack, running

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("ioc"), time_scale=4.0) as stack:
        yield stack


def test_stock_ophyd_motor(stack: Stack):
    found = stack.client(
        """
        from ophyd import EpicsMotor
        x = EpicsMotor(P + "SAMPLE:X", name="x")
        x.wait_for_connection(timeout=60)
        dmov, readbacks = [], []
        x.motor_done_move.subscribe(lambda value, **_: dmov.append(value), run=False)
        x.user_readback.subscribe(lambda value, timestamp, **_: readbacks.append(timestamp))
        moves = []
        for target in (3000.0, 3000.0, -250.5, 0.0):
            dmov.clear()
            status = x.set(target)
            status.wait(60)
            at = x.user_readback.get(use_monitor=False)
            until(lambda: len(dmov) > 1)
            time.sleep(0.05)
            moves.append([status.success, at == target, dmov == [0, 1]])
        tell(moves=moves, limits=x.limits, egu=x.egu, precision=x.precision)
        readbacks.clear()
        x.set(9000).wait(60)
        gaps = sorted(b - a for a, b in zip(readbacks, readbacks[1:]))
        tell(gap=gaps[len(gaps) // 2], count=len(readbacks))
        put("SAMPLE:X", 0.0)
        """
    )
    assert found["moves"] == [[True, True, True]] * 4
    assert (found["limits"], found["egu"], found["precision"]) == ([-10000, 10000], "um", 2)
    assert found["count"] > 5
    assert found["gap"] < 0.1  # readback at 10 Hz or more
    # No complaint about a repeater, a lost connection or a refused put.
    assert "CA." not in found["stderr"]
    assert "epeater" not in found["stderr"]


def test_put_completion_of_a_motor(stack: Stack):
    found = stack.client(
        """
        x, dmov = pv("SAMPLE:Y"), pv("SAMPLE:Y.DMOV")
        seen = []
        dmov.add_callback(lambda value, **_: seen.append(value))
        ended = []
        def put_and_note(value):
            x.put(value, use_complete=True,
                  callback=lambda **_: ended.append(len(ended)))
        # Retargeted in mid-move: both puts end when the motor stands at the second target.
        put("SAMPLE:Y.VELO", 500.0)
        put_and_note(9000.0)
        until(lambda: get("SAMPLE:Y.RBV") > 0)
        put_and_note(-1000.0)
        early = 0
        while len(ended) < 2:
            before = len(ended)
            if not get("SAMPLE:Y.DMOV"):
                early = max(early, before)
            time.sleep(0.005)
        tell(early=early, at=get("SAMPLE:Y.RBV"), blinks=seen[-2:])
        # Beyond the limits: nothing moves.
        seen.clear()
        put("SAMPLE:Y", 10001.0)
        time.sleep(0.05)
        tell(beyond=[get("SAMPLE:Y"), get("SAMPLE:Y.RBV"), get("SAMPLE:Y.LVIO")], blink=list(seen))
        # Stopped on the way.
        x.put(9000.0, wait=False)
        until(lambda: get("SAMPLE:Y.RBV") > -1000.0)
        put("SAMPLE:Y.STOP", 1)
        tell(stopped=[get("SAMPLE:Y"), get("SAMPLE:Y.RBV"), get("SAMPLE:Y.DMOV")])
        put("SAMPLE:Y.VELO", 2000.0)
        put("SAMPLE:Y", 0.0)
        """
    )
    assert found["early"] == 0
    assert found["at"] == -1000.0
    assert found["blinks"] == [0, 1]
    assert found["beyond"] == [-1000.0, -1000.0, 1]
    assert found["blink"] == [0, 1]
    value, readback, done = found["stopped"]
    assert value == readback
    assert -1000.0 < value < 9000.0
    assert done == 1
    assert re.search(r"BL02:SAMPLE:Y: 10001 um is beyond the limits -10000 to 10000", stack.log())


def test_user_coordinates(stack: Stack):
    found = stack.client(
        """
        from ophyd import EpicsMotor
        z = EpicsMotor(P + "SAMPLE:Z", name="z")
        z.wait_for_connection(timeout=60)
        z.set(500.0).wait(60)
        z.set_current_position(100.0)
        until(lambda: (z.position, z.limits) == (100.0, (-5400.0, 4600.0)))
        tell(renamed=[z.position, z.limits, get("SAMPLE:Z.DVAL"), get("SAMPLE:Z.OFF")])
        z.set(150.0).wait(60)
        tell(moved=[get("SAMPLE:Z.RBV"), get("SAMPLE:Z.DRBV")])
        put("SAMPLE:Z.DIR", "Neg")
        put("SAMPLE:Z.OFF", 0.0)
        until(lambda: (z.position, z.limits) == (-550.0, (-5000.0, 5000.0)))
        tell(turned=[z.position, z.limits])
        put("SAMPLE:Z.TWV", 7.0)
        put("SAMPLE:Z.TWF", 1)
        tell(tweaked=[get("SAMPLE:Z.RBV"), get("SAMPLE:Z.DRBV"), get("SAMPLE:Z.TWF")])
        put("SAMPLE:Z.DIR", "Pos")
        put("SAMPLE:Z.OFF", 0.0)
        put("SAMPLE:Z", 0.0)
        """
    )
    assert found["renamed"] == [100.0, [-5400.0, 4600.0], 500.0, -400.0]
    assert found["moved"] == [150.0, 550.0]
    assert found["turned"] == [-550.0, [-5000.0, 5000.0]]
    assert found["tweaked"] == [-543.0, 543.0, 0]


def test_stock_ophyd_scaler(stack: Stack):
    found = stack.client(
        """
        from ophyd import EpicsScaler
        scaler = EpicsScaler(P + "SCALER1", name="scaler")
        scaler.wait_for_connection(timeout=60)
        put("SHUTTER:CMD", "Open")
        tell(shutter=get("SHUTTER:STATUS", as_string=True))
        scaler.stage()
        scaler.preset_time.put(0.2, wait=True)
        start = time.time()
        scaler.trigger().wait(60)
        counts = [getattr(scaler.channels, f"chan{i}").get(use_monitor=False) for i in range(1, 7)]
        scaler.unstage()
        tell(counts=counts, time=scaler.time.get(use_monitor=False), took=time.time() - start,
             exposure=get("DET:EXPOSURE"), i0=get("DET:I0"),
             value=[get("SCALER1"), get("SCALER1.VAL"), pv("SCALER1").type])
        put("SHUTTER:CMD", "Close")
        scaler.trigger().wait(60)
        tell(dark=scaler.channels.chan2.get(use_monitor=False))
        """
    )
    assert found["shutter"] == "Open"
    assert found["time"] == 0.2
    assert found["took"] >= 0.2 / 4
    assert found["value"][:2] == [0.2, 0.2]
    assert found["value"][2].endswith("double")
    assert found["exposure"] == 0.2
    ticks, i0, transmitted, *_ = found["counts"]
    assert ticks == 2e6
    assert i0 == found["i0"]
    assert 0 < transmitted <= 2 * i0
    assert found["dark"] < 0.01 * i0


def test_machine_values_are_read_only_and_refusals_are_told(stack: Stack):
    found = stack.client(
        """
        ring, factor = pv("RING:CURRENT"), pv("ATTEN:FACTOR")
        tell(access=ring.write_access, ring=ring.get(), severity=ring.severity)
        factor.put(0.25, wait=True)
        factor.put(1.5, wait=False)
        time.sleep(0.2)
        tell(factor=factor.get(use_monitor=False), units=get("RING:CURRENT.EGU"))
        factor.put(1.0, wait=True)
        """
    )
    assert found["access"] is False
    assert 0 < found["ring"] <= 400
    assert found["severity"] == 0
    assert found["factor"] == 0.25
    assert found["units"] == "mA"
    assert "BL02:ATTEN:FACTOR can't take 1.5: expected 0 to 1." in stack.log()


def test_aioca(stack: Stack):
    code = """
        import asyncio, aioca
        async def main():
            moved = []
            monitor = aioca.camonitor(P + "DET:TTH.RBV", lambda v: moved.append(float(v)),
                                      all_updates=True)
            while not moved:
                await asyncio.sleep(0.01)
            await aioca.caput(P + "DET:TTH", 20.0, wait=True, timeout=60)
            at = float(await aioca.caget(P + "DET:TTH.RBV", timeout=30))
            latest = moved[-1]
            monitor.close()
            tweaks = []
            monitor = aioca.camonitor(P + "DET:TTH.TWV", lambda v: tweaks.append(float(v)),
                                      all_updates=True)
            while not tweaks:
                await asyncio.sleep(0.01)
            stale = 0
            for i in range(1, 51):
                await aioca.caput(P + "DET:TTH.TWV", float(i), wait=True, timeout=30)
                stale += tweaks[-1] != i
            monitor.close()
            value = await aioca.caget(P + "SHUTTER:CMD", format=aioca.FORMAT_CTRL, timeout=30)
            text = await aioca.caget(P + "DET:TTH.DESC$", datatype=aioca.DBR_CHAR_STR, timeout=30)
            try:
                await aioca.caput(P + "ATTEN:FACTOR", -1.0, wait=True, timeout=30)
                refused = ""
            except aioca.CANothing as error:
                refused = str(error)
            await aioca.caput(P + "DET:TTH", 0.0, wait=True, timeout=60)
            tell(at=at, latest=latest, stale=stale, enums=list(value.enums), text=text,
                 refused=refused)
        asyncio.run(main())
        """
    found = stack.client(code)
    assert found["at"] == 20.0
    # The monitors that a put causes arrive before its completion.
    assert found["latest"] == 20.0
    assert found["stale"] == 0
    assert found["enums"] == ["Close", "Open"]
    assert found["text"] == "2-theta arm of the point detector"
    assert "BL02:ATTEN:FACTOR" in found["refused"]


def test_caproto_client(stack: Stack):
    code = """
        from caproto.threading.client import Context
        context = Context()
        theta, done = context.get_pvs("BL02:SAMPLE:THETA", "BL02:SAMPLE:THETA.DMOV")
        theta.wait_for_connection(timeout=30)
        done.wait_for_connection(timeout=30)
        seen = []
        subscription = done.subscribe()
        note = lambda sub, response: seen.append(int(response.data[0]))
        subscription.add_callback(note)
        theta.write([5.0], wait=True, notify=True, timeout=30)
        import time
        end = time.monotonic() + 30
        while seen[-2:] != [0, 1] and time.monotonic() < end:
            time.sleep(0.02)
        print(seen, theta.read(timeout=30).data[0])
        theta.write([0.0], wait=True, notify=True, timeout=30)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **stack.environment},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split("\n")[0].endswith("0, 1] 5.0")


def test_hostile_bytes_and_dead_clients_leave_others_alone(stack: Stack):
    address = ("127.0.0.1", stack.port)
    for garbage in (b"\0" * 64, b"\xff" * 5000, b"GET / HTTP/1.1\r\n\r\n", b"\x17\x76" * 64,
                    *(os.urandom(4096) for _ in range(20))):  # fmt: skip
        with socket.create_connection(address) as tcp:
            tcp.sendall(garbage)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(garbage[:1400], address)
    idle = [socket.create_connection(address) for _ in range(50)]
    found = stack.client(
        """
        put("SAMPLE:X.TWV", 3.0)
        tell(value=get("SAMPLE:X.TWV"))
        """
    )
    assert found["value"] == 3.0
    for connection in idle:
        connection.close()
    assert stack.ioc.running


def test_a_client_that_stops_reading_delays_nobody(stack: Stack):
    import caproto as ca

    # Subscribes to readbacks and never reads again.
    circuit = ca.VirtualCircuit(our_role=ca.CLIENT, address=("127.0.0.1", stack.port), priority=0)
    with socket.create_connection(circuit.address) as tcp:

        def send(*commands: object) -> None:
            for part in circuit.send(*commands):
                tcp.sendall(part)

        def receive() -> list[object]:
            commands, _ = circuit.recv(tcp.recv(65536))
            for command in commands:
                circuit.process_command(command)
            return list(commands)

        send(ca.VersionRequest(priority=0, version=13))
        send(ca.HostNameRequest("test"), ca.ClientNameRequest("test"))
        channels = []
        for i in range(20):
            channel = ca.ClientChannel("BL02:SAMPLE:Z.RBV", circuit, cid=i)
            send(channel.create())
            channels.append(channel)
        deadline = time.monotonic() + 60
        while not all(channel.states[ca.CLIENT] is ca.CONNECTED for channel in channels):
            assert time.monotonic() < deadline
            receive()
        for channel in channels:
            send(channel.subscribe(data_type=ca.ChannelType.CTRL_DOUBLE))
        found = stack.client(
            """
            ended = [put("SAMPLE:Z", target) for target in (2000.0, 0.0, 2000.0, 0.0)]
            tell(at=get("SAMPLE:Z.RBV"), ended=ended)
            """
        )
    assert found["at"] == 0.0
    assert found["ended"] == [1] * 4


def test_put_completion_is_prompt(stack: Stack):
    # Not a timed test: without TCP_NODELAY each of these waits 40 ms for a delayed ACK, and not
    # one comes earlier however idle the machine is.
    found = stack.client(
        """
        motor, dmov = pv("SAMPLE:X"), pv("SAMPLE:X.DMOV")
        motor.put(0.0, wait=True)
        times = []
        for _ in range(60):
            start = time.perf_counter()
            motor.put(0.0, wait=True)
            times.append(time.perf_counter() - start)
        tell(early=sorted(times)[9])
        """
    )
    assert found["early"] < 0.025


def test_nothing_listens_beyond_loopback(stack: Stack):
    def sockets(table: str) -> list[str]:
        process = Path(f"/proc/{stack.ioc.pid}")
        lines = (process / "net" / table).read_text().splitlines()[1:]
        inodes = set()
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # that of a client that goes
                inodes.add(str(descriptor.readlink()))
        return [line.split()[1] for line in lines if f"socket:[{line.split()[9]}]" in inodes]

    addresses = sockets("tcp") + sockets("udp")
    assert len(addresses) >= 3
    assert {address.split(":")[0] for address in addresses} == {"0100007F"}


def test_the_ioc_met_no_error_of_its_own(stack: Stack):
    # Last on purpose: whatever the tests above did.
    log = stack.log()
    assert "Traceback" not in log
    assert "never retrieved" not in log
