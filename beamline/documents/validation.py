"""event-model's check of event pages, fast enough for hardware-timed scans.

bluesky validates every page that it emits, and jsonschema does that value by value: 200 µs per row
with eight data keys, which is 5,000 rows per second. The validator made here looks at a list of
plain values as a whole and leaves everything else to jsonschema, so that it finds the same errors
in every document. See ``docs/decisions/005-validation-of-event-pages.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["page_validator", "quick_page_validation"]

#: JSON type → Python types whose values are all of it. ``bool`` is an ``int`` to Python only.
_PLAIN: Mapping[str, frozenset[type]] = {
    "number": frozenset({int, float}),
    "integer": frozenset({int}),
    "string": frozenset({str}),
}

_lock = threading.Lock()
_users = 0
_stock: Any = None


@contextmanager
def quick_page_validation() -> Iterator[None]:
    """Let event-model validate event pages list by list within the block.

    bluesky offers no way to choose the validator, so the entry for event pages in
    ``event_model.schema_validators`` is another one meanwhile, for the whole process; the entry
    that was found comes back with the end of the last block. Blocks may overlap, also in threads.
    """
    global _users, _stock
    import event_model

    validators, name = event_model.schema_validators, event_model.DocumentNames.event_page
    with _lock:
        if _users == 0:
            _stock = validators[name]
            validators[name] = page_validator(_stock)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                validators[name], _stock = _stock, None


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
