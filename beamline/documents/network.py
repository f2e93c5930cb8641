"""Documents over the network: the session's side, and ``python -m`` for the publishing process.

The publishing process follows the journal and serves any number of subscribers
(``beamline callbacks``). What passes between them is described in
`beamline.documents._network_wire`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq

from beamline.core.closing import Closing
from beamline.core.errors import BeamlineError, ProcessError
from beamline.core.processes import Child
from beamline.documents._network_publisher import Publisher
from beamline.documents._network_subscriber import Delivery, DocumentSubscriber, NetworkCounts
from beamline.documents._network_wire import CUT, WireError, checked_address, message, read_message
from beamline.documents.consumers import ConsumerError
from beamline.documents.router import PerRunRouter

__all__ = [
    "CUT",
    "Delivery",
    "DocumentPublisher",
    "DocumentSubscriber",
    "NetworkCounts",
    "Publisher",
    "RemoteConsumerError",
]

_log = logging.getLogger(__name__)

_RESTARTS = 5
_HELLO = 1.0  # seconds


class RemoteConsumerError(BeamlineError, RuntimeError):
    """A consumer in a callback server failed, and its policy is to stop the plan."""


class DocumentPublisher(Closing):
    """The process that publishes a journal, and what its subscribers report back.

    It is a consumer itself: subscribed to the RunEngine behind the journal, it raises at the next
    document of a run when a consumer somewhere has failed whose policy is ``stop``. It costs the
    RunEngine a look at a dictionary per document; nothing is sent from here.

    Parameters
    ----------
    data_dir
        Its ``journal/`` is published; ``logs/publisher.log`` has the messages of the process.
    address
        To listen on: HOST:PORT, tcp://HOST:PORT or ipc:///path; port 0 takes a free one.
    on_pause
        Called, from another thread, with the sentence of a consumer whose policy is ``pause``.

    Attributes
    ----------
    address : str
        Where it listens.

    Raises
    ------
    ConfigurationError
        If the address is none.
    ProcessError
        If the process doesn't start: the address is taken.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        address: str = "tcp://127.0.0.1:0",
        *,
        on_pause: Callable[[str], object] | None = None,
    ) -> None:
        root = Path(data_dir).resolve()
        self._argv = [
            sys.executable,
            "-m",
            "beamline.documents.network",
            str(root / "journal"),
            "--exit-with-parent",
            # A process that is started again goes on with the same session.
            *("--began", repr(time.time())),
        ]
        self._log_file = root / "logs" / "publisher.log"
        self.on_pause = on_pause
        self._child = self._start(checked_address(address))
        self.address = self._child.info["address"]
        self._open: dict[str, str | None] = {}
        self._late: str | None = None
        self._router = PerRunRouter([self._guard])
        self._told: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="publisher", daemon=True)
        self._thread.start()

    def _start(self, address: str) -> Child:
        return Child(
            "the publisher of documents",
            [*self._argv, "--address", address],
            log=self._log_file,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the publishing process, or None."""
        return self._child.pid if self._child.running else None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Raise if this document belongs to a run that a remote consumer wants stopped.

        One that failed when its run had ended stops the next one, as that begins.

        Raises
        ------
        RemoteConsumerError
            Once per failure, with the sentence of that consumer.
        """
        try:
            self._router(name, doc)
        except ConsumerError as error:
            raise error.errors[0][1] from None
        finally:
            if name == "stop":
                self._open.pop(str(doc["run_start"]), None)

    def _guard(self, start: Mapping[str, Any]) -> list[Callable[[str, Mapping[str, Any]], None]]:
        uid = str(start["uid"])
        self._open[uid], self._late = self._late, None

        def check(name: str, doc: Mapping[str, Any]) -> None:  # noqa: ARG001
            reason = self._open[uid]
            if reason is not None:
                self._open[uid] = None
                raise RemoteConsumerError(reason)

        return [check]

    # ---- in the thread

    def _listen(self) -> None:
        """Hear what has failed, and start the process again if it dies."""
        context = zmq.Context()
        socket = self._connect(context)
        restarts = 0
        try:
            while not self._closing.is_set():
                if socket.poll(int(_HELLO * 200)):
                    try:
                        self._hear(socket.recv_multipart())
                    except (WireError, KeyError, TypeError) as error:
                        _log.warning("a message of the publisher is ignored: %r", error)
                if self._child.running or self._closing.is_set():
                    continue
                restarts += 1
                if restarts > _RESTARTS:
                    _log.error(
                        "documents are no longer published, the process ends each time: %s",
                        self._child.last_words(),
                    )
                    return
                _log.warning("the publisher of documents has ended, it is started again")
                with contextlib.suppress(ProcessError):
                    self._child = self._start(self.address)
                    socket.close()
                    socket = self._connect(context)
        finally:
            socket.close()
            context.term()

    def _connect(self, context: zmq.Context[Any]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.connect(self.address)
        socket.send_multipart(message("session", {}))
        return socket

    def _hear(self, frames: list[bytes]) -> None:
        kind, body, _ = read_message(frames)
        if kind != "failed" or body["id"] in self._told:
            return
        self._told[body["id"]] = None
        if len(self._told) > 1000:
            self._told.popitem(last=False)
        run, policy = str(body["run"]), str(body["policy"])
        reason = f"{body['consumer']} in {body['server']}, run {run[:8]}: {body['reason']}"
        if run not in self._open:
            reason += " That run had ended already."
            _log.error("%s", reason)
            if policy == "stop":
                self._late = reason
        elif policy == "stop":
            self._open[run] = reason
        elif policy == "pause" and self.on_pause is not None:
            _log.error("%s; the plan pauses", reason)
            try:
                self.on_pause(reason)
            except Exception as error:  # noqa: BLE001  (a RunEngine that can't pause now)
                _log.error("the plan could not be paused: %s", error)
        else:
            _log.warning("%s; the plan goes on", reason)

    def close(self) -> None:
        """Stop the process, once subscribers have what there is, or 10 s later.

        What is left then they get from the next one.
        """
        self._closing.set()
        self._thread.join(5)
        self._child.stop(timeout=12.0)


def main() -> int:
    """Publish a journal until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog=__name__, description=__doc__)
    parser.add_argument("journal", type=Path, help="directory of journal files")
    parser.add_argument("--address", default="tcp://127.0.0.1:0", help="to listen on")
    parser.add_argument("--batch", type=int, default=64, help="documents in one message at most")
    parser.add_argument("--began", type=float, help="when the session began, seconds since 1970")
    parser.add_argument("--exit-with-parent", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if options.exit_with_parent:
        threading.Thread(target=_follow_parent, args=(stopping,), daemon=True).start()
    try:
        publisher = Publisher(
            options.journal, options.address, batch=options.batch, began=options.began
        )
    except BeamlineError as error:
        _log.error("%s", error)
        return 1
    print(f"READY address={publisher.address} pid={os.getpid()}", flush=True)  # noqa: T201
    try:
        publisher.run(stopping.is_set)
    finally:
        publisher.close()
    return 0


def _follow_parent(stopping: threading.Event) -> None:
    # Not sys.stdin: its lock, held by this thread, would hinder the interpreter's end.
    while os.read(0, 1024):
        pass
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
