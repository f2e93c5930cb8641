"""Prometheus text over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from beamline.core.errors import ConfigurationError

__all__ = ["MetricsEndpoint", "last_error_metric"]


class MetricsEndpoint:
    """``GET /metrics`` on an address of its own, answered by a thread.

    Parameters
    ----------
    host, port
        To listen on; port 0 takes a free one.
    collect
        Returns the metrics of this moment (of ``prometheus_client.core``).

    Attributes
    ----------
    url : str

    Raises
    ------
    ConfigurationError
        If the port is taken.
    """

    def __init__(self, host: str, port: int, collect: Callable[[], Iterable[Any]]) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._collect = collect
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"the health endpoint cannot listen on {host}:{port}: {error.strerror}; choose "
                "another port with --health-port."
            ) from None
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def collect(self) -> Iterable[Any]:
        """Return the metrics, for the registry."""
        return self._collect()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def last_error_metric(prefix: str, text: str, sentence: str, moment: float) -> Any:
    """Return the gauge of when something went wrong last, with what it was as label ``reason``.

    Parameters
    ----------
    prefix, text
        Of the metric's name, and its help.
    sentence, moment
        What went wrong, and when (s since 1970); empty and 0 for never.
    """
    from prometheus_client.core import GaugeMetricFamily

    last = GaugeMetricFamily(f"{prefix}_last_error_time_seconds", text, labels=["reason"])
    last.add_metric([sentence], moment)
    return last
