"""Asks an agent's admin endpoint: one GET per connection."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import h11

from meshless_core.cli.exit_codes import CommandError, ExitCode

__all__ = ["AdminClient", "AgentUnreachableError"]

_SECONDS: Final = 5.0
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024


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
                return await self._exchange(target)
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

    async def _exchange(self, target: str) -> tuple[int, bytes]:
        if self.address.startswith("unix:"):
            path = Path(self.address.removeprefix("unix:"))
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
        else:
            host, _, port = self.address.removeprefix("tcp:").rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            connection = h11.Connection(h11.CLIENT)
            request = h11.Request(method="GET", target=target, headers=[("Host", "agent"), ("Connection", "close")])
            writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            status, body = 0, bytearray()
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise ValueError("answer too large")
            return status, bytes(body)
        finally:
            writer.close()
