"""A client to be killed: goes as far as it is told, says "there", and stays. A program of its own, standard library only.

Arguments: the socket to dial, the request in hexadecimal, and the stage: `sent` (stop behind the request), `unread` (the reply
is there and not read), `replied` (the reply is read, the descriptor is not), `accepted` (version 1's reply is read),
`established` (and a byte went there and back), `handed-over`, and `reading` (established, and leaves when the service does).
"""

from __future__ import annotations

import signal
import socket
import sys

REPLY_HEADER = 4


def main() -> None:
    path, request, stage = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(bytes.fromhex(request))
    held = None
    if stage == "unread":
        connection.recv(1, socket.MSG_PEEK)
    elif stage in {"accepted", "established", "reading"}:
        assert connection.recv(2, socket.MSG_WAITALL) == b"\1\0"
        if stage != "accepted":
            connection.sendall(b"?")
            assert connection.recv(1) == b"?"
    elif stage in {"replied", "handed-over"}:
        header = connection.recv(REPLY_HEADER, socket.MSG_WAITALL)
        assert header[:2] == b"\2\0", header
        connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
        if stage == "handed-over":
            byte, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            assert byte == b"\0"
            held = socket.socket(fileno=descriptors[0])
            held.setblocking(True)
            held.sendall(b"?")
            assert held.recv(1) == b"?"
    else:
        assert stage == "sent"
    print("there", flush=True)
    if stage == "reading":
        assert connection.recv(1) == b""
    else:
        signal.pause()


if __name__ == "__main__":
    main()
