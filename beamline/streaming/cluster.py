"""Connecting to a Ray cluster, or starting one."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from beamline.core.errors import ConnectionLostError
from beamline.streaming.config import RaySettings

__all__ = ["connected"]

_log = logging.getLogger(__name__)

#: Seconds for a cluster to accept a connection: Ray itself would try for many minutes.
_PATIENCE = 10.0


@contextlib.contextmanager
def connected(settings: RaySettings) -> Iterator[bool]:
    """Be connected to Ray within the block.

    A connection that exists already is used and left as it is. A cluster that was started here
    ends with the block, and all queues in it.

    Yields
    ------
    bool
        Whether the cluster was started here.

    Raises
    ------
    ConnectionLostError
        If the cluster that was asked for (``RAY_ADDRESS`` counts as such) or that runs here does
        not answer.
    """
    # Telemetry is not for a service.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _show_token()
    import ray

    if ray.is_initialized():
        yield False
        return
    common = {
        "namespace": settings.namespace,
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    joined = False
    if settings.address != "local":
        _check_reachable(
            settings.address if settings.address != "auto" else os.environ.get("RAY_ADDRESS", "")
        )
        try:
            ray.init(address=settings.address, **common)
            joined = True
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = settings.address
            if where == "auto":
                where = os.environ.get("RAY_ADDRESS") or where
            if where != "auto" or "Could not find any running Ray" not in str(error):
                raise ConnectionLostError(
                    f"no Ray cluster answers at {where}: {error}; start it, or set ray.address to "
                    "local."
                ) from None
    if not joined:
        _log.info("no Ray cluster runs here: starting a local one")
        store = settings.object_store_mb
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            object_store_memory=None if store is None else store * 1_000_000,
            include_dashboard=False,
            **common,
        )
    try:
        yield not joined
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address (host:port) at which nobody listens; others are Ray's to judge."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConnectionLostError(
            f"no Ray cluster answers at {address}: {error}; start it, or set ray.address to local."
        ) from None


def _show_token() -> None:
    """Let Ray show the token of this user.

    ``ray start`` asks for one by default since Ray 2.60, and a program that joins shows its own
    only if it is told to before Ray is imported. A cluster that asks for none ignores it.
    """
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
