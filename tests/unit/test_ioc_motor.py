"""The acting motor record: what clients see for every put, whatever the server does when."""

import asyncio
from typing import Any

import pytest
from caproto import AlarmSeverity, AlarmStatus, ChannelType
from ioc_fakes import ScriptedLink, Watcher, in_loop

from beamline.core.pvs import spec
from ioc.channel import PutRefusedError
from ioc.motor import Motor


class Rig:
    """A motor at rest at dial 0, its scripted server and a monitoring client."""

    def __init__(self) -> None:
        self.link = ScriptedLink()
        self.motor = Motor("T:", spec("SAMPLE:X"), self.link)
        self.news(**{"": 0, "RBV": 0, "DMOV": 1, "MSTA": 2, "HLS": 0, "LLS": 0})
        self.client = Watcher(
            {name: self.motor.fields[name] for name in ("DMOV", "RBV", "VAL", "MOVN", "LVIO")}
        )

    def news(self, **values: float) -> None:
        texts = {key: f"{value:.17g}" for key, value in values.items()}
        self.motor.mirror(texts, 1e9)

    def put(self, field: str, value: Any) -> Any:
        return self.motor.fields[field].put(value)

    def get(self, field: str) -> Any:
        return self.motor.fields[field].current

    def finish_at(self, dial: float) -> None:
        self.news(**{"": dial, "RBV": dial, "DMOV": 1})


@in_loop
async def test_a_move_blinks_dmov_once_and_completes_at_its_end():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    assert rig.link.sent == ["MOVE:T:SAMPLE:X:5"]
    assert rig.get("DMOV") == 0
    rig.link.ok()
    rig.news(DMOV=0, RBV=0.1)
    rig.news(RBV=4.0)
    assert not done.done()
    rig.finish_at(5.0)
    assert done.done()
    assert rig.client.of("DMOV") == [0, 1]
    # Readback before DMOV: whoever is told "done" has been told where.
    assert rig.client.seen.index(("RBV", 5.0)) < rig.client.seen.index(("DMOV", 1))


@in_loop
async def test_the_same_position_blinks_too():
    rig = Rig()
    done = rig.put("VAL", 0.0)
    rig.link.ok()
    rig.news(DMOV=0)
    rig.news(DMOV=1)
    assert done.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_the_end_of_an_older_move_does_not_end_a_newer_one():
    rig = Rig()
    first = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0)
    second = rig.put("VAL", -5.0)
    # This report crossed the second move on its way.
    rig.finish_at(5.0)
    assert not first.done()
    assert not second.done()
    assert rig.get("DMOV") == 0
    rig.link.ok()
    assert not second.done()
    rig.news(DMOV=0)
    rig.finish_at(-5.0)
    assert first.done()
    assert second.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_two_moves_sent_before_any_answer():
    rig = Rig()
    first, second = rig.put("VAL", 1.0), rig.put("VAL", 2.0)
    rig.link.ok()
    rig.finish_at(1.0)
    rig.link.ok()
    assert not first.done()
    rig.finish_at(2.0)
    assert first.done()
    assert second.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_beyond_the_limits_nothing_moves():
    rig = Rig()
    assert rig.put("VAL", 10000.5) is None
    assert rig.link.sent == []
    assert rig.client.of("DMOV") == [0, 1]
    assert rig.client.of("VAL") == [0.0]  # the old value again, for whoever shows the new one
    assert rig.get("LVIO") == 1
    done = rig.put("VAL", 1.0)
    assert rig.get("LVIO") == 0
    rig.link.ok()
    rig.finish_at(1.0)
    assert done.done()


@in_loop
async def test_a_put_beyond_the_limits_leaves_a_running_move_alone():
    rig = Rig()
    first = rig.put("VAL", 5.0)
    rig.link.ok()
    second = rig.put("VAL", 1e6)
    assert not second.done()
    rig.finish_at(5.0)
    assert first.done()
    assert second.done()
    assert rig.get("VAL") == 5.0
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_a_refusal_of_the_server_fails_the_put_and_takes_val_back():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.refuse("MOTOR_FAULT")
    with pytest.raises(PutRefusedError, match=r"T:SAMPLE:X .*MOTOR_FAULT"):
        await done
    assert rig.get("VAL") == 0.0
    assert rig.get("MISS") == 1
    assert rig.motor.alarm.severity == AlarmSeverity.MAJOR_ALARM
    assert rig.client.of("DMOV") == [0, 1]
    rig.put("VAL", 1.0)
    rig.link.ok()
    rig.finish_at(1.0)
    assert rig.motor.alarm.severity == AlarmSeverity.NO_ALARM
    assert rig.get("MISS") == 0


@in_loop
async def test_a_refused_retarget_lets_the_first_move_go_on():
    rig = Rig()
    first = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(**{"": 5.0, "DMOV": 0})
    second = rig.put("VAL", 6.0)
    rig.link.refuse("MOTOR_FAULT")
    assert second.done()
    assert not first.done()
    assert rig.get("VAL") == 5.0
    rig.finish_at(5.0)
    assert first.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_stop_ends_the_move_and_val_follows():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0, RBV=2.0)
    stopped = rig.put("STOP", 1)
    assert rig.link.sent[-1] == "MSTOP:T:SAMPLE:X"
    assert not done.done()
    rig.finish_at(2.5)
    assert done.done()
    assert stopped.done()
    assert (rig.get("VAL"), rig.get("RBV"), rig.get("STOP")) == (2.5, 2.5, 0)


@in_loop
async def test_pause_holds_the_put_until_go():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0, RBV=2.0)
    rig.put("SPMG", 1)
    rig.link.ok("STOPPING")
    rig.finish_at(2.5)
    assert not done.done()
    assert (rig.get("VAL"), rig.get("DMOV"), rig.get("MOVN")) == (5.0, 0, 0)
    rig.put("SPMG", 3)
    assert rig.link.sent[-1] == "MOVE:T:SAMPLE:X:5"
    rig.link.ok()
    rig.finish_at(5.0)
    assert done.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_go_while_the_motor_still_brakes_for_a_pause():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0, RBV=2.0)
    rig.put("SPMG", 1)
    rig.put("SPMG", 3)
    assert rig.link.sent[-2:] == ["MSTOP:T:SAMPLE:X", "MOVE:T:SAMPLE:X:5"]
    rig.link.ok("STOPPING")
    rig.finish_at(2.5)
    assert not done.done()
    rig.link.ok()
    rig.finish_at(5.0)
    assert done.done()
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_a_motor_that_arrives_in_spite_of_a_late_pause():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.put("SPMG", 1)
    rig.finish_at(5.0)
    assert done.done()
    assert rig.get("DMOV") == 1


@in_loop
async def test_a_target_given_while_paused_waits_for_go():
    rig = Rig()
    rig.put("SPMG", 0)
    done = rig.put("VAL", 5.0)
    assert rig.link.sent == []
    assert not done.done()
    rig.put("SPMG", 3)
    rig.link.ok()
    rig.finish_at(5.0)
    assert done.done()


@in_loop
async def test_stop_forgets_a_target_that_waits():
    rig = Rig()
    rig.put("SPMG", 1)
    done = rig.put("VAL", 5.0)
    rig.put("STOP", 1)
    assert done.done()
    assert rig.get("VAL") == 0.0
    assert rig.client.of("DMOV") == [0, 1]
    rig.put("SPMG", 3)
    assert rig.link.sent == []


@in_loop
async def test_move_pauses_again_after_one_motion():
    rig = Rig()
    rig.put("SPMG", 2)
    rig.put("VAL", 5.0)
    rig.link.ok()
    rig.finish_at(5.0)
    assert rig.motor.fields["SPMG"].state == "Pause"


@in_loop
async def test_a_lost_link_ends_the_move_in_alarm():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0, RBV=2.0)
    rig.link.connected = False
    rig.motor.lose_link()
    with pytest.raises(PutRefusedError, match="lost its connection"):
        await done
    assert rig.get("MISS") == 1
    assert rig.get("MSTA") & 1 << 12
    assert (rig.motor.alarm.status, rig.motor.alarm.severity) == (
        AlarmStatus.COMM,
        AlarmSeverity.INVALID_ALARM,
    )
    assert rig.client.of("DMOV") == [0, 1]


@in_loop
async def test_a_put_without_a_link_fails_at_once_and_visibly():
    rig = Rig()
    rig.link.connected = False
    rig.motor.lose_link()
    rig.client.seen.clear()
    with pytest.raises(PutRefusedError, match=r"T:SAMPLE:X can't move to 5 um: no connection"):
        rig.put("VAL", 5.0)
    assert rig.client.of("DMOV") == [0, 1]
    assert (rig.get("VAL"), rig.get("MISS")) == (0.0, 1)


@in_loop
async def test_the_target_follows_the_server_after_a_reconnection():
    rig = Rig()
    rig.link.lose()
    rig.motor.lose_link()
    rig.link.connected = True
    rig.news(**{"": 7.0, "RBV": 7.0, "DMOV": 1, "MSTA": 2})
    assert (rig.get("VAL"), rig.get("RBV"), rig.get("DMOV")) == (7.0, 7.0, 1)
    assert rig.motor.alarm.severity == AlarmSeverity.NO_ALARM


@in_loop
async def test_a_move_by_another_client_of_the_server_shows():
    rig = Rig()
    rig.news(**{"": 3.0, "DMOV": 0, "RBV": 0.5})
    assert (rig.get("DMOV"), rig.get("MOVN"), rig.get("VAL")) == (0, 1, 3.0)
    rig.finish_at(3.0)
    assert (rig.get("DMOV"), rig.get("MOVN"), rig.get("RBV")) == (1, 0, 3.0)


@in_loop
async def test_offset_and_direction_change_numbers_not_positions():
    rig = Rig()
    rig.put("OFF", 100.0)
    assert (rig.get("VAL"), rig.get("RBV"), rig.get("DVAL")) == (100.0, 100.0, 0.0)
    assert (rig.get("LLM"), rig.get("HLM")) == (-9900.0, 10100.0)
    rig.put("DIR", 1)
    assert (rig.get("LLM"), rig.get("HLM")) == (-9900.0, 10100.0)
    done = rig.put("VAL", 90.0)
    assert rig.link.sent == ["MOVE:T:SAMPLE:X:10"]
    rig.link.ok()
    rig.finish_at(10.0)
    assert done.done()
    assert (rig.get("RBV"), rig.get("DRBV"), rig.get("RRBV")) == (90.0, 10.0, 1000)
    limits = rig.motor.fields["VAL"]
    assert (limits.lower_ctrl_limit, limits.upper_ctrl_limit) == (-9900.0, 10100.0)


@pytest.mark.parametrize(("foff", "val", "off"), [(0, 30.0, 60.0), (1, -30.0, 0.0)])
def test_a_new_direction_keeps_the_position_or_a_frozen_offset(foff: int, val: float, off: float):
    async def body() -> None:
        rig = Rig()
        rig.put("VAL", 30.0)
        rig.link.ok()
        rig.finish_at(30.0)
        rig.motor.fields["FOFF"].post(foff)
        rig.put("DIR", 1)
        assert (rig.get("VAL"), rig.get("RBV"), rig.get("OFF")) == (val, val, off)
        assert (rig.get("DVAL"), rig.get("DRBV")) == (30.0, 30.0)
        assert (rig.get("LLM"), rig.get("HLM")) == (-10000.0 + off, 10000.0 + off)

    asyncio.run(body())


@in_loop
async def test_set_mode_renames_the_position():
    rig = Rig()
    rig.motor.fields["SET"].post(1)
    rig.put("VAL", 42.0)
    assert rig.link.sent == []
    assert (rig.get("VAL"), rig.get("RBV"), rig.get("OFF"), rig.get("DVAL")) == (42, 42, 42, 0)
    assert rig.client.of("DMOV") == [0, 1]


@pytest.mark.parametrize(
    ("field", "value", "target"),
    [
        ("DVAL", 3.0, "3"),
        ("RVAL", 200, "2"),
        ("RLV", -4.0, "-4"),
        ("TWF", 1, "1"),
        ("TWR", 1, "-1"),
    ],
)
def test_every_drive_field_moves_and_blinks_once(field: str, value: float, target: str):
    async def body() -> None:
        rig = Rig()
        rig.motor.fields["TWV"].post(1.0)
        done = rig.put(field, value)
        assert rig.link.sent == [f"MOVE:T:SAMPLE:X:{target}"]
        rig.link.ok()
        rig.finish_at(float(target))
        assert done.done()
        assert rig.client.of("DMOV") == [0, 1]
        assert rig.get("VAL") == float(target)
        if field in {"RLV", "TWF", "TWR"}:
            assert rig.get(field) == 0

    asyncio.run(body())


@in_loop
async def test_a_jog_runs_until_the_button_is_released():
    rig = Rig()
    rig.put("JOGF", 1)
    assert rig.link.sent == ["MOVE:T:SAMPLE:X:10000"]
    rig.link.ok()
    rig.news(DMOV=0, RBV=5.0)
    rig.put("JOGF", 0)
    rig.link.ok("STOPPING")
    rig.finish_at(6.0)
    assert (rig.get("VAL"), rig.get("DMOV"), rig.get("JOGF")) == (6.0, 1, 0)


@in_loop
async def test_a_jog_has_its_own_speed_and_gives_the_axis_its_own_back():
    rig = Rig()
    rig.news(VELO=1000.0, ACCL=0.5, VMAX=10000.0)
    assert (rig.get("JVEL"), rig.get("JAR")) == (1000.0, 2000.0)  # those of a move, by default
    rig.put("JVEL", 100.0)
    rig.put("JAR", 50.0)
    rig.put("JOGR", 1)
    assert rig.link.sent == ["PUT:T:SAMPLE:X.VELO:100", "PUT:T:SAMPLE:X.ACCL:2"]
    rig.link.ok("PUT")
    rig.link.ok("PUT")
    assert rig.link.sent[2:] == ["MOVE:T:SAMPLE:X:-10000"]
    rig.link.ok()
    rig.news(DMOV=0, RBV=-5.0, VELO=100.0, ACCL=2.0)
    assert (rig.get("VELO"), rig.get("ACCL")) == (1000.0, 0.5)  # clients see those of moves
    rig.put("VELO", 900.0)
    rig.put("JOGR", 0)
    assert rig.link.sent[3:] == ["MSTOP:T:SAMPLE:X"]
    rig.link.ok("STOPPING")
    rig.finish_at(-6.0)
    assert rig.link.sent[4:] == ["PUT:T:SAMPLE:X.VELO:900", "PUT:T:SAMPLE:X.ACCL:0.5"]
    assert (rig.get("VAL"), rig.get("DMOV"), rig.get("JOGR")) == (-6.0, 1, 0)


@in_loop
async def test_a_move_out_of_a_jog_has_the_speed_of_moves():
    rig = Rig()
    rig.news(VELO=1000.0, ACCL=0.5)
    rig.put("JVEL", 100.0)
    rig.put("JOGF", 1)
    rig.link.ok("PUT")
    rig.link.ok("PUT")
    rig.link.ok()
    rig.news(DMOV=0, RBV=5.0)
    rig.put("VAL", 7.0)
    assert rig.get("JOGF") == 0
    assert [line.partition(":T:SAMPLE:X")[2] for line in rig.link.sent[3:]] == [
        ".VELO:1000", ".ACCL:0.5", ":7",
    ]  # fmt: skip


@in_loop
async def test_a_jog_whose_speed_is_refused_does_not_start():
    rig = Rig()
    rig.news(VELO=1000.0, ACCL=0.5)
    rig.put("JVEL", 1e9)
    rig.put("JOGF", 1)
    rig.link.refuse("INVALID_VALUE")
    rig.link.ok("PUT")
    assert not any(line.startswith("MOVE") for line in rig.link.sent)
    assert (rig.get("JOGF"), rig.get("DMOV"), rig.get("MISS")) == (0, 1, 1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("HLM", 20000.0, "T:SAMPLE:X.HLM can't be set to 20000 um: expected -10000 to 10000."),
        ("DLLM", -1e6, "T:SAMPLE:X.DLLM can't be set to -1e+06 um: expected -10000 to 10000."),
        ("VELO", 1e6, "can't be set to 1e+06 um/s: expected more than 0 up to 10000 (VMAX)."),
        ("ACCL", 0.0, "T:SAMPLE:X.ACCL can't be set to 0 s: expected 0.001 to 100."),
        ("BDST", 500.0, "T:SAMPLE:X.BDST can't be set to 500 um: expected -100 to 100."),
        ("JVEL", -1.0, "T:SAMPLE:X.JVEL can't be set to -1 um/s: expected 0 (that is VELO) up to"),
        ("JVEL", 1e5, "up to 10000 (VMAX)."),
        ("JAR", -1.0, "T:SAMPLE:X.JAR can't be set to -1 um/s/s: expected 0"),
    ],
)
@in_loop
async def test_a_refused_setting_is_told_with_its_range(field: str, value: float, words: str):
    rig = Rig()
    rig.news(VELO=1000.0, ACCL=0.5, VMAX=10000.0, HLM=10000.0, LLM=-10000.0)

    async def put() -> None:
        done = rig.put(field, value)
        rig.link.refuse("INVALID_VALUE")
        await done

    with pytest.raises(PutRefusedError) as refusal:
        await put()
    assert words in str(refusal.value)


@in_loop
async def test_a_limit_switch_where_nobody_sent_the_motor_is_an_alarm():
    rig = Rig()
    rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(**{"": 5.0, "RBV": 3.0, "DMOV": 1, "HLS": 1})
    assert rig.get("HLS") == 1
    assert rig.motor.alarm.severity == AlarmSeverity.MAJOR_ALARM
    assert rig.motor.alarm.status == AlarmStatus.HIGH
    rig.put("VAL", 1.0)
    rig.link.ok()
    rig.news(**{"": 1.0, "RBV": 1.0, "DMOV": 1, "HLS": 0})
    assert rig.motor.alarm.severity == AlarmSeverity.NO_ALARM


@in_loop
async def test_a_move_that_ends_elsewhere_is_missed_and_in_alarm_until_it_is_right():
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.news(DMOV=0)
    rig.news(**{"": 5.0, "DMOV": 1})  # the readback does not follow
    assert done.done()
    assert (rig.get("MISS"), rig.get("RBV"), rig.get("VAL")) == (1, 0.0, 5.0)
    assert rig.motor.alarm.status == AlarmStatus.STATE
    assert rig.motor.alarm.severity == AlarmSeverity.MAJOR_ALARM
    rig.news(RBV=5.0)
    assert rig.motor.alarm.severity == AlarmSeverity.NO_ALARM
    assert rig.get("MISS") == 1


@in_loop
async def test_settings_live_on_the_server():
    rig = Rig()
    done = rig.put("VELO", 50.0)
    assert rig.link.sent == ["PUT:T:SAMPLE:X.VELO:50"]
    before = rig.get("VELO")
    rig.link.refuse("INVALID_VALUE")
    with pytest.raises(PutRefusedError, match=r"T:SAMPLE:X\.VELO can't be set to 50"):
        await done
    assert rig.get("VELO") == before
    rig.put("VELO", 60.0)
    rig.link.ok("PUT")
    assert rig.get("VELO") == 60.0
    # A server that started anew gets it back.
    rig.motor.lose_link()
    rig.news(VELO=2000.0)
    rig.motor.restore()
    assert rig.link.sent[-1] == "PUT:T:SAMPLE:X.VELO:60"


@in_loop
async def test_user_limits_are_dial_limits_of_the_server():
    rig = Rig()
    rig.put("OFF", 10.0)
    rig.put("HLM", 110.0)
    assert rig.link.sent[-1] == "PUT:T:SAMPLE:X.HLM:100"
    rig.link.ok("PUT")
    assert (rig.get("HLM"), rig.get("DHLM")) == (110.0, 100.0)
    assert rig.motor.fields["VAL"].upper_ctrl_limit == 110.0
    rig.put("VAL", 111.0)
    assert rig.get("LVIO") == 1


@in_loop
async def test_a_silent_server_is_asked(monkeypatch: pytest.MonkeyPatch):
    rig = Rig()
    done = rig.put("VAL", 5.0)
    rig.link.ok()
    rig.motor.check()
    assert len(rig.link.sent) == 1
    monkeypatch.setattr("ioc.motor._SILENCE", -1.0)
    rig.motor.check()
    assert rig.link.sent[-1] == "MGET:T:SAMPLE:X,T:SAMPLE:X.RBV,T:SAMPLE:X.DMOV"
    rig.link.ok("5,5,1")
    assert done.done()
    assert rig.get("RBV") == 5.0


@pytest.mark.parametrize("field", ["VAL", "DVAL", "RLV", "RVAL"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_that_is_no_number_is_refused_with_a_blink(field: str, value: float):
    async def body() -> None:
        rig = Rig()
        with pytest.raises(PutRefusedError, match=r"T:SAMPLE:X\S* can't take"):
            rig.motor.fields[field].client_put([value], ChannelType.DOUBLE)
        assert rig.client.of("DMOV") == [0, 1]
        assert (rig.get("LVIO"), rig.get("VAL"), rig.link.sent) == (1, 0.0, [])
        done = rig.put("VAL", 1.0)
        # During a move it is refused as well, and the move goes on.
        with pytest.raises(PutRefusedError):
            rig.motor.fields[field].client_put([value], ChannelType.DOUBLE)
        rig.link.ok()
        rig.finish_at(1.0)
        assert done.done()
        assert rig.client.of("DMOV") == [0, 1, 0, 1]

    asyncio.run(body())


@in_loop
async def test_a_position_that_cannot_be_loaded_is_refused_with_a_blink():
    rig = Rig()
    rig.motor.fields["SET"].post(1)
    rig.motor.fields["FOFF"].post(1)
    with pytest.raises(PutRefusedError, match="set FOFF to Variable"):
        rig.put("VAL", 42.0)
    assert rig.client.of("DMOV") == [0, 1]
    assert (rig.get("LVIO"), rig.get("VAL")) == (1, 0.0)


@in_loop
async def test_a_target_that_waits_for_go_is_logged(caplog):
    rig = Rig()
    rig.put("SPMG", 0)
    rig.put("VAL", 5.0)
    assert rig.get("DMOV") == 0  # as motorRecord does
    assert "SPMG is Stop, put Go to it to move" in caplog.text
    assert "T:SAMPLE:X" in caplog.text
