"""Logging of the command line: structlog renders what the libraries log through the standard library.

Configured here and nowhere else: libraries only call `logging.getLogger(__name__)`. Goes to standard error, because standard
output belongs to a command's result. structlog itself is imported when the first record is written, since most commands
(`connect`, `validate`) never write one.
"""

from __future__ import annotations

import logging
import sys
from typing import IO, Literal

__all__ = ["configure_logging"]


class _StructuredHandler(logging.StreamHandler[IO[str]]):
    """Writes records through structlog's formatter, made on first use."""

    def __init__(self, stream: IO[str], *, pretty: bool) -> None:
        super().__init__(stream)
        self._pretty = pretty

    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            self.formatter = _structlog_formatter(pretty=self._pretty, colors=self.stream.isatty())
        return super().format(record)


def _structlog_formatter(*, pretty: bool, colors: bool) -> logging.Formatter:
    import structlog  # late on purpose: see the module docstring

    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=not pretty),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
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
    handler = _StructuredHandler(target, pretty=form == "pretty" or (form == "auto" and target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]  # not basicConfig: it would give the handler a formatter of its own
    root.setLevel(level.upper())
    # it notes every change of any file beside the ones it follows: a log written there would feed itself for ever
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
