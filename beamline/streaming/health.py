"""Health of ``cxi-writer`` as Prometheus text over HTTP, and the counts behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from beamline.core.errors import ConfigurationError

__all__ = ["HealthEndpoint", "WriterCounts"]

#: Counters by field of `WriterCounts`, and what they count.
_COUNTERS = {
    "items": "Items taken from the queue.",
    "frames": "Events searched for peaks.",
    "hits": "Events with enough peaks.",
    "written": "Events in complete files.",
    "filtered": "Events with too few peaks.",
    "truncated": "Events with more peaks than are stored.",
    "refused": "Events that can't be stored, and why is in the log.",
    "duplicates": "Events that came again and were written already.",
    "lost": "Events that were taken and can't be had or treated any more.",
    "files": "Complete files.",
    "retries": "Tasks, writes and items that were tried again.",
    "worker_deaths": "Worker processes that died.",
    "writer_deaths": "Writer processes that died or failed.",
    "document_errors": "Documents that a consumer refused.",
}
_GAUGES = {
    "queue_depth": "Items that wait in the queue; -1 while it does not answer.",
    "pending": "Events taken and not yet in a complete file, filtered or refused.",
    "workers": "Tasks that may find peaks at once.",
    "unwritten_bytes": "Frames and logits held until their file is complete.",
    "blocked": "1 while nothing can be written (full disk).",
    "frames_per_second": "Events searched per second, over the last 10 s.",
    "hit_rate": "Fraction of hits among events searched.",
}


@dataclass
class WriterCounts:
    """What a writer has done, and how it is; fields as the metrics of the health endpoint.

    Attributes
    ----------
    last_error, last_error_time
        Sentence, and its time, of what went wrong last.
    """

    items: int = 0
    frames: int = 0
    hits: int = 0
    written: int = 0
    filtered: int = 0
    truncated: int = 0
    refused: int = 0
    duplicates: int = 0
    lost: int = 0
    files: int = 0
    retries: int = 0
    worker_deaths: int = 0
    writer_deaths: int = 0
    document_errors: int = 0
    queue_depth: int = 0
    pending: int = 0
    workers: int = 0
    unwritten_bytes: int = 0
    blocked: int = 0
    frames_per_second: float = 0.0
    last_error: str = ""
    last_error_time: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Fraction of hits among events searched."""
        searched = self.hits + self.filtered
        return self.hits / searched if searched else 0.0

    def failed(self, sentence: str) -> None:
        """Note what went wrong."""
        self.last_error, self.last_error_time = sentence, time.time()

    def summary(self) -> dict[str, Any]:
        """Return all of it, for programs."""
        return {**asdict(self), "hit_rate": self.hit_rate}


class HealthEndpoint:
    """``GET /metrics`` on an address of its own, answered by a thread.

    Parameters
    ----------
    host, port
        To listen on; port 0 takes a free one.
    counts
        Returns what is shown.

    Attributes
    ----------
    url : str

    Raises
    ------
    ConfigurationError
        If the port is taken.
    """

    def __init__(self, host: str, port: int, counts: Callable[[], WriterCounts]) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._counts = counts
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

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of this moment."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts = self._counts()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"cxi_writer_{name}", text, getattr(counts, name))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"cxi_writer_{name}", text, float(getattr(counts, name)))
        last = GaugeMetricFamily(
            "cxi_writer_last_error_time_seconds",
            "When something went wrong last, and what; 0 for never.",
            labels=["reason"],
        )
        last.add_metric([counts.last_error], counts.last_error_time)
        yield last

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
