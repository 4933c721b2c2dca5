"""One JSON line per event on stderr, with nothing a client wrote in it.

Records of other packages keep their message; their exceptions are reduced to a type and
the place that raised it, since the text of an exception may quote what it was given.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

_log = logging.getLogger("adyton")


def where(tb: TracebackType | None) -> str:
    """`file.py:line` of the innermost frame of `tb`."""
    frames = traceback.extract_tb(tb)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        else:
            line |= {"event": record.getMessage(), **fields}
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__name__, "at": where(record.exc_info[2])}
        return json.dumps(line, default=str)


def configure(level: str = "INFO") -> None:
    """Send every record of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _log.setLevel(level)


def event(name: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log that `name` happened. `fields` hold ids, counts and times, never content."""
    if _log.isEnabledFor(level):
        _log.log(level, name, extra={"fields": fields})


def failure(name: str, error: BaseException, **fields: Any) -> None:
    """Log that `error` happened: its type and place, not its text."""
    event(
        name,
        logging.ERROR,
        error=type(error).__name__,
        at=where(error.__traceback__),
        **fields,
    )
