"""Asks an agent's admin endpoint: one GET per connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import urlencode

import h11

from meshless_core.agent.admin_request import admin_get
from meshless_core.cli.exit_codes import CommandError, ExitCode

__all__ = ["AdminClient", "AgentUnreachableError"]

_SECONDS: Final = 5.0


class AgentUnreachableError(CommandError):
    """No agent answers at the admin address."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNREACHABLE)


class AdminClient:
    """A client of one agent.

    Args:
        address: `unix:<path>` or `tcp:<host>:<port>`.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    async def get(self, path: str, **query: str) -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            AgentUnreachableError: nobody answers, or not in time, or not in HTTP.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            async with asyncio.timeout(_SECONDS):
                return await admin_get(self.address, target)
        except (OSError, TimeoutError, h11.ProtocolError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise AgentUnreachableError(f"no agent answers at {self.address}: {why}; is it running") from error

    async def get_json(self, path: str, **query: str) -> Any:
        """The JSON body of a GET that succeeded.

        Raises:
            AgentUnreachableError: as `get`, or the answer is no JSON.
            CommandError: the agent answered that it cannot; with its reason.
        """
        status, body = await self.get(path, **query)
        if status != 200:
            raise CommandError(body.decode(errors="replace").strip())
        return self.parse(body, path)

    def parse(self, body: bytes, path: str) -> Any:
        """The JSON value of a body that came from `path`.

        Raises:
            AgentUnreachableError: it is none.
        """
        try:
            return json.loads(body)
        except ValueError as error:
            raise AgentUnreachableError(f"what answers at {self.address} is no agent: {path} is not JSON") from error
