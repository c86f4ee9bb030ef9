"""One leaf on disk and in memory: a key, its chain, and the question whether it still fits the trust bundle.

Each leaf has files of its own (`<serial>.crt`, `<serial>.key`) that are never changed: a reader that has the two paths has two
files that belong together, whatever is renewed meanwhile. This module must not read a clock or decide when to renew.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os

import attrs
from cryptography import x509

from meshless_core.errors import IdentityError
from meshless_core.identity import certificates
from meshless_core.identity.keyfiles import make_private_directory, read_private, read_public, write_atomically, write_private
from meshless_core.types import Identity

__all__ = ["Leaf", "LeafCredentials", "TrustBundle", "find_leaf", "keep_only", "store_leaf"]


@attrs.frozen
class TrustBundle:
    """The roots that are trusted now.

    Attributes:
        pem: as it travels.
        roots: the same, parsed; the first is the one that issues.
    """

    pem: str = attrs.field(repr=False)
    roots: tuple[x509.Certificate, ...] = attrs.field(repr=False)

    @classmethod
    def parse(cls, pem: str, trust_domain: str, source: str) -> TrustBundle:
        """Read a bundle.

        Raises:
            IdentityError: no certificates, or a root of another trust domain.
        """
        roots = certificates.load_certificates(pem, source)
        for root in roots:
            if (found := certificates.trust_domain_of(root)) != trust_domain:
                raise IdentityError(
                    f"{source} has a root of trust domain {found}, not {trust_domain}; check the issuer socket's path"
                )
        return cls(certificates.to_pem(*roots), roots)


@attrs.frozen
class Leaf:
    """A leaf whose files exist.

    Attributes:
        identity: what it proves.
        chain: the leaf, then intermediates.
        chain_path: PEM file of the chain.
        key_path: PEM file of the key, mode 0600.
    """

    identity: Identity
    chain: tuple[x509.Certificate, ...] = attrs.field(repr=False)
    chain_path: str
    key_path: str

    @property
    def not_before(self) -> float:
        """Unix time, seconds, from which it is valid."""
        return self.chain[0].not_valid_before_utc.timestamp()

    @property
    def not_after(self) -> float:
        """Unix time, seconds, until which it is valid."""
        return self.chain[0].not_valid_after_utc.timestamp()

    def fits(self, bundle: TrustBundle) -> bool:
        """Whether a path leads from the leaf to a root of the bundle, directly or over one intermediate."""
        leaf, *intermediates = self.chain
        issuers = [*bundle.roots]
        issuers += [middle for middle in intermediates if any(certificates.is_issued_by(middle, root) for root in bundle.roots)]
        return any(certificates.is_issued_by(leaf, issuer) for issuer in issuers)

    def is_from(self, root: x509.Certificate) -> bool:
        """Whether `root` itself signed the leaf."""
        return certificates.is_issued_by(self.chain[0], root)


@attrs.frozen
class LeafCredentials:
    """`meshless_core.hookspecs.Credentials` of one moment. Holds no key, only the path to it.

    Attributes:
        identity: what the leaf proves.
        serial: hash over leaf and bundle: changes with either (a new leaf always has a new key).
        certificate_chain_path: PEM file, the leaf first.
        private_key_path: PEM file, mode 0600.
        trust_bundle_pem: all trusted roots.
    """

    identity: Identity
    serial: str
    certificate_chain_path: str
    private_key_path: str = attrs.field(repr=False)
    trust_bundle_pem: str = attrs.field(repr=False)

    @classmethod
    def of(cls, leaf: Leaf, bundle: TrustBundle) -> LeafCredentials:
        """The credentials that `leaf` and `bundle` make together."""
        digest = hashlib.sha256(certificates.to_pem(*leaf.chain).encode() + bundle.pem.encode()).hexdigest()[:32]
        return cls(leaf.identity, digest, leaf.chain_path, leaf.key_path, bundle.pem)


def store_leaf(directory: str, identity: Identity, chain_pem: str, key_pem: bytes, bundle: TrustBundle) -> Leaf:
    """Check what an issuer sent and write it to new files in `directory`; of what is refused nothing is written.

    Raises:
        IdentityError: not a leaf for `identity` and this key, or not under `bundle`, or the files cannot be written.
    """
    chain = certificates.load_certificates(chain_pem, f"the issuer's reply for {identity}")
    _check(chain[0], identity, key_pem, f"the issuer's reply for {identity}")
    name = os.path.join(directory, f"{chain[0].serial_number:x}")
    leaf = Leaf(identity, chain, f"{name}.crt", f"{name}.key")
    if not leaf.fits(bundle):
        raise IdentityError(f"the issuer's leaf for {identity} does not lead to a trusted root; check its directory")
    make_private_directory(directory)
    write_private(leaf.key_path, key_pem)
    write_atomically(leaf.chain_path, chain_pem.encode("ascii"))
    return leaf


def find_leaf(directory: str, identity: Identity, now: datetime.datetime) -> tuple[Leaf | None, list[IdentityError]]:
    """The longest-lived usable leaf among the files of `directory`, and what is wrong with the others."""
    best: Leaf | None = None
    problems: list[IdentityError] = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return None, problems
    for name in names:
        base, extension = os.path.splitext(os.path.join(directory, name))
        if extension != ".crt" or name.startswith("."):
            continue
        try:
            chain = certificates.load_certificates(read_public(f"{base}.crt"), f"{base}.crt")
            _check(chain[0], identity, read_private(f"{base}.key"), f"{base}.key")
        except IdentityError as error:
            problems.append(error)
            continue
        leaf = Leaf(identity, chain, f"{base}.crt", f"{base}.key")
        if chain[0].not_valid_before_utc <= now < chain[0].not_valid_after_utc and (
            best is None or leaf.not_after > best.not_after
        ):
            best = leaf
    return best, problems


def keep_only(directory: str, leaf: Leaf | None) -> None:
    """Delete every file of `directory` that is not `leaf`'s; without a leaf the directory goes too.

    Raises:
        IdentityError: something cannot be deleted.
    """
    wanted = set() if leaf is None else {leaf.chain_path, leaf.key_path}
    try:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                if path not in wanted:
                    os.unlink(path)
            if leaf is None:
                os.rmdir(directory)
    except OSError as error:
        raise IdentityError(f"cannot delete old keys in {directory}: {error.strerror}; delete them by hand") from error


def _check(leaf: x509.Certificate, identity: Identity, key_pem: bytes, source: str) -> None:
    key = certificates.load_key(key_pem, source)
    if leaf.public_key() != key.public_key():
        raise IdentityError(f"{source}: the certificate is for another key; it will be replaced")
    if (found := certificates.identity_of(leaf)) != identity:
        raise IdentityError(f"{source}: the certificate is for {found}, not {identity}; it will be replaced")
