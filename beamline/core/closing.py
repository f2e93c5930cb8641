"""Objects that are closed at the end of a ``with`` block."""

from __future__ import annotations

from typing import Self

__all__ = ["Closing"]


class Closing:
    """Base of classes with a method ``close``: ``with`` calls it, whatever happens in the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back that is held."""
        raise NotImplementedError
