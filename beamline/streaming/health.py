"""Health of ``cxi-writer``: its counts, and the metrics made of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from beamline.core.metrics import last_error_metric

__all__ = ["WriterCounts", "writer_metrics"]

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


def writer_metrics(counts: WriterCounts) -> Iterator[Any]:
    """Yield what the health endpoint shows."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text in _COUNTERS.items():
        yield CounterMetricFamily(f"cxi_writer_{name}", text, getattr(counts, name))
    for name, text in _GAUGES.items():
        yield GaugeMetricFamily(f"cxi_writer_{name}", text, float(getattr(counts, name)))
    yield last_error_metric(
        "cxi_writer",
        "When something went wrong last, and what; 0 for never.",
        counts.last_error,
        counts.last_error_time,
    )
