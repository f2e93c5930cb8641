"""A working Bluesky session: RunEngine, journal, catalogue, writers, devices; one call each.

In a notebook::

    from beamline.session import simulated_beamline
    session = simulated_beamline()
    RE, bl = session.RE, session.beamline
    RE(session.plans.linear_scan([bl.counters], bl.sample.x, -1000, 1000, 41))
    session.catalog[-1].primary.read()

At a real beamline `connect_beamline` does the same with the PVs of `Settings.prefix`. Nothing
happens at import.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from beamline import __version__
from beamline.core.closing import Closing
from beamline.core.config import Settings, load_settings
from beamline.core.shadowing import check_packages
from beamline.store import DataStore

if TYPE_CHECKING:
    from bluesky import RunEngine

    from beamline.documents import Consumer
    from beamline.documents.network import DocumentPublisher
    from beamline.simulation import Simulation
    from devices import Beamline

__all__ = [
    "Session",
    "connect_beamline",
    "make_run_engine",
    "open_session",
    "pause",
    "simulated_beamline",
]


def make_run_engine(
    store: DataStore | str | os.PathLike[str] = "beamline-data",
    *,
    live_table: bool = True,
    plots: bool = False,
    progress: bool = True,
    consumers: Iterable[Consumer] = (),
    **metadata: Any,
) -> RunEngine:
    """Make a RunEngine that records everything.

    Parameters
    ----------
    store
        Where to record, or the directory for it.
    live_table
        Print a table of each run (bluesky's BestEffortCallback), with some rows of a fly scan.
    plots
        Let that callback draw as well (each update takes tens of milliseconds).
    progress
        Show progress bars while the RunEngine waits.
    consumers
        Further document consumers; they come after the journal and the writers.
    **metadata
        Added to the persistent metadata.

    Raises
    ------
    ConfigurationError
        If the directory can't be written to.
    """
    from bluesky import RunEngine
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky.utils import ProgressBarManager

    from beamline.documents import Fanout
    from callbacks.thinning import ThinnedPages

    if not isinstance(store, DataStore):
        store = DataStore(store)
    run_engine = RunEngine(store.metadata)
    run_engine.preprocessors.append(partial(_say_why, run_engine))
    run_engine.md["versions"] = {
        "beamline-dataflow": __version__,
        **{name: importlib.metadata.version(name) for name in ("bluesky", "ophyd", "event-model")},
    }
    for key, value in metadata.items():
        run_engine.md[key] = value
    # The journal comes first: what it has, every file can be made from again. All are behind one
    # subscription, because bluesky serves nobody after a subscriber that raises.
    run_engine.subscribe(Fanout(*store.consumers, *consumers))
    if live_table or plots:
        table = BestEffortCallback()
        if not plots:
            table.disable_plots()
        if not live_table:
            table.disable_table()
        run_engine.subscribe(ThinnedPages(table))
    if progress:
        run_engine.waiting_hook = ProgressBarManager()
    return run_engine


def _say_why(run_engine: RunEngine, plan: Any) -> Any:
    """Put the reason of an abort into the stop document, where bluesky leaves it empty."""
    from bluesky.preprocessors import plan_mutator

    def with_reason(message: Any) -> tuple[Any, None]:
        kwargs = message.kwargs
        if message.command != "close_run" or kwargs.get("exit_status") in (None, "success"):
            return None, None
        if kwargs.get("reason"):
            return None, None
        # The RunEngine keeps the argument of RE.abort(reason) and has no public name for it.
        why = run_engine._reason or f"the user asked the RunEngine to {kwargs['exit_status']}"  # noqa: SLF001

        def replaced() -> Any:
            return (yield message._replace(kwargs={**kwargs, "reason": why}))

        return replaced(), None

    return (yield from plan_mutator(plan, with_reason))


class Session(Closing):
    """RunEngine, devices, plans and data of one beamline, in one object.

    Attributes
    ----------
    RE : bluesky.RunEngine
    beamline : devices.Beamline
    plans : module
        `beamline.plans`.
    store : DataStore
    settings : Settings
    simulation : Simulation or None
        The processes, where the beamline is simulated.
    publisher : DocumentPublisher or None
        The process that publishes documents, where `Settings.callbacks_address` asks for it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        simulation: Simulation | None = None,
        **options: Any,
    ) -> None:
        check_packages()
        self.settings = settings
        self.simulation = simulation
        with contextlib.ExitStack() as undo:
            if simulation is not None:
                undo.callback(simulation.stop)
            self.store = DataStore(
                settings.data_dir, writers=settings.writers, catalog_uri=settings.catalog_uri
            )
            undo.callback(self.store.close)
            from devices import Beamline

            self.beamline: Beamline = Beamline(
                settings.prefix, name="beamline", frames_dir=self.store.frames
            )
            undo.callback(self.beamline.destroy)
            self.beamline.connect(timeout=settings.connection_timeout)
            self.publisher = _publisher(settings)
            consumers = list(options.pop("consumers", ()))
            if self.publisher is not None:
                undo.callback(self.publisher.close)
                consumers.append(self.publisher)
            self.RE = make_run_engine(
                self.store,
                beamline_id=settings.beamline_id,
                facility=settings.facility,
                consumers=consumers,
                **options,
            )
            from beamline.plans.metadata import complete_metadata

            self.RE.md_normalizer = partial(complete_metadata, self.beamline)
            if self.publisher is not None:
                self.publisher.on_pause = partial(pause, self.RE)
            if simulation is not None:
                self.RE.md["simulated"] = True
            else:
                self.RE.md.pop("simulated", None)
            undo.pop_all()
        # A session that is forgotten, or an interpreter that ends, leaves no process behind.
        self._finalizer = weakref.finalize(
            self, _close, self.store, self.beamline, simulation, self.publisher
        )

    @property
    def plans(self) -> ModuleType:
        """The plans of this project (`beamline.plans`)."""
        import beamline.plans

        return beamline.plans

    @property
    def catalog(self) -> Any:
        """The databroker catalogue; ``catalog[-1]`` is the latest run."""
        return self.store.catalog

    def namespace(self) -> dict[str, Any]:
        """Names for an interactive session: ``RE``, ``bl``, the devices and the plans."""
        names: dict[str, Any] = {"session": self, "RE": self.RE, "bl": self.beamline}
        for attribute in self.beamline.component_names:
            names[attribute] = getattr(self.beamline, attribute)
        names.update({plan: getattr(self.plans, plan) for plan in self.plans.__all__})
        return names

    def close(self) -> None:
        """Stop every process of the session."""
        self._finalizer()


def _publisher(settings: Settings) -> DocumentPublisher | None:
    if settings.callbacks_address is None:
        return None
    from beamline.documents.network import DocumentPublisher

    return DocumentPublisher(settings.data_dir, settings.callbacks_address)


def pause(run_engine: RunEngine, reason: str) -> None:
    """Let a plan pause at its next checkpoint, and say why; for any thread but the plan's."""
    run_engine.request_pause(defer=True)
    print(f"The plan pauses: {reason} RE.resume() goes on, RE.abort() ends it.")  # noqa: T201


def _close(
    store: DataStore,
    beamline: Beamline,
    simulation: Simulation | None,
    publisher: DocumentPublisher | None,
) -> None:
    store.close()
    if publisher is not None:
        # After the journal is complete, so that callback servers get all of it.
        publisher.close()
    # Before the IOC goes: the Channel Access library complains about circuits that break.
    beamline.destroy()
    if simulation is not None:
        simulation.stop()


def simulated_beamline(
    settings: Settings | None = None, *, live_table: bool = True, **options: Any
) -> Session:
    """Start a simulated beamline on free loopback ports and connect to it.

    Parameters
    ----------
    settings
        Samples, seed, time scale, prefix and data directory; those of the environment by default.
    live_table, **options
        Passed to `make_run_engine`.

    Raises
    ------
    ConfigurationError, ProcessError, ConnectionLostError
        If a part doesn't start; those that did are stopped.
    """
    from beamline.simulation import Simulation, apply_client_environment

    chosen = settings if settings is not None else load_settings()
    chosen = chosen.model_copy(update={"device_port": 0, "ioc_port": 0})
    running = Simulation(chosen, Path(chosen.data_dir) / "simulation")
    try:
        apply_client_environment(running.environment)
    except BaseException:
        running.stop()
        raise
    return Session(chosen, simulation=running, live_table=live_table, **options)


def connect_beamline(settings: Settings | None = None, **options: Any) -> Session:
    """Connect to a beamline whose IOC runs already.

    The ``EPICS_CA_*`` variables say where; without them it is looked for on this machine at
    `Settings.ioc_port`.
    """
    from beamline.core.epics import client_environment
    from beamline.simulation import apply_client_environment

    chosen = settings if settings is not None else load_settings()
    if not any(name.startswith("EPICS_CA_") for name in os.environ):
        apply_client_environment(client_environment(chosen.ioc_port))
    return Session(chosen, **options)


def open_session(settings: Settings | None = None, **options: Any) -> Session:
    """Open a session as `Settings.simulate` says: simulated, or at a running IOC."""
    chosen = settings if settings is not None else load_settings()
    start = simulated_beamline if chosen.simulate else connect_beamline
    return start(chosen, **options)
