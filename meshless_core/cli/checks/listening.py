"""Which sockets in the file system somebody listens on, asked from the kernel (sock_diag(7), unix(7)).

Why not simply connect: a probe would be a connection to the application, and `meshless listen` and netcat serve just one.
Source of the numbers: linux/unix_diag.h, linux/sock_diag.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final

__all__ = ["listening_inodes"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_LISTEN_STATE: Final = 1 << 10  # TCP_LISTEN, also for Unix sockets
_SHOW_VFS: Final = 2
_UNIX_DIAG_VFS: Final = 1
_ANY: Final = 0xFFFFFFFF

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBHIIIII")  # family, protocol, pad, states, inode, show, cookie
_MESSAGE: Final = struct.Struct("=BBBBIII")  # family, type, state, pad, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_VFS: Final = struct.Struct("=II")  # inode, device


def listening_inodes() -> frozenset[int]:
    """Inode numbers, as `stat` tells them (the low 32 bits), of all sockets in the file system that are listened on.

    Covers the network namespace of this process.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5.0)
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN_STATE, 0, _SHOW_VFS, _ANY, _ANY)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        found: set[int] = set()
        while True:
            for kind, body in _parts(kernel.recv(1 << 20), 0, _HEADER):
                match kind:
                    case _ if kind == _NLMSG_DONE:
                        return frozenset(found)
                    case _ if kind == _NLMSG_ERROR:
                        number = -struct.unpack_from("=i", body)[0]
                        raise OSError(number, "the kernel does not tell which sockets are listened on")
                    case _:
                        attributes = _parts(body, _MESSAGE.size, _ATTRIBUTE)
                        found.update(_VFS.unpack_from(data)[0] for name, data in attributes if name == _UNIX_DIAG_VFS)


def _parts(data: bytes, offset: int, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Type and content of each length-prefixed part; netlink aligns all of them to 4 bytes."""
    while offset + header.size <= len(data):
        length, kind, *_ = header.unpack_from(data, offset)
        if length < header.size:
            return
        yield kind, data[offset + header.size : offset + length]
        offset += (length + 3) & ~3
