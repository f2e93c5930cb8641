"""Routing of documents to consumers that are made afresh for every run.

.. mermaid::

    flowchart LR
        documents["documents of any runs, interleaved"] --> router[PerRunRouter]
        router -- start --> factories
        factories --> a["consumers of run A"]
        factories --> b["consumers of run B"]
        router -- descriptors, events, pages, datums, stop --> a & b

Documents pass through as they come: pages stay pages, events stay events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from beamline.core.errors import MissingError
from beamline.documents.consumers import (
    Consumer,
    ConsumerError,
    DocumentError,
    consumer_error,
    deliver,
)

__all__ = ["ConsumerFactory", "PerRunRouter"]

_log = logging.getLogger(__name__)

#: Called with a start document; returns the consumers of that run (none: not interested).
ConsumerFactory = Callable[[Mapping[str, Any]], Iterable[Consumer]]


class _Run:
    """Consumers of one run, and the keys by which its documents refer to it."""

    __slots__ = ("consumers", "descriptors", "resources", "uid")

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.consumers: list[Consumer] = []
        self.descriptors: list[str] = []
        self.resources: list[str] = []


class PerRunRouter:
    """Give the documents of each run to consumers that belong to that run alone.

    Any number of runs may be open at once and interleaved. All state of a run is dropped at its
    stop document.

    When a consumer (or a factory) raises, the other consumers of the document are served first;
    then one `ConsumerError` that names consumer and run goes to the caller, which under the
    RunEngine aborts that run. The consumer that failed stays subscribed, so that it gets the stop
    document and can close its file; other runs are not affected.

    A run whose start document was not seen (subscribed in mid-run) has no consumers here: it is
    ignored, with one warning in the log.

    Parameters
    ----------
    factories
        Called in this order with each start document.
    """

    def __init__(self, factories: Iterable[ConsumerFactory]) -> None:
        self.factories: list[ConsumerFactory] = list(factories)
        self._runs: dict[str, _Run] = {}
        self._by_descriptor: dict[str, _Run] = {}
        # A resource without run_start (written before 2020) may belong to any run that is open.
        self._by_resource: dict[str, list[_Run]] = {}
        self._unseen: dict[str, _Run] = {}
        self._routes: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
            "start": self._start,
            "descriptor": self._descriptor,
            "event": self._event,
            "event_page": self._event,
            "resource": self._resource,
            "stream_resource": self._resource,
            "datum": self._datum,
            "datum_page": self._datum,
            "stream_datum": self._stream_datum,
            "stop": self._stop,
        }

    @property
    def open_runs(self) -> tuple[str, ...]:
        """Uids of the runs that have started and not stopped."""
        return tuple(self._runs)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Route one document.

        Raises
        ------
        ConsumerError
            If consumers or factories raised, after all were served.
        MissingError
            For a document that refers to a descriptor or resource that was never received.
        DocumentError
            For a second start of an open run, a kind of document that there is not, or one
            without the keys that say where it belongs.
        """
        try:
            route = self._routes[name]
        except KeyError:
            raise DocumentError(
                f"a document of kind {name!r} arrived; expected one of {', '.join(self._routes)}."
            ) from None
        try:
            route(name, doc)
        except MissingError:
            raise
        except KeyError as error:  # what consumers raise has become a ConsumerError
            raise DocumentError(f"a {name} document has no key {error}.") from None

    def _start(self, name: str, doc: Mapping[str, Any]) -> None:
        uid = doc["uid"]
        if uid in self._runs:
            raise DocumentError(f"run {uid} has started twice; its first start still holds.")
        run = self._runs[uid] = _Run(uid)
        failed: list[tuple[object, Exception]] = []
        for factory in self.factories:
            try:
                made = list(factory(doc))
            except Exception as error:  # noqa: BLE001  (raised below)
                failed.append((factory, error))
            else:
                run.consumers.extend(made)
        try:
            deliver(run.consumers, name, doc, uid)
        except ConsumerError as error:
            failed.extend(error.errors)
        if failed:
            raise consumer_error(failed, name, uid)

    def _descriptor(self, name: str, doc: Mapping[str, Any]) -> None:
        run = self._runs.get(doc["run_start"]) or self._ignore(doc["run_start"])
        self._by_descriptor[doc["uid"]] = run
        run.descriptors.append(doc["uid"])
        deliver(run.consumers, name, doc, run.uid)

    def _event(self, name: str, doc: Mapping[str, Any]) -> None:
        run = self._by_descriptor.get(doc["descriptor"])
        if run is None:
            run = self._orphan(name, "descriptor", doc["descriptor"])
        deliver(run.consumers, name, doc, run.uid)

    def _resource(self, name: str, doc: Mapping[str, Any]) -> None:
        uid = doc.get("run_start")
        if uid is None:
            runs = list(self._runs.values())
        else:
            runs = [self._runs.get(uid) or self._ignore(uid)]
        self._by_resource[doc["uid"]] = runs
        for run in runs:
            run.resources.append(doc["uid"])
        self._to_all(runs, name, doc)

    def _datum(self, name: str, doc: Mapping[str, Any]) -> None:
        runs = self._by_resource.get(doc["resource"])
        if runs is None:
            runs = [self._orphan(name, "resource", doc["resource"])]
        self._to_all(runs, name, doc)

    def _stream_datum(self, name: str, doc: Mapping[str, Any]) -> None:
        # The descriptor comes first: of several runs that share a resource it names the one meant.
        run = self._by_descriptor.get(doc["descriptor"])
        runs = self._by_resource.get(doc["stream_resource"]) if run is None else [run]
        if runs is None:
            runs = [self._orphan(name, "stream_resource", doc["stream_resource"])]
        self._to_all(runs, name, doc)

    def _stop(self, name: str, doc: Mapping[str, Any]) -> None:
        uid = doc["run_start"]
        run = self._runs.pop(uid, None)
        if run is None:
            run = self._unseen.pop(uid, None)
            self._unseen.pop("", None)
            if run is None:
                return
        for key in run.descriptors:
            self._by_descriptor.pop(key, None)
        for key in run.resources:
            left = [other for other in self._by_resource.get(key, ()) if other is not run]
            if left:
                self._by_resource[key] = left
            else:
                self._by_resource.pop(key, None)
        deliver(run.consumers, name, doc, uid)

    def _to_all(self, runs: list[_Run], name: str, doc: Mapping[str, Any]) -> None:
        failed: list[tuple[object, Exception]] = []
        for run in runs:
            try:
                deliver(run.consumers, name, doc, run.uid)
            except ConsumerError as error:
                failed.extend(error.errors)
        if failed:
            raise consumer_error(failed, name, runs[0].uid if len(runs) == 1 else None)

    def _ignore(self, uid: str) -> _Run:
        run = self._unseen.get(uid)
        if run is None:
            _log.warning("run %s is ignored: its start document was not seen here", uid)
            run = self._unseen[uid] = _Run(uid)
        return run

    def _orphan(self, name: str, kind: str, key: str) -> _Run:
        if self._runs:
            open_runs = ", ".join(uid[:8] for uid in self._runs)
            raise MissingError(
                f"{name} refers to {kind} {key}, which was never received (open runs: {open_runs})."
            )
        # Nobody here follows a run, so nobody can miss this document.
        run = self._unseen.get("")
        if run is None:
            _log.warning("documents are ignored until the next start: no run is open here")
            run = self._unseen[""] = _Run("")
        return run
