"""Stand-ins for what surrounds a record: the link on one side, a client on the other."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from beamline.core.errors import ConnectionLostError, DeviceServerError
from ioc.channel import Field


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


class ScriptedLink:
    """A link whose answers the test gives, in order."""

    host, port = "127.0.0.1", 1

    def __init__(self) -> None:
        self.connected = True
        self.sent: list[str] = []
        self._handlers: list[Callable[[Any], None]] = []

    def send(self, line: str, on_answer: Callable[[Any], None]) -> None:
        self.sent.append(line)
        self._handlers.append(on_answer)

    def request(self, line: str) -> "asyncio.Future[str]":
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.send(
            line,
            lambda answer: (
                future.set_result(answer)
                if isinstance(answer, str)
                else future.set_exception(answer)
            ),
        )
        return future

    def ok(self, data: str = "MOVING") -> None:
        self._handlers.pop(0)(data)

    def refuse(self, code: str) -> None:
        self._handlers.pop(0)(DeviceServerError(code))

    def lose(self) -> None:
        self.connected = False
        handlers, self._handlers = self._handlers, []
        for handler in handlers:
            handler(ConnectionLostError("gone"))


class _Spec(NamedTuple):
    mask: int
    data_type_name: str


class Watcher:
    """A client that monitors fields: everything it is sent, in order."""

    def __init__(self, fields: dict[str, Field]) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._fields = {id(field): (name, field) for name, field in fields.items()}
        for name, field in fields.items():
            field._subscribers[_Spec(1, name)] = _Into(self, name, field)

    def of(self, name: str) -> list[Any]:
        return [value for seen, value in self.seen if seen == name]


class _Into:
    def __init__(self, watcher: Watcher, name: str, field: Field) -> None:
        self._note = lambda: watcher.seen.append((name, field.current))

    def deliver(self, spec: Any, field: Field, flags: int, only: Any = None) -> None:
        self._note()
