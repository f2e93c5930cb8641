"""The scaler record: a count is complete when its counts are in, and never before."""

import asyncio
import time

import pytest
from caproto import AlarmSeverity
from ioc_fakes import ScriptedLink, Watcher, in_loop

from ioc.channel import PutRefusedError
from ioc.scaler import Scaler

COUNTS = {
    "DET:I0": "100", "DET:IT": "50", "DET:IF": "5", "DET:IR": "40", "DET:XRD": "7",
    "DET:ELAPSED": "0.5", "DET:COUNTING": "0",
}  # fmt: skip


def scaler() -> tuple[Scaler, ScriptedLink]:
    link = ScriptedLink()
    record = Scaler("T:", link)
    record.mirror({"DET:EXPOSURE": "0.5", "DET:COUNTING": "0"}, 1e9)
    return record, link


@in_loop
async def test_counts_come_before_the_end_of_the_count():
    record, link = scaler()
    client = Watcher({name: record.fields[name] for name in ("S1", "S2", "S6", "T", "CNT")})
    done = record.fields["CNT"].put(1)
    assert link.sent == ["COUNT:0.5"]
    link.ok("COUNTING")
    record.mirror({"DET:COUNTING": "1"}, 1e9)
    assert not done.done()
    record.mirror(COUNTS, 1e9)
    assert done.done()
    assert client.seen == [
        ("CNT", 1), ("T", 0.5), ("S1", 5e6), ("S2", 100.0), ("S6", 7.0), ("CNT", 0),
    ]  # fmt: skip


@in_loop
async def test_the_end_of_somebody_elses_count_does_not_end_ours():
    record, link = scaler()
    done = record.fields["CNT"].put(1)
    record.mirror(COUNTS, 1e9)
    assert not done.done()
    link.ok("COUNTING")
    assert not done.done()
    record.mirror(COUNTS, 1e9)
    assert done.done()


@in_loop
async def test_a_second_put_joins_the_running_count():
    record, link = scaler()
    first, second = record.fields["CNT"].put(1), record.fields["CNT"].put(1)
    assert link.sent == ["COUNT:0.5"]
    link.ok("COUNTING")
    record.mirror(COUNTS, 1e9)
    assert first.done()
    assert second.done()


@in_loop
async def test_a_put_joins_the_count_of_another_client_of_the_server():
    record, link = scaler()
    record.mirror({"DET:COUNTING": "1"}, 1e9)
    done = record.fields["CNT"].put(1)
    assert link.sent == []
    record.mirror(COUNTS, 1e9)
    assert done.done()
    assert record.fields["CNT"].current == 0


@in_loop
async def test_a_refused_count_fails():
    record, link = scaler()
    done = record.fields["CNT"].put(1)
    link.refuse("BUSY")
    with pytest.raises(PutRefusedError, match="BUSY"):
        await done
    assert record.fields["CNT"].current == 0


@in_loop
async def test_a_lost_link_ends_the_count_in_alarm():
    record, link = scaler()
    done = record.fields["CNT"].put(1)
    link.ok("COUNTING")
    link.connected = False
    record.lose_link()
    with pytest.raises(PutRefusedError, match="lost its connection"):
        await done
    assert record.alarm.severity == AlarmSeverity.INVALID_ALARM
    assert record.fields["CNT"].current == 0
    with pytest.raises(PutRefusedError, match="no connection"):
        record.fields["CNT"].put(1)
    # The server counts on; nobody would take the result.
    link.connected = True
    record.link_up()
    assert link.sent[1:] == ["COUNTSTOP", "TRUTH"]


@in_loop
async def test_the_preset_is_the_servers_exposure():
    record, link = scaler()
    assert record.fields["PR1"].current == 5e6
    done = record.fields["TP"].put(2.0)
    assert link.sent == ["PUT:T:DET:EXPOSURE:2"]
    link.ok("PUT")
    assert done.done()
    assert record.fields["PR1"].current == 2e7
    with pytest.raises(PutRefusedError, match=r"0\.0001 to 1000"):
        record.fields["TP"].put(0.0)
    refused = record.fields["TP"].put(3.0)
    link.refuse("INVALID_VALUE")
    with pytest.raises(PutRefusedError):
        await refused
    assert record.fields["TP"].current == 2.0


@pytest.mark.parametrize(("field", "value"), [("CONT", 1), ("G2", 1), ("PR2", 10.0)])
def test_what_it_cannot_do_it_refuses(field: str, value: float):
    record, _ = scaler()
    with pytest.raises(PutRefusedError):
        record.fields[field].put(value)


@in_loop
async def test_a_count_can_be_ended_early():
    record, link = scaler()
    record.fields["CNT"].put(1)
    link.ok("COUNTING")
    record.fields["CNT"].put(0)
    assert link.sent[-1] == "COUNTSTOP"


@in_loop
async def test_a_count_clears_the_last_one_and_shows_its_time():
    record, link = scaler()
    record.link_up()
    link.ok('{"time_scale": 10.0}')
    record.mirror(COUNTS, 1e9)
    record.fields["TP"].post(100.0)
    record.fields["RATE"].post(50.0)
    names = ("T", "S1", "S2", "S6")
    began = time.monotonic()
    record.fields["CNT"].put(1)
    link.ok("COUNTING")
    assert record.fields["S2"].current == 100.0
    record.mirror({"DET:COUNTING": "1"}, 1e9)
    assert [record.fields[name].current for name in names] == [0.0] * 4
    client = Watcher({name: record.fields[name] for name in names})
    while len(client.of("T")) < 3:
        await asyncio.sleep(0.01)
    elapsed = time.monotonic() - began
    times, ticks = client.of("T"), client.of("S1")
    assert len(times) <= 50 * elapsed + 1
    assert times == sorted(times)
    assert 0 < times[-1] <= 10 * elapsed  # ten times as fast as ours
    assert ticks == [round(seconds * 1e7) for seconds in times]
    assert client.of("S2") == client.of("S6") == []  # nothing that could be taken for counts
    record.mirror(COUNTS, 1e9)
    assert [record.fields[name].current for name in names] == [0.5, 5e6, 100.0, 7.0]
    told = len(client.seen)
    await asyncio.sleep(0.05)
    assert len(client.seen) == told
