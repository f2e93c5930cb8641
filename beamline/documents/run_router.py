"""Use of factories that were written for `event_model.RunRouter` with our router."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from beamline.documents.consumers import Consumer, deliver
from beamline.documents.router import ConsumerFactory

__all__ = ["from_run_router_factory"]

_SubFactory = Callable[[str, Mapping[str, Any]], Iterable[Consumer]]
_RunRouterFactory = Callable[
    [str, Mapping[str, Any]], tuple[Iterable[Consumer], Iterable[_SubFactory]]
]


def from_run_router_factory(factory: _RunRouterFactory) -> ConsumerFactory:
    """Adapt ``factory('start', doc) -> (callbacks, subfactories)`` to `PerRunRouter`.

    A subfactory is called with each descriptor; its callbacks get the start document, that
    descriptor, its events and the stop document. ``RunRouter`` hands out pages only, so a callback
    that is a plain function is given single events and datums as pages of one row, as it expects;
    one with methods ``event`` and ``event_page`` (every ``DocumentRouter``) takes them as they are.
    """

    def adapted(start: Mapping[str, Any]) -> list[Consumer]:
        callbacks, subfactories = factory("start", start)
        consumers = [_paged(callback) for callback in callbacks]
        subfactories = list(subfactories)
        if subfactories:
            consumers.append(_PerDescriptor(subfactories))
        return consumers

    return adapted


class _PerDescriptor:
    """The consumers that the subfactories of one run have made."""

    def __init__(self, subfactories: list[_SubFactory]) -> None:
        self._subfactories = subfactories
        self._start: Mapping[str, Any] = {}
        self._by_descriptor: dict[str, list[Consumer]] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            self._start = doc
        elif name == "descriptor":
            made = [
                _paged(callback)
                for subfactory in self._subfactories
                for callback in subfactory(name, doc)
            ]
            self._by_descriptor[doc["uid"]] = made
            deliver(made, "start", self._start, self._start["uid"])
            deliver(made, name, doc, self._start["uid"])
        elif name in ("event", "event_page"):
            deliver(self._by_descriptor[doc["descriptor"]], name, doc, self._start["uid"])
        else:
            everyone = [c for consumers in self._by_descriptor.values() for c in consumers]
            deliver(everyone, name, doc, self._start["uid"])


def _paged(callback: Consumer) -> Consumer:
    if hasattr(callback, "event") and hasattr(callback, "event_page"):
        return callback
    from event_model import pack_datum_page, pack_event_page

    def with_pages(name: str, doc: Mapping[str, Any]) -> None:
        if name == "event":
            callback("event_page", pack_event_page(doc))
        elif name == "datum":
            callback("datum_page", pack_datum_page(doc))
        else:
            callback(name, doc)

    with_pages.__qualname__ = getattr(callback, "__qualname__", type(callback).__name__)
    return with_pages
