"""Echo lines, a thread per connection, until SIGTERM."""

from __future__ import annotations

import meshless_sdk


def echo(connection: meshless_sdk.Connection) -> None:
    with connection.socket.makefile("rwb", buffering=0) as stream:
        for line in stream:
            stream.write(line)


print("cut", meshless_sdk.serve(echo, "http", grace=10))
