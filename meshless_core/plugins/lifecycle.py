"""Starts plugins in the order of the configuration and stops them in reverse.

The promise to plugins: `stop()` is called once for every object whose `start()` was called, also if that start failed half-way
or was cancelled. The promise to the process: no plugin can hold up the end of it, and one that fails to stop does not keep the
others from stopping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

from meshless_core.errors import PluginError
from meshless_core.plugins.loaded import LoadedPlugins, Registration

__all__ = ["START_TIMEOUT", "PluginLifecycle"]

logger = logging.getLogger(__name__)

START_TIMEOUT: Final = 30.0
"""Seconds one plugin may take to start."""


class _TookTooLongError(Exception):
    """Our time limit, not a `TimeoutError` of the plugin's own."""


class PluginLifecycle:
    """Async context manager around the objects a `LoadedPlugins` has created.

    Args:
        plugins: create what is needed first; what is created after `start` is not started.
        start_timeout: seconds one plugin may take to start.
        stop_timeout: seconds one plugin may take to stop.
    """

    def __init__(self, plugins: LoadedPlugins, *, start_timeout: float = START_TIMEOUT, stop_timeout: float = 5.0) -> None:
        self._plugins = plugins
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._started: list[tuple[Registration, Any]] = []

    async def start(self) -> None:
        """Start everything; if one fails, everything started is stopped again, the failing one first.

        Raises:
            PluginError: one failed or took too long, chained to what it raised.
        """
        for registration, instance in self._plugins.instances():
            self._started.append((registration, instance))
            try:
                await _call(instance, "start", self._start_timeout)
            except Exception as error:  # plugin boundary: reported with the plugin's name, chained
                await self.stop()
                why = f"took longer than {self._start_timeout:g} s" if isinstance(error, _TookTooLongError) else _told(error)
                raise PluginError(
                    [registration.problem(f"start failed: {why}; check its options, or report it to its authors")]
                ) from error
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Stop what was started, last first. Failures are logged; being cancelled does not keep the rest from stopping."""
        cancelled: BaseException | None = None
        while self._started:
            registration, instance = self._started.pop()
            try:
                await _call(instance, "stop", self._stop_timeout)
            except _TookTooLongError:
                logger.error(
                    "plugin %s of %s took longer than %g s to stop", registration.name, registration.owner, self._stop_timeout
                )
            except Exception:
                logger.exception("plugin %s of %s failed to stop", registration.name, registration.owner)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> PluginLifecycle:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _call(instance: Any, name: str, timeout: float) -> None:
    """Await an optional method; a plain function that returns nothing will do."""
    method: Callable[[], Awaitable[None] | None] | None = getattr(instance, name, None)
    if method is None:
        return
    try:
        async with asyncio.timeout(timeout) as limit:
            waiting = method()
            if waiting is not None:
                await waiting
    except TimeoutError as error:
        if limit.expired():
            raise _TookTooLongError from error
        raise


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
