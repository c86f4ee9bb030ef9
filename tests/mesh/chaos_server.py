"""The server of the storm, run as a pod's process: `python -m tests.mesh.chaos_server SERVICE...`.

It verifies everything it gets and writes one line per event into `$CHAOS_LOG/<pid>.jsonl`, so that what it saw outlives it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import meshless_sdk

from tests.mesh.exchange import (
    GREETING,
    HEADER,
    MAGIC,
    SECONDS,
    Order,
    ShortError,
    StuckError,
    WrongBytesError,
    receive,
    receive_end,
    receive_exactly,
    send,
)

POD = os.environ["POD_NAME"]
PID = os.getpid()
LOG = os.open(os.path.join(os.environ["CHAOS_LOG"], f"{PID}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def tell(event: str, **what: Any) -> None:
    """One line, with one system call: nothing is half-written when we die."""
    os.write(LOG, json.dumps({"event": event, "pod": POD, "pid": PID, "at": time.monotonic(), **what}).encode() + b"\n")


def serve(connection: socket.socket, key: int) -> None:
    """One connection; tells how it ended."""
    began = time.monotonic()
    number: int | None = None
    received = False
    ended = "ok"
    try:
        with connection:
            connection.settimeout(SECONDS)
            connection.sendall(GREETING.pack(POD.encode(), PID))
            magic, number, up, down, order = HEADER.unpack(receive_exactly(connection, HEADER.size))
            if magic != MAGIC:
                raise WrongBytesError(f"the header begins with {magic!r}")
            match Order(order):
                case Order.ACKNOWLEDGED:
                    receive(connection, number, "u", up)
                    received = True
                    send(connection, number, "d", down)
                    receive_exactly(connection, 1)
                    receive_end(connection)
                case Order.CLIENT_FIRST:
                    receive(connection, number, "u", up)
                    receive_end(connection)
                    received = True
                    send(connection, number, "d", down)
                case Order.SERVICE_FIRST:
                    send(connection, number, "d", down)
                    connection.shutdown(socket.SHUT_WR)
                    receive(connection, number, "u", up)
                    receive_end(connection)
                    received = True
                case Order.BOTH:
                    sender = threading.Thread(target=send_quietly, args=(connection, number, down), daemon=True)
                    sender.start()
                    receive(connection, number, "u", up)
                    receive_end(connection)
                    received = True
                    sender.join()
                case Order.CRASH:
                    receive(connection, number, "u", up // 2)
                    tell("crash")
                    os._exit(1)
                case Order.LEAVE:  # at once, as the client sends without reading: one after the other might never end
                    threading.Thread(target=send_quietly, args=(connection, number, down), daemon=True).start()
                    receive(connection, number, "u", up)
    except WrongBytesError as error:
        ended = f"wrong: {error}"
    except StuckError as error:
        ended = f"stuck: {error}"
    except ShortError as error:
        ended = f"short: {error}"
    except OSError as error:
        ended = f"error: {error.strerror}"
    tell("end", key=key, began=began, number=number, received=received, ended=ended)


def send_quietly(connection: socket.socket, number: int, size: int) -> None:
    """Send in a thread of its own; who does not get it says so."""
    try:
        send(connection, number, "d", size)
        connection.shutdown(socket.SHUT_WR)
    except (OSError, StuckError) as error:
        tell("note", number=number, sending=str(error))


def accept(listener: socket.socket) -> None:
    """Serve for ever."""
    while True:
        connection, _ = listener.accept()
        with KEYS_LOCK:
            KEYS[0] += 1
            key = KEYS[0]
        tell("begin", key=key)
        threading.Thread(target=serve, args=(connection, key), daemon=True).start()


KEYS = [0]
KEYS_LOCK = threading.Lock()


def terminate(_number: int, _frame: object) -> None:
    """The pod was removed."""
    tell("terminated")
    os._exit(0)


def main() -> None:
    """Listen on all services, tell, serve."""
    signal.signal(signal.SIGTERM, terminate)
    tell("start")
    for service in sys.argv[1:]:
        threading.Thread(target=accept, args=(meshless_sdk.listen(service),), daemon=True).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
