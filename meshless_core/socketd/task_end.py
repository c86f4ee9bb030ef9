"""Ends a background task and waits for it, for whoever started it."""

from __future__ import annotations

import asyncio
import logging

__all__ = ["end_task"]

logger = logging.getLogger(__name__)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel `task` and return when it is over; what it raised is logged.

    Not `await task` with its `CancelledError` suppressed: that swallows the caller's own cancellation too, so a caller that is
    to stop goes on, and it passes a bug of the task on to a caller that has more to release.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed", task.get_name(), exc_info=error)
