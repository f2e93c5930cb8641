"""What a consumer of documents is, and how one document reaches several of them.

The RunEngine's own dispatcher stops at the first subscriber that raises: those after it never see
that document. `deliver` serves everybody first and then says who failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from beamline.core.errors import BeamlineError

__all__ = ["Consumer", "ConsumerError", "DocumentError", "Fanout", "deliver"]


class Consumer(Protocol):
    """Anything that takes event-model documents: ``consumer(name, doc)``; its result is ignored."""

    def __call__(self, name: str, doc: Mapping[str, Any], /) -> object:
        """Take one document."""
        ...


class DocumentError(BeamlineError, ValueError):
    """A document, or the order of documents, breaks the rules of event-model."""


class ConsumerError(BeamlineError, RuntimeError):
    """One or more consumers raised while they were given a document.

    Attributes
    ----------
    errors : tuple of (Consumer or factory, Exception)
        Who failed and how, in the order of delivery. The first is also ``__cause__``.
    """

    def __init__(self, message: str, errors: Sequence[tuple[object, Exception]]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


def consumer_error(
    errors: Sequence[tuple[object, Exception]], name: str, run: str | None
) -> ConsumerError:
    """Make the one exception that reports `errors` about document `name` of `run`."""
    whom = "; ".join(_describe(who, error) for who, error in errors)
    which = f" of run {run[:8]}" if run else ""
    made = ConsumerError(f"the {name} document{which} was not accepted by {whom}.", errors)
    made.__cause__ = errors[0][1]
    return made


def _describe(who: object, error: Exception) -> str:
    label = getattr(who, "__qualname__", None) or type(who).__name__
    if isinstance(error, ConsumerError):
        return "; ".join(f"{label} → {_describe(*inner)}" for inner in error.errors)
    said = str(error).rstrip(".") or "no message"
    # Errors of this project are sentences; of others the kind says half of what happened.
    return (
        f"{label} ({said})"
        if isinstance(error, BeamlineError)
        else (f"{label} ({type(error).__name__}: {said})")
    )


def deliver(
    consumers: Iterable[Consumer], name: str, doc: Mapping[str, Any], run: str | None = None
) -> None:
    """Give one document to every consumer, then raise if any of them failed.

    Parameters
    ----------
    consumers
        Served in this order.
    name, doc
        The document.
    run
        Uid of the run, for the message.

    Raises
    ------
    ConsumerError
        After all were served.
    """
    errors: list[tuple[object, Exception]] | None = None
    for consumer in consumers:
        try:
            consumer(name, doc)
        except Exception as error:  # noqa: BLE001  (reported below, once everybody was served)
            if errors is None:
                errors = []
            errors.append((consumer, error))
    if errors is not None:
        raise consumer_error(errors, name, run)


class Fanout:
    """Several consumers as one: each gets every document, whichever of the others raises.

    Parameters
    ----------
    *consumers
        Served in this order: put the journal first.
    """

    def __init__(self, *consumers: Consumer) -> None:
        self.consumers: list[Consumer] = list(consumers)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Deliver one document; raises `ConsumerError` after all were served."""
        deliver(self.consumers, name, doc, doc["uid"] if name == "start" else doc.get("run_start"))
