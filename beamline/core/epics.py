"""How Channel Access clients find the IOC."""

from __future__ import annotations

__all__ = ["client_environment"]


def client_environment(port: int, repeater_port: int | None = None) -> dict[str, str]:
    """Return the ``EPICS_*`` variables with which clients find the IOC on this machine, only.

    They must be set before the first Channel Access client of a process starts. Nothing is
    broadcast; the repeater that clients look for is the IOC's own.

    Parameters
    ----------
    port
        Channel Access port of the IOC.
    repeater_port
        Port of its repeater; `port` + 1 by default, as the IOC chooses it.
    """
    return {
        "EPICS_CA_ADDR_LIST": f"127.0.0.1:{port}",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(port % 65535 + 1 if repeater_port is None else repeater_port),
        # A silent IOC is noticed in 5 s, not 30.
        "EPICS_CA_CONN_TMO": "5",
        "EPICS_CA_MAX_ARRAY_BYTES": str(64 << 20),
    }
