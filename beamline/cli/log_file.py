"""The log of a service: on the terminal, and in a file where one is asked for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["log_handlers"]


def log_handlers(file: str | os.PathLike[str] | None) -> list[logging.Handler]:
    """Return handlers for standard error and for a file (setting ``system.log_file``), if any.

    Raises
    ------
    ConfigurationError
        If the file can't be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file is not None:
        from beamline.core.errors import ConfigurationError

        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"the log can't be written to {file}: {error.strerror}; choose another "
                "system.log_file."
            ) from None
    return handlers
