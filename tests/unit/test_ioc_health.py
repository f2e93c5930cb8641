"""The health records, without the processes around them."""

import os

from ioc_fakes import Watcher

from ioc.health import Health


class Surroundings:
    coalesced = denied = refused = 0
    depth = 3
    online = True
    connected = True
    writer = "Ready"

    def clients(self) -> int:
        return 101

    def connections(self) -> int:
        return 40

    def queue_depth(self) -> int:
        return self.depth

    def set_online(self, online: bool) -> None:
        self.online = online

    def link_health(self) -> tuple[bool, int, float]:
        return self.connected, 2, 0.06

    def writer_health(self) -> tuple[str, int]:
        return self.writer, 1


def made() -> tuple[Health, Surroundings]:
    around = Surroundings()
    health = Health("T:", around, engineer="Ada", location="Rack 7")
    health.serve(around)
    return health, around


def test_values_and_alarms():
    health, around = made()
    assert {record.alarm.severity for record in health.records.values()} == {3}
    health.show_autosave("Saved", 1e9)
    health.update()
    health.update()
    value = {name: health.field(name).current for name in health.records}
    severity = {name: int(record.alarm.severity) for name, record in health.records.items()}
    assert (value["HEARTBEAT"], value["ENGINEER"], value["LOCATION"]) == (2, "Ada", "Rack 7")
    assert value["UPTIME"].startswith("00:00:")
    assert value["PROCESS_ID"] == os.getpid()
    assert value["FD_FREE"] == value["FD_MAX"] - value["FD_CNT"]
    assert value["MEM_USED"] > 1e6
    assert (value["CA_CLNT_CNT"], severity["CA_CLNT_CNT"]) == (101, 1)
    assert (value["CA_CONN_CNT"], severity["CA_CONN_CNT"]) == (40, 0)
    assert (value["LINK_LATENCY"], severity["LINK_LATENCY"]) == (60.0, 1)
    assert (value["LINK_RECONNECTS"], value["WRITER_RESTARTS"]) == (2, 1)
    assert value["AUTOSAVE_TOD"].endswith("2001 " + value["AUTOSAVE_TOD"][-8:])
    assert 3 not in severity.values()
    around.connected, around.writer, around.depth = False, "Failed", 5000
    health.update()
    severity = {name: int(record.alarm.severity) for name, record in health.records.items()}
    assert (severity["LINK_STATE"], severity["WRITER_STATE"], severity["CAQ_DEPTH"]) == (2, 2, 1)


def test_a_monitor_of_the_link_learns_of_its_end_at_once():
    health, around = made()
    health.update()
    watcher = Watcher({"state": health.field("LINK_STATE")})
    around.connected = False
    health.neighbours_changed()
    assert watcher.of("state")[-1] == 0


def test_offline_takes_write_access_away():
    health, around = made()
    field = health.field("ACCESS")
    assert field.put is not None
    for state, severity, online in (("Maintenance", 1, True), ("OFFLINE", 2, False),
                                    ("Running", 0, True)):  # fmt: skip
        field.put(("Running", "Maintenance", "Test", "OFFLINE").index(state))
        assert (field.alarm.severity, around.online) == (severity, online)
