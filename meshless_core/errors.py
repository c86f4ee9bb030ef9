"""The one error tree of Meshless.

Why one tree: a caller can catch `MeshlessError` and know that everything else is a bug. Foreign exceptions (`OSError`,
`ssl.SSLError`, `yaml.YAMLError`) are mapped where they enter and chained. Messages are lower case, have no final stop, name
the object and say what to do next. This module must not import anything of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

__all__ = [
    "BusError",
    "ConfigError",
    "DiscoveryError",
    "DocumentError",
    "IdentityError",
    "InvalidDurationError",
    "InvalidNameError",
    "LocalProtocolError",
    "MeshlessError",
    "PluginError",
    "Problem",
    "ProtocolError",
    "RemoteProtocolError",
    "SocketDirectoryError",
    "TransportError",
    "ValidationError",
]


class MeshlessError(Exception):
    """Root of every error Meshless raises on purpose."""


class InvalidNameError(MeshlessError, ValueError):
    """A service id, identity or DNS label does not have the form the product defines."""


class InvalidDurationError(MeshlessError, ValueError):
    """A text is not a duration as Go's `time.ParseDuration` defines it."""


@attrs.frozen
class Problem:
    """One thing that is wrong in an input, precise enough to fix it.

    Attributes:
        path: where in the document, `$.spec.server.services[0].maxConn` style; empty when the whole file is meant.
        message: what is wrong and what to do, lower case, no final stop.
        source: file name or other origin; empty when unknown.
        line: 1-based line in `source`, 0 when unknown.
    """

    path: str
    message: str
    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = self.source
        if self.line:
            where = f"{where}:{self.line}"
        return ": ".join(part for part in (where, self.path, self.message) if part)


class _ProblemsError(MeshlessError):
    """An error that reports every problem of an input at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)


class ConfigError(_ProblemsError):
    """`meshless.yaml` or a plugin's options are wrong; holds every problem found."""


class ValidationError(_ProblemsError):
    """A resource (for example a Meshlet) is wrong; holds every problem found."""


class PluginError(_ProblemsError):
    """Plugins cannot be loaded; holds every problem found, each naming the distribution and the fix."""


class DiscoveryError(_ProblemsError):
    """A discovery plugin could not read its source; the last good state stays in force."""


class ProtocolError(MeshlessError):
    """Base of protocol violations. Raise one of the two subclasses, never this."""


class LocalProtocolError(ProtocolError):
    """Our own code called a protocol state machine in a state that does not allow it: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that the protocol does not allow: `RemoteProtocolError(message, code=code)`.

    Attributes:
        code: numeric code to answer with, from the protocol's own registry; in a client handshake a `ReplyCode` other than OK.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class TransportError(MeshlessError):
    """A secure session could not be established, or broke: `TransportError(message, reason=reason)`.

    Attributes:
        reason: low-cardinality cause such as `connect_failed`, `tls_failure`, `identity_mismatch`, `timeout`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class IdentityError(MeshlessError):
    """A key, certificate or trust bundle is missing, unreadable or not what it has to be."""


class BusError(MeshlessError):
    """The bus cannot be reached, read or written."""


class DocumentError(MeshlessError):
    """Bytes from the bus or the disk are not a document of the topic they came under; the last good document stays in force."""


class SocketDirectoryError(MeshlessError):
    """A pod's socket directory or the socketd connection is not usable."""
