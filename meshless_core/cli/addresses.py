"""Addresses as people write them on the command line: `tcp:127.0.0.1:5432`, `tcp:[::1]:5432`, `unix:/path`.

Parsed once, at the edge; the commands listen on them and connect to them without looking at their form.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import Final

import attrs
import click

from meshless_core.cli.exit_codes import CommandError
from meshless_core.cli.unix_sockets import connect_unix, listen_unix
from meshless_core.socket_file import remove_socket_file

__all__ = ["Address", "AddressType", "Listening", "listen_on", "reach"]

_FORMS: Final = "write tcp:<host>:<port>, tcp:[<IPv6>]:<port> or unix:<path>"


@attrs.frozen
class Address:
    """Where to listen or connect: a TCP host and port, or a path if `path` is not empty."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    @property
    def private(self) -> bool:
        """Whether only this machine (TCP) or this user (path) can reach it; a host name counts as what it is by convention."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Raises:
            ValueError: another form; the message says which forms there are.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest and "\0" not in rest:
            return cls(path=os.path.abspath(rest))
        host, _, port = rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""  # an IPv6 address without brackets: where does the port begin?
        if kind != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f"{text!r} is not an address: {_FORMS}")
        return cls(host, int(port))


class AddressType(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Lets click parse an `Address`."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Parse what was written on the command line."""
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Listening:
    """A listening, non-blocking socket with the address it got; as a context manager it closes and removes it."""

    def __init__(self, listener: socket.socket, address: Address) -> None:
        self.socket = listener
        self.address = address
        self._bound = os.lstat(address.path) if address.path else None

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bound is not None:
            remove_socket_file(self.address.path, self._bound)
        self.socket.close()


def listen_on(address: Address, *, mode: int) -> Listening:
    """Listen.

    Args:
        address: where; port 0 lets the kernel choose one, see the result's `address`.
        mode: who may connect, if it is a path.

    Raises:
        CommandError: cannot listen there; says why.
    """
    try:
        if address.path:
            return Listening(listen_unix(address.path, mode=mode), address)
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise CommandError(f"cannot listen at {address}: {_reason(error)}") from error
    return Listening(listener, attrs.evolve(address, port=listener.getsockname()[1]))


async def reach(address: Address, *, timeout: float) -> socket.socket:
    """Connect a non-blocking stream socket; for a host name with several addresses the first that answers.

    Args:
        address: where to.
        timeout: seconds for all of it.

    Raises:
        OSError: cannot connect; the last address's reason.
    """
    if address.path:
        return await connect_unix(address.path, timeout=timeout)
    loop = asyncio.get_running_loop()
    last: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    async with asyncio.timeout(timeout):
        for family, kind, protocol, _, where in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(connection, where)
            except OSError as error:
                connection.close()
                last = error
            except BaseException:  # also cancellation: nobody else knows the socket
                connection.close()
                raise
            else:
                return connection
    raise last


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "its folder does not exist; check the path, --pod-dir or MESHLESS_DIR"
        case errno.EACCES | errno.EPERM:
            return "no permission; choose another port or path"
        case errno.EADDRINUSE if "live server" not in str(error):
            return "the address is in use; choose another port, or 0 for any"
        case _:
            return error.strerror or str(error)
