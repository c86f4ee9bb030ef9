"""Logging of the command line: renders what the libraries log through the standard library.

Configured here and nowhere else: libraries only call `logging.getLogger(__name__)`. Goes to standard error, because standard
output belongs to a command's result.

For people structlog renders. For machines we do: one object per line is a few lines of code, while structlog and rich, which it
imports if it is installed, would take 7 MB of every agent (docs/adr/0065).
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import IO, Any, Final, Literal

__all__ = ["configure_logging", "label_records"]


_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""Attributes every record has (`taskName` since Python 3.12); all others were given as `extra`."""


class _Handler(logging.StreamHandler[IO[str]]):
    """Makes its formatter when the first record is written: most commands (`connect`, `validate`) never write one."""

    def __init__(self, stream: IO[str], *, pretty: bool) -> None:
        super().__init__(stream)
        self._pretty = pretty

    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            self.formatter = _pretty_formatter(colors=self.stream.isatty()) if self._pretty else _JsonFormatter()
        return super().format(record)


class _JsonFormatter(logging.Formatter):
    """One JSON object per record; keys as structlog names them."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"event": record.getMessage()}
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        line["level"] = record.levelname.lower()
        line["logger"] = record.name
        line["timestamp"] = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat().replace("+00:00", "Z")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)


def _pretty_formatter(*, colors: bool) -> logging.Formatter:
    import structlog  # late on purpose: see the module docstring

    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=False),
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ],
    )


def configure_logging(
    *, level: str = "info", form: Literal["auto", "pretty", "json"] | str = "auto", stream: IO[str] | None = None
) -> None:
    """Send the process's log records to `stream`; calling it again replaces the earlier configuration.

    Args:
        level: least severity: debug, info, warning or error.
        form: `pretty` for people, `json` for machines (one object per line), `auto` = pretty on a terminal, json otherwise.
        stream: where to write; standard error when None.
    """
    target = stream if stream is not None else sys.stderr
    handler = _Handler(target, pretty=form == "pretty" or (form == "auto" and target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]  # not basicConfig: it would give the handler a formatter of its own
    root.setLevel(level.upper())
    # it notes every change of any file beside the ones it follows: a log written there would feed itself for ever
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def label_records(**fields: object) -> None:
    """Add fields to every record this process writes from now on, such as the number of a worker.

    Args:
        fields: name and value; a value the record's own `extra` has counts more.
    """

    def label(record: logging.LogRecord) -> bool:
        for name, value in fields.items():
            vars(record).setdefault(name, value)
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(label)
