"""Health of a callback server: its counts, and the metrics made of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from beamline.core.metrics import last_error_metric
from beamline.documents.network import DocumentSubscriber, NetworkCounts

__all__ = ["ServerCounts", "server_metrics"]

_HELP = {
    "received": "Documents that arrived over the network.",
    "delivered": "Documents that were given to the consumers, each once.",
    "gaps": "Gaps in the numbers of documents that were noticed.",
    "missed": "Documents that were missing in gaps.",
    "refilled": "Missing documents that came from the journal.",
    "duplicates": "Documents that were dropped because they had come before.",
    "damaged": "Messages and records that could not be read.",
    "lost": "Documents or runs that could not be had at all.",
    "stalls": "How often a run was asked for again.",
}


@dataclass
class ServerCounts:
    """What a callback server has done.

    Attributes
    ----------
    errors
        Documents that were refused, per consumer.
    failed
        Runs of which a consumer refused documents, per consumer.
    runs, interrupted, cut_off
        Runs that ended, that were open when the server was stopped, that have no stop document.
    files
        Files that were finished.
    open_runs
        Uids and numbers of documents of the runs that are open.
    last_error
        Sentence, and its time, of what was refused last.
    """

    errors: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    interrupted: int = 0
    cut_off: int = 0
    files: int = 0
    open_runs: int = 0
    last_error: str = ""
    last_error_time: float = 0.0

    def refused(self, consumer: str, reason: str) -> None:
        """Note why a consumer has failed."""
        self.failed[consumer] += 1
        self.last_error = f"{consumer}: {reason}"
        self.last_error_time = time.time()


def server_metrics(
    subscriber: DocumentSubscriber, counts: ServerCounts, consumers: Iterable[str]
) -> Iterator[Metric]:
    """Yield what the health endpoint shows.

    Parameters
    ----------
    subscriber, counts
        What is shown.
    consumers
        Names, so that their errors are shown when there are none.
    """
    network = subscriber.counts
    for item in fields(NetworkCounts):
        yield _counter(item.name, _HELP[item.name], getattr(network, item.name))
    errors = CounterMetricFamily(
        "beamline_callbacks_consumer_errors",
        "Documents that a consumer refused.",
        labels=["consumer"],
    )
    failed = CounterMetricFamily(
        "beamline_callbacks_runs_failed",
        "Runs of which a consumer refused documents, also after their end.",
        labels=["consumer"],
    )
    for consumer in consumers:
        errors.add_metric([consumer], counts.errors[consumer])
        failed.add_metric([consumer], counts.failed[consumer])
    yield errors
    yield failed
    yield _counter("runs_finished", "Runs that have ended here.", counts.runs)
    yield _counter("runs_cut_off", "Runs without a stop document among them.", counts.cut_off)
    yield _counter("files_finished", "Files that were finished.", counts.files)
    yield _gauge("open_runs", "Runs that are open.", counts.open_runs)
    yield _gauge("waiting_runs", "Runs that wait for their turn.", subscriber.waiting)
    yield _gauge("connected", "1 while the publisher is heard.", subscriber.connected)
    yield _gauge(
        "lag_seconds",
        "Time since the oldest document was announced that has not been delivered.",
        subscriber.lag,
    )
    yield last_error_metric(
        "beamline_callbacks",
        "When a consumer last failed, and how; 0 for never.",
        counts.last_error,
        counts.last_error_time,
    )


def _counter(name: str, text: str, value: float) -> Any:
    return CounterMetricFamily(f"beamline_callbacks_{name}", text, value)


def _gauge(name: str, text: str, value: float) -> Any:
    return GaugeMetricFamily(f"beamline_callbacks_{name}", text, float(value))
