"""The certificate authority of a mesh: the one place that holds a root key.

It lives with the control plane, never on a node. A rotation keeps two roots trusted at once and lets the old root certify the
new one, so that no order of arrival at the agents breaks a handshake (docs/explanation/identity.md). The old root's key is
destroyed in the moment of rotation: its certificate is all that is needed from then on.

`authority.json` in the directory is the commit point: what it does not name does not exist. This module must not talk to
agents.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshless_core.errors import IdentityError, InvalidNameError
from meshless_core.identity import certificates
from meshless_core.identity.keyfiles import make_private_directory, read_private, read_public, write_atomically, write_private
from meshless_core.meshlet import format_duration
from meshless_core.types import Identity

__all__ = ["CertificateAuthority"]

logger = logging.getLogger(__name__)

_STATE: Final = "authority.json"
_BUNDLE: Final = "bundle.pem"
_LOCK: Final = ".lock"
_EXPIRY_WARNING: Final = datetime.timedelta(days=90)


@attrs.frozen
class _State:
    """What `authority.json` says.

    Attributes:
        trust_domain: the mesh's trust domain.
        issuer: key identifier of the root that signs.
        previous: key identifier of the root that is trusted but signs no more, None outside a rotation.
        rotated_at: Unix time of the rotation, seconds; 0 outside one.
        longest_lifetime: longest life of a leaf ever signed, seconds: how long a finished rotation has to wait.
    """

    trust_domain: str
    issuer: str
    previous: str | None
    rotated_at: float
    longest_lifetime: float


class CertificateAuthority:
    """Issues leaves and rotates the root. Make one with `create` or `load`; one process may hold many of the same directory."""

    __slots__ = ("_bundle", "_clock", "_cross", "_directory", "_key", "_root", "_stamp", "_state")

    def __init__(self, directory: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        """Use `load` or `create`: both end here with a directory that holds an authority."""
        self._directory = os.fspath(directory)
        self._clock = clock
        self._read()

    @classmethod
    def create(
        cls, directory: str | os.PathLike[str], trust_domain: str, *, clock: Callable[[], float] = time.time
    ) -> CertificateAuthority:
        """Make a new root for `trust_domain` in `directory` (created with mode 0700).

        Args:
            directory: where the authority lives from now on.
            trust_domain: DNS name of the mesh; fixed for the life of the authority.
            clock: returns Unix time, seconds.

        Raises:
            InvalidNameError: `trust_domain` is not usable.
            IdentityError: there is an authority already, or the directory is not writable.
        """
        certificates.check_trust_domain(trust_domain)
        path = os.fspath(directory)
        make_private_directory(path)
        with _locked(path):
            if os.path.exists(os.path.join(path, _STATE)):
                raise IdentityError(
                    f"{path} holds a certificate authority already; use meshless ca rotate, or another directory"
                )
            key = certificates.generate_key()
            root = certificates.build_root(key, trust_domain, _as_time(clock()))
            issuer = _store_root(path, root, key)
            state = _State(trust_domain, issuer, None, 0.0, certificates.LEAF_LIFETIME.total_seconds())
            _commit(path, state, certificates.to_pem(root))
        return cls(path, clock=clock)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> CertificateAuthority:
        """Open the authority that lives in `directory`.

        Raises:
            IdentityError: there is none, a file is damaged, the key does not fit, or others can read it.
        """
        return cls(directory, clock=clock)

    def __repr__(self) -> str:
        return f"<CertificateAuthority of {self._state.trust_domain} in {self._directory}>"

    @property
    def trust_domain(self) -> str:
        """The mesh's trust domain."""
        return self._state.trust_domain

    @property
    def bundle_pem(self) -> str:
        """All trusted roots as PEM; the first is the one that issues."""
        return self._bundle

    @property
    def root(self) -> x509.Certificate:
        """The root that issues."""
        return self._root

    @property
    def rotating(self) -> bool:
        """Whether an older root is still trusted beside the one that issues."""
        return self._state.previous is not None

    @property
    def finish_after(self) -> float | None:
        """Unix time, seconds, from which no leaf of the previous root is valid any more; None outside a rotation."""
        return self._state.rotated_at + self._state.longest_lifetime if self.rotating else None

    def issue(
        self, request_pem: bytes | str, identity: Identity, *, lifetime: datetime.timedelta = certificates.LEAF_LIFETIME
    ) -> str:
        """Sign a leaf for `identity` and the key of the request; names inside the request are ignored.

        Args:
            request_pem: PKCS #10 request, PEM.
            identity: what the leaf shall prove; the caller has decided that the requester may have it.
            lifetime: life of the leaf, at most 90 days.

        Returns:
            The chain as PEM: the leaf, during a rotation followed by the cross certificate.

        Raises:
            IdentityError: a bad request, an identity of another trust domain, an impossible lifetime, or an expired root.
        """
        if identity.trust_domain != self.trust_domain:
            raise IdentityError(
                f"{identity} is not of trust domain {self.trust_domain}, which is all this authority speaks for"
            )
        if not datetime.timedelta(0) < lifetime <= certificates.MAX_LEAF_LIFETIME:
            raise IdentityError(
                f"a leaf cannot live {_told(lifetime)}: choose more than 0s and at most {_told(certificates.MAX_LEAF_LIFETIME)}"
            )
        self.refresh()  # a root another process has just retired must sign nothing more
        public_key = certificates.load_request(request_pem)
        now = _as_time(self._clock())
        leaf = certificates.build_leaf(public_key, identity, self._root, self._key, now, lifetime)
        self._remember_lifetime(lifetime)
        remaining = self._root.not_valid_after_utc - now
        if remaining < _EXPIRY_WARNING:
            logger.warning("the root of %s expires in %d days; run meshless ca rotate", self.trust_domain, remaining.days)
        return certificates.to_pem(leaf) if self._cross is None else certificates.to_pem(leaf, self._cross)

    def rotate(self) -> None:
        """Make a new root the issuer; the old one stays trusted until `finish_rotation`, its key is destroyed now.

        Raises:
            IdentityError: a rotation is under way already, or the directory is not writable.
        """
        with _locked(self._directory):
            self._read()
            if self._state.previous is not None:
                raise IdentityError(
                    f"the authority in {self._directory} is being rotated already; run meshless ca rotate --finish first"
                )
            now = self._clock()
            key = certificates.generate_key()
            root = certificates.build_root(key, self.trust_domain, _as_time(now))
            cross = certificates.build_cross_certificate(root, self._root, self._key, _as_time(now))
            issuer = _store_root(self._directory, root, key)
            cross_path = os.path.join(self._directory, f"cross-{issuer}.pem")
            write_atomically(cross_path, certificates.to_pem(cross).encode(), durable=True)
            state = attrs.evolve(self._state, issuer=issuer, previous=self._state.issuer, rotated_at=now)
            _commit(self._directory, state, certificates.to_pem(root, self._root))
            self._read()

    def finish_rotation(self, *, force: bool = False) -> None:
        """Stop trusting the previous root.

        Args:
            force: do it although leaves it signed may still be in use; their connections can no longer be set up.

        Raises:
            IdentityError: no rotation is under way, or it is too early.
        """
        with _locked(self._directory):
            self._read()
            finish_after = self.finish_after
            if finish_after is None:
                raise IdentityError(f"the authority in {self._directory} is not being rotated; start with meshless ca rotate")
            if self._clock() < finish_after and not force:
                raise IdentityError(
                    f"leaves of the previous root may be valid until {_as_time(finish_after):%Y-%m-%d %H:%M:%S} UTC; "
                    "finish then, or force it if every agent has renewed its leaves"
                )
            state = attrs.evolve(self._state, previous=None, rotated_at=0.0)
            _commit(self._directory, state, certificates.to_pem(self._root))
            self._read()

    def refresh(self) -> bool:
        """Pick up a rotation another process made; True if anything changed. Costs one `stat` when nothing did.

        Raises:
            IdentityError: the directory is damaged; the authority goes on with what it had.
        """
        if self._stamp == _stamp(self._directory):
            return False
        bundle = self._bundle
        self._read()
        return bundle != self._bundle

    def _remember_lifetime(self, lifetime: datetime.timedelta) -> None:
        if lifetime.total_seconds() <= self._state.longest_lifetime:
            return
        with _locked(self._directory):
            self._read()
            longest = max(lifetime.total_seconds(), self._state.longest_lifetime)
            _commit(self._directory, attrs.evolve(self._state, longest_lifetime=longest), self._bundle)
            self._read()

    def _read(self) -> None:
        stamp = _stamp(self._directory)
        state = _read_state(self._directory)
        root = _read_root(self._directory, state.issuer, state.trust_domain)
        key_path = os.path.join(self._directory, f"root-{state.issuer}.key")
        key = certificates.load_key(read_private(key_path), key_path)
        if key.public_key() != root.public_key():
            raise IdentityError(f"{key_path} does not fit the root beside it; restore the directory from a backup")
        roots = [root]
        cross: x509.Certificate | None = None
        if state.previous is not None:
            roots.append(_read_root(self._directory, state.previous, state.trust_domain))
            cross_path = os.path.join(self._directory, f"cross-{state.issuer}.pem")
            (cross, *_) = certificates.load_certificates(read_public(cross_path), cross_path)
        self._state: _State = state
        self._root: x509.Certificate = root
        self._key: ec.EllipticCurvePrivateKey = key
        self._cross: x509.Certificate | None = cross
        self._bundle: str = certificates.to_pem(*roots)
        self._stamp: tuple[int, int, int] = stamp


def _as_time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _told(lifetime: datetime.timedelta) -> str:
    return format_duration(lifetime // datetime.timedelta(microseconds=1) * 1000)


def _stamp(directory: str) -> tuple[int, int, int]:
    try:
        found = os.stat(os.path.join(directory, _STATE))
    except FileNotFoundError as error:
        raise IdentityError(f"{directory} holds no certificate authority; create one with meshless ca init") from error
    except OSError as error:
        raise IdentityError(f"cannot read the certificate authority in {directory}: {error.strerror}") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_state(directory: str) -> _State:
    path = os.path.join(directory, _STATE)
    try:
        found = json.loads(read_public(path))
        state = _State(
            trust_domain=str(found["trust_domain"]),
            issuer=bytes.fromhex(found["issuer"]).hex(),
            previous=None if found["previous"] is None else bytes.fromhex(found["previous"]).hex(),
            rotated_at=float(found["rotated_at"]),
            longest_lifetime=float(found["longest_lifetime"]),
        )
        certificates.check_trust_domain(state.trust_domain)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidNameError) as error:
        raise IdentityError(f"{path} is damaged; restore the directory from a backup") from error
    return state


def _read_root(directory: str, identifier: str, trust_domain: str) -> x509.Certificate:
    path = os.path.join(directory, f"root-{identifier}.pem")
    found = certificates.load_certificates(read_public(path), path)
    if (
        len(found) != 1
        or certificates.key_identifier(found[0]) != identifier
        or certificates.trust_domain_of(found[0]) != trust_domain
    ):
        raise IdentityError(f"{path} is not the root it should be; restore the directory from a backup")
    return found[0]


def _store_root(directory: str, root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> str:
    identifier = certificates.key_identifier(root)
    write_private(os.path.join(directory, f"root-{identifier}.key"), certificates.key_to_pem(key), durable=True)
    write_atomically(os.path.join(directory, f"root-{identifier}.pem"), certificates.to_pem(root).encode(), durable=True)
    return identifier


def _commit(directory: str, state: _State, bundle: str) -> None:
    """Make `state` true, then remove every key and certificate it does not name."""
    content = json.dumps(attrs.asdict(state), indent=2) + "\n"
    write_atomically(os.path.join(directory, _STATE), content.encode(), durable=True)
    write_atomically(os.path.join(directory, _BUNDLE), bundle.encode(), durable=True)
    wanted = {f"root-{state.issuer}.key", f"root-{state.issuer}.pem"}
    if state.previous is not None:
        wanted |= {f"root-{state.previous}.pem", f"cross-{state.issuer}.pem"}
    for name in os.listdir(directory):
        if name.startswith(("root-", "cross-")) and name not in wanted:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the directory's lock: two commands at once must not both rotate."""
    path = os.path.join(directory, _LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise IdentityError(f"cannot lock the certificate authority in {directory}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
