"""The headless callback server: document consumers in a process of their own.

.. mermaid::

    flowchart LR
        publisher["publisher (follows the journal)"] -- documents --> subscriber
        subscriber --> run["one ServedRun per run"]
        run --> nexus & cxi & xpcs & catalog & other["module:factory"]
        run -- "what became of it" --> ledger["callbacks.jsonl"]
        run -- a consumer has failed --> session["session: stop, pause or warn"]

``beamline callbacks`` starts it; ``docs/callback_server.md`` describes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from beamline.core.errors import ConfigurationError
from beamline.core.metrics import MetricsEndpoint
from beamline.documents.network import CUT, Delivery, DocumentSubscriber
from callbacks._server_consumers import BUILT_IN, POLICIES, Policy, Task, make_task
from callbacks._server_health import ServerCounts, server_metrics
from callbacks._server_ledger import ServerLedger
from callbacks._server_run import STOPPED, ServedRun

__all__ = ["BUILT_IN", "POLICIES", "STOPPED", "CallbackServer", "Policy", "Task", "make_task"]

_log = logging.getLogger(__name__)

_TURN = 0.1  # seconds


class CallbackServer:
    """Receive documents from a publisher and give them to consumers, until told to stop.

    Parameters
    ----------
    address
        Of the publisher.
    consumers
        As `make_task` takes them: ``nexus``, ``cxi``, ``xpcs``, ``catalog``, ``module:factory``,
        each with ``=policy`` behind it or not.
    directory
        Files and the ledger go below it. One server at a time can have it.
    policy
        Of consumers that have none of their own.
    since
        What a new directory is to have: runs since a time (0: all that the journal has), or those
        of the publisher's session, which is the default.
    again
        Do runs again that a consumer refused.
    health
        Host and port of the health endpoint; None for none. Port 0 takes a free one.
    catalog_uri
        Address of a tiled server that ``catalog`` feeds, instead of a catalogue in `directory`.

    Attributes
    ----------
    counts : ServerCounts
    health_url : str or None

    Raises
    ------
    ConfigurationError
        If an address, a consumer or the directory can't be used.
    """

    def __init__(
        self,
        address: str,
        consumers: Sequence[str],
        directory: Path,
        *,
        policy: Policy = "warn",
        since: float | Literal["session"] = "session",
        again: bool = False,
        health: tuple[str, int] | None = ("127.0.0.1", 0),
        catalog_uri: str | None = None,
    ) -> None:
        self.counts = ServerCounts()
        self._directory = directory.absolute()
        self._ledger = ServerLedger(self._directory, again=again)
        self._since_given = None if since == "session" else float(since)
        self._runs: dict[str, ServedRun] = {}
        self._tasks: list[Task] = []
        self._endpoint: MetricsEndpoint | None = None
        self._subscriber = DocumentSubscriber(
            address,
            wanted=self._wanted,
            since=self._since,
            name=f"callback server in {self._directory.name}",
        )
        try:
            if health is not None:
                self._endpoint = MetricsEndpoint(
                    *health,
                    lambda: server_metrics(
                        self._subscriber, self.counts, [t.name for t in self._tasks]
                    ),
                )
            chosen = list(dict.fromkeys(consumers))
            names = [text.partition("=")[0] for text in chosen]
            for text, name in zip(chosen, names, strict=True):
                if names.count(name) > 1:
                    raise ConfigurationError(
                        f"the consumer {name!r} is asked for with different policies: choose one."
                    )
                self._tasks.append(make_task(text, policy, self._directory, catalog_uri))
        except BaseException:
            self._close()
            raise
        self.address = self._subscriber.address

    @property
    def health_url(self) -> str | None:
        """Where the health endpoint is, or None."""
        return self._endpoint.url if self._endpoint is not None else None

    @property
    def failed(self) -> list[str]:
        """Consumers of which the plan should have heard (``stop``, ``pause``) and that failed."""
        return [t.name for t in self._tasks if t.policy != "warn" and self.counts.failed[t.name]]

    def run(self, stopping: Callable[[], bool]) -> None:
        """Serve until `stopping` returns true; then close open files, labelled, and leave."""
        try:
            while not stopping():
                for delivery in self._subscriber.receive(_TURN):
                    self._deliver(delivery)
                    if stopping():
                        break
        finally:
            for run in self._runs.values():
                _log.warning("run %s is interrupted", run.uid[:8])
                self.counts.interrupted += 1
                self.counts.files += len(run.interrupt())
            self._runs.clear()
            self._close()

    def _close(self) -> None:
        for task in self._tasks:
            try:
                task.close()
            except Exception:  # noqa: BLE001  (the others are to be closed as well)
                _log.exception("%s could not be closed", task.name)
        if self._endpoint is not None:
            self._endpoint.close()
        self._subscriber.close()
        self._ledger.close()

    # ---- which runs

    def _since(self) -> float | None:
        return self._ledger.since if self._ledger.since is not None else self._since_given

    def _wanted(self, uid: str, started: float) -> bool:
        if self._ledger.since is None:
            given = self._since_given
            self._ledger.begin(started if given is None else given)
        return any(not self._ledger.done(uid, task.name) for task in self._tasks)

    # ---- their documents

    def _deliver(self, delivery: Delivery) -> None:
        uid, name = delivery.run, delivery.name
        if name == "start":
            tasks = [task for task in self._tasks if not self._ledger.done(uid, task.name)]
            run = self._runs[uid] = ServedRun(
                delivery.doc, tasks, self._ledger, lambda task, why: self._failed(uid, task, why)
            )
            self.counts.open_runs = len(self._runs)
        else:
            found = self._runs.get(uid)
            if found is None:
                return
            run = found
            if name == CUT:
                self.counts.cut_off += 1
                run.cut_off()
            else:
                run(name, delivery.doc)
        for consumer, number in run.errors.items():
            self.counts.errors[consumer] += number
        run.errors.clear()
        if name in ("stop", CUT):
            del self._runs[uid]
            self.counts.open_runs = len(self._runs)
            alone = len(self._subscriber.runs) <= 1 and not self._subscriber.waiting
            self.counts.files += len(run.finish(settled=alone))
            self.counts.runs += 1

    def _failed(self, uid: str, task: Task, reason: str) -> None:
        self.counts.refused(task.name, reason)
        self._subscriber.report(uid, task.name, task.policy, reason)
