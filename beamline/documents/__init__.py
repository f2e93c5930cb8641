"""event-model documents between producers and consumers: routing, journal, replay.

Replaying is in `beamline.documents.replay`.
"""

from beamline.documents.consumers import (
    Consumer,
    ConsumerError,
    DocumentError,
    Fanout,
    deliver,
)
from beamline.documents.journal import (
    Journal,
    JournalError,
    JournalWriter,
    RunSummary,
    read_journal,
)
from beamline.documents.router import ConsumerFactory, PerRunRouter
from beamline.documents.run_router import from_run_router_factory

__all__ = [
    "Consumer",
    "ConsumerError",
    "ConsumerFactory",
    "DocumentError",
    "Fanout",
    "Journal",
    "JournalError",
    "JournalWriter",
    "PerRunRouter",
    "RunSummary",
    "deliver",
    "from_run_router_factory",
    "read_journal",
]
