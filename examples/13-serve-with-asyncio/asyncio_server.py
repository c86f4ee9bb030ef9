"""Echo lines with asyncio, until SIGTERM."""

from __future__ import annotations

import asyncio

import meshless_sdk


async def echo(connection: meshless_sdk.StreamConnection) -> None:
    async for line in connection.reader:
        connection.writer.write(line)
        await connection.writer.drain()


async def main() -> None:
    server = await meshless_sdk.start_server(echo, "http")
    print("cut", await server.serve_forever(grace=10))


asyncio.run(main())
