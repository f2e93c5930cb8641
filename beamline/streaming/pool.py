"""As many inference workers as the load needs, within limits; dead ones are replaced."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from beamline.core.errors import ProcessError
from beamline.streaming.inference import InferenceWorker, WorkerSettings, WorkerStatus
from beamline.streaming.queue import ShardedQueueManager

__all__ = ["InferencePool", "PoolSettings"]

_log = logging.getLogger(__name__)

#: Workers that die before any has come to work, until the pool gives up.
_STILLBORN = 4


@dataclass(frozen=True)
class PoolSettings:
    """How many workers.

    Attributes
    ----------
    min_workers, max_workers
        Their number is between these.
    cpus_per_worker, gpus_per_worker
        What Ray reserves for each.
    backlog_per_worker
        With more items waiting per worker, another one is started.
    idle_seconds
        A worker beyond the least number that had nothing to do for so long is stopped.
    max_restarts
        Workers replaced, in all, before the pool gives up; it gives up sooner if none has ever
        come to work.
    """

    min_workers: int = 1
    max_workers: int = 2
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    backlog_per_worker: int = 4
    idle_seconds: float = 10.0
    max_restarts: int = 20


@dataclass
class _Member:
    actor: Any
    done: Any
    producer: str
    asked: Any = None
    status: WorkerStatus | None = None
    leaving: bool = False


class InferencePool:
    """Workers on Ray; `adjust` is to be called about once a second.

    Parameters
    ----------
    worker
        What each worker does.
    settings
        How many there are.
    name
        Begins the names of their streams on Q2.

    Attributes
    ----------
    restarts : int
        Workers that died and were replaced.
    most : int
        Largest number of workers at a time.
    """

    def __init__(self, worker: WorkerSettings, settings: PoolSettings, name: str) -> None:
        self._worker, self._settings, self._name = worker, settings, name
        self._queue = ShardedQueueManager(
            worker.input_queue, None, namespace=worker.namespace, create=False
        )
        self._members: list[_Member] = []
        self._gone: list[WorkerStatus] = []
        self._number = 0
        self.restarts = self.most = 0
        self._worked = False
        for _ in range(settings.min_workers):
            self._add()

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Processes of the workers that have told of themselves."""
        return [m.status.pid for m in self._members if m.status is not None]

    @property
    def status(self) -> WorkerStatus:
        """Sums over all workers, past and present, as far as they have told."""
        total = WorkerStatus()
        for one in (*self._gone, *(m.status for m in self._members if m.status is not None)):
            total.items += one.items
            total.samples += one.samples
            total.refused += one.refused
            total.busy_seconds += one.busy_seconds
            total.errors += one.errors
        return total

    def adjust(self) -> None:
        """Take note of what the workers did, replace dead ones, and fit their number to the load.

        Raises
        ------
        ProcessError
            If workers die again and again.
        """
        self._ask()
        self._reap()
        backlog, count = self._queue.size(), len(self._members)
        settings = self._settings
        wanted = count < settings.max_workers and backlog > settings.backlog_per_worker * count
        if wanted and not self._queue.ended and self._room():
            self._add()
            _log.info("%d items wait: %d inference workers now", backlog, count + 1)
        for member in reversed(self._members):
            staying = sum(not m.leaving for m in self._members)
            idle = member.status is not None and member.status.idle_seconds > settings.idle_seconds
            if staying > settings.min_workers and idle and not backlog and not member.leaving:
                member.leaving = True
                member.actor.stop.remote()

    def stop(self) -> None:
        """Let every worker finish the item at hand and end."""
        for member in self._members:
            member.leaving = True
            member.actor.stop.remote()

    def kill(self) -> None:
        """End all workers at once; what they had comes back to Q1."""
        import ray

        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def _add(self, producer: str | None = None) -> None:
        import ray

        settings = self._settings
        if producer is None:
            producer = f"{self._name}-{self._number}"
            self._number += 1
        # Beside `run` there is a thread for `stop` and `status`.
        remote = ray.remote(
            num_cpus=settings.cpus_per_worker, num_gpus=settings.gpus_per_worker, max_concurrency=2
        )(InferenceWorker)
        actor = remote.remote(self._worker, producer)
        self._members.append(_Member(actor, actor.run.remote(), producer))
        self.most = max(self.most, len(self._members))

    def _room(self) -> bool:
        """Whether the cluster has room for another worker; one that has to wait would be idle."""
        import ray

        free = ray.available_resources()
        return (
            free.get("CPU", 0.0) >= self._settings.cpus_per_worker
            and free.get("GPU", 0.0) >= self._settings.gpus_per_worker
        )

    def _ask(self) -> None:
        import ray

        for member in self._members:
            if member.asked is None:
                member.asked = member.actor.status.remote()
        for member in _ready(self._members, "asked"):
            with contextlib.suppress(ray.exceptions.RayActorError):  # `_reap` sees to it
                member.status = ray.get(member.asked)
                self._worked = True
            member.asked = None

    def _reap(self) -> None:
        import ray

        for member in _ready(self._members, "done"):
            self._members.remove(member)
            try:
                self._gone.append(ray.get(member.done))
            except ray.exceptions.RayActorError as error:
                # One that only could not be reached would go on beside its successor.
                ray.kill(member.actor)
                self._replace(member, _reason(error))
            except ray.exceptions.RayTaskError as error:
                ray.kill(member.actor)
                self._replace(member, " ".join(str(error.cause).split()))

    def _replace(self, member: _Member, why: str) -> None:
        if member.status is not None:
            self._gone.append(member.status)
        self.restarts += 1
        most = self._settings.max_restarts
        if self.restarts > (most if self._worked else min(most, _STILLBORN)):
            raise ProcessError(f"inference workers died {self.restarts} times, the last of: {why}")
        _log.error("inference worker %s died and is replaced: %s", member.producer, why)
        self._add(member.producer)


def _reason(error: Exception) -> str:
    """Return why an actor died; what its constructor raised stands at the end."""
    lines = str(getattr(error, "cause", None) or error).split("\n")
    if "creation task" in lines[0]:
        return next(line.strip() for line in reversed(lines) if line.strip())
    return " ".join(" ".join(lines).split())[:300]


def _ready(members: Iterable[_Member], what: str) -> list[_Member]:
    """Return the members whose call has been answered."""
    import ray

    calls = {getattr(m, what): m for m in members if getattr(m, what) is not None}
    if not calls:
        return []
    ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
    return [calls[call] for call in ready]
