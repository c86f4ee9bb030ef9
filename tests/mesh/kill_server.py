"""A server to be killed: echoes at the socket it is given, whose old file it replaces. Run as a program of its own.

With a second argument `deaf` it reads nothing and never closes.
"""

from __future__ import annotations

import asyncio
import os
import sys


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport can
    await asyncio.Event().wait()


async def main() -> None:
    path = sys.argv[1]
    if os.path.exists(path):
        os.unlink(path)
    server = await asyncio.start_unix_server(ignore if sys.argv[2:] == ["deaf"] else echo, path)
    os.chmod(path, 0o666)
    print("there", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
