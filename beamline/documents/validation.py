"""event-model's check of events and event pages, fast enough for scans.

bluesky validates every document that it emits, and jsonschema does that value by value: 200 µs per
row of a page with eight data keys, which is 5,000 rows per second, and 600 µs per event, an eighth
of what a fast step scan has for a point. The validators made here accept at once what is plainly
right and leave everything else to jsonschema, so that they find the same errors in every document.
See ``docs/decisions/005-validation-of-events.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["EventValidator", "page_validator", "quick_validation"]

#: JSON type → Python types whose values are all of it. ``bool`` is an ``int`` to Python only.
_PLAIN: Mapping[str, frozenset[type]] = {
    "number": frozenset({int, float}),
    "integer": frozenset({int}),
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
}

_WORDS = frozenset({"title", "description"})
_DEFINITION = "#/$defs/"

_lock = threading.Lock()
_users = 0
_stock: dict[Any, Any] = {}


@contextmanager
def quick_validation() -> Iterator[None]:
    """Let event-model validate events and event pages quickly within the block.

    bluesky offers no way to choose the validators, so two entries of
    ``event_model.schema_validators`` are others meanwhile, for the whole process; the entries that
    were found come back with the end of the last block. Blocks may overlap, also in threads.
    """
    global _users
    import event_model

    validators, names = event_model.schema_validators, event_model.DocumentNames
    with _lock:
        if _users == 0:
            for name, make in ((names.event, EventValidator), (names.event_page, page_validator)):
                _stock[name] = validators[name]
                validators[name] = make(_stock[name])
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                validators.update(_stock)
                _stock.clear()


class EventValidator:
    """A validator of events that finds the errors that another finds, sooner.

    What the schema asks of the parts of an event is read from it once. A schema that asks for more
    than types and names is left to the other validator, as every event that is not plainly right.

    Parameters
    ----------
    stock
        A jsonschema validator, such as those of ``event_model.schema_validators``.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        #: Name of a part → types that it may have, and those of its values if it is a mapping.
        self._parts: dict[str, tuple[frozenset[type], frozenset[type] | None]] = {}
        self._required: set[str] = set()
        try:
            properties, self._required = _properties(stock.schema, stock.schema)
            self._parts = {name: _plain_part(part) for name, part in properties.items()}
        except _UnknownSchemaError:
            self._required = {""}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def validate(self, event: Any) -> None:
        """Check an event.

        Raises
        ------
        jsonschema.ValidationError
            If the schema does not hold for it.
        """
        if not self.is_plain(event):
            self._stock.validate(event)

    def is_plain(self, event: Any) -> bool:
        """Whether an event is plainly right; others may be right, too."""
        if type(event) is not dict or not self._required <= event.keys() <= self._parts.keys():
            return False
        for name, value in event.items():
            types, inner = self._parts[name]
            if type(value) not in types:
                return False
            if inner is not None and not inner.issuperset(map(type, value.values())):
                return False
        return True


class _UnknownSchemaError(Exception):
    """A schema asks for something that this module does not know."""


def _properties(schema: Any, whole: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the parts that a schema names, and those that it requires."""
    known = {"type", "allOf", "$defs", "properties", "required", "unevaluatedProperties"} | _WORDS
    if not set(schema) <= known or schema.get("type") != "object":
        raise _UnknownSchemaError
    properties, required = dict(schema.get("properties", {})), set(schema.get("required", ()))
    for part in schema.get("allOf", ()):
        if set(part) != {"$ref"} or not part["$ref"].startswith(_DEFINITION):
            raise _UnknownSchemaError
        definition = whole["$defs"][part["$ref"].removeprefix(_DEFINITION)]
        more, needed = _properties(definition, whole)
        if more.keys() & properties.keys():
            raise _UnknownSchemaError
        properties |= more
        required |= needed
    return properties, required


def _plain_part(schema: Mapping[str, Any]) -> tuple[frozenset[type], frozenset[type] | None]:
    asked = {key: value for key, value in schema.items() if key not in _WORDS}
    if asked.get("type") != "object":
        return _plain_types(asked), None
    if set(asked) != {"type", "additionalProperties"}:
        raise _UnknownSchemaError
    inner = asked["additionalProperties"]
    return frozenset({dict}), None if inner is True else _plain_types(inner)


def _plain_types(schema: Any) -> frozenset[type]:
    """Types whose values all fulfil a schema."""
    if set(schema) == {"anyOf"}:
        return frozenset().union(*map(_plain_types, schema["anyOf"]))
    if set(schema) != {"type"} or schema["type"] not in _PLAIN:
        raise _UnknownSchemaError
    return _PLAIN[schema["type"]]


def page_validator(stock: Any) -> Any:
    """Make a validator that finds the errors that another finds, sooner.

    Parameters
    ----------
    stock
        A jsonschema validator, such as those of ``event_model.schema_validators``.

    Returns
    -------
    jsonschema.protocols.Validator
        With the same schema.
    """
    import jsonschema

    one_by_one = stock.VALIDATORS["items"]

    def items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not (isinstance(instance, list) and _all_are(wanted, instance)):
            yield from one_by_one(validator, wanted, instance, schema) or ()

    quick = jsonschema.validators.extend(type(stock), {"items": items})
    return quick(schema=stock.schema, format_checker=stock.format_checker)


def _all_are(wanted: Any, values: list[Any]) -> bool:
    """Whether it is plain that a schema holds for each of some values."""
    if wanted == {}:  # the schema that everything fulfils
        return True
    if not isinstance(wanted, Mapping) or set(wanted) != {"type"}:
        return False
    plain = _PLAIN.get(wanted["type"]) if isinstance(wanted["type"], str) else None
    return plain is not None and plain.issuperset(map(type, values))
