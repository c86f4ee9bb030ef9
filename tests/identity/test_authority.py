from __future__ import annotations

import base64
import datetime
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshless_core.errors import IdentityError, InvalidNameError
from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.types import Identity

CART = Identity("mesh.test", "shop", "cart")


def issue(authority: CertificateAuthority, **options: Any) -> tuple[x509.Certificate, ...]:
    request = certificates.build_request(certificates.generate_key())
    return certificates.load_certificates(authority.issue(request, CART, **options), "test")


def roots(authority: CertificateAuthority) -> tuple[x509.Certificate, ...]:
    return certificates.load_certificates(authority.bundle_pem, "test")


def test_a_leaf_has_the_profile_of_a_spiffe_leaf(authority: Any, clock: Any) -> None:
    (leaf,) = issue(authority)
    read = leaf.extensions.get_extension_for_class
    assert read(x509.SubjectAlternativeName).value == x509.SubjectAlternativeName([x509.UniformResourceIdentifier(CART.uri)])
    constraints = read(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = read(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(read(x509.ExtendedKeyUsage).value) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    root_key = authority.root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert read(x509.AuthorityKeyIdentifier).value.key_identifier == root_key
    assert leaf.not_valid_before_utc.timestamp() == clock.now - 300
    assert leaf.not_valid_after_utc.timestamp() == clock.now + 86400
    assert certificates.is_issued_by(leaf, authority.root)


def test_a_root_lives_ten_years_and_names_its_trust_domain(authority: Any, clock: Any) -> None:
    assert authority.root.not_valid_after_utc.timestamp() == clock.now + 3650 * 86400
    assert certificates.trust_domain_of(authority.root) == authority.trust_domain == "mesh.test"


def test_serial_numbers_are_random(authority: Any) -> None:
    serials = {issue(authority)[0].serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 120


def test_names_in_a_request_are_ignored(authority: Any) -> None:
    key = certificates.generate_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://mesh.test/ns/x/meshlet/y")]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (leaf,) = certificates.load_certificates(authority.issue(certificates.to_pem(request), CART), "test")  # type: ignore[arg-type]
    assert certificates.identity_of(leaf) == CART
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "admin" not in leaf.subject.rfc4514_string()


def test_a_request_with_a_wrong_signature_is_refused(authority: Any) -> None:
    request = x509.load_pem_x509_csr(certificates.build_request(certificates.generate_key()).encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(bytes(der)).decode()}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(IdentityError, match=r"signature|PKCS #10"):
        authority.issue(pem, CART)


@pytest.mark.parametrize(
    "request_pem",
    ["", "hello", "\udcff", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"],
)
def test_garbage_is_no_request(authority: Any, request_pem: str) -> None:
    with pytest.raises(IdentityError, match="not PKCS #10"):
        authority.issue(request_pem, CART)


def test_a_request_for_another_kind_of_key_is_refused(authority: Any) -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(IdentityError, match="not P-256"):
        authority.issue(certificates.to_pem(request), CART)  # type: ignore[arg-type]


def test_another_trust_domain_is_refused(authority: Any) -> None:
    request = certificates.build_request(certificates.generate_key())
    with pytest.raises(IdentityError, match=r"not of trust domain mesh\.test"):
        authority.issue(request, Identity("other.test", "shop", "cart"))


@pytest.mark.parametrize(("hours", "told"), [(-24, "-24h0m0s"), (0, "0s"), (9000, "9000h0m0s"), (2160.5, "2160h30m0s")])
def test_an_impossible_lifetime_is_refused_in_the_words_it_is_asked_for(authority: Any, hours: float, told: str) -> None:
    with pytest.raises(IdentityError) as caught:
        issue(authority, lifetime=datetime.timedelta(hours=hours))
    assert str(caught.value) == f"a leaf cannot live {told}: choose more than 0s and at most 2160h0m0s"


def test_a_leaf_does_not_outlive_its_root(authority: Any, clock: Any) -> None:
    clock.now += 3650 * 86400 - 600
    (leaf,) = issue(authority)
    assert leaf.not_valid_after_utc == authority.root.not_valid_after_utc
    clock.now += 601
    with pytest.raises(IdentityError, match="expired"):
        issue(authority)


def test_keys_are_private_and_not_shown(authority: Any, tmp_path: Path) -> None:
    assert stat.S_IMODE(os.stat(tmp_path / "ca").st_mode) == 0o700
    (key,) = (tmp_path / "ca").glob("*.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(authority)
    key.chmod(0o640)
    with pytest.raises(IdentityError, match="mode 0640"):
        CertificateAuthority.load(tmp_path / "ca")


def test_it_is_not_made_twice(authority: Any, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="already"):
        CertificateAuthority.create(tmp_path / "ca", "mesh.test")


@pytest.mark.parametrize("name", ["", "Mesh.Test", "a b", "-a", "a." * 80 + "a"])
def test_a_bad_trust_domain_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidNameError, match="not a trust domain"):
        CertificateAuthority.create(tmp_path / "new", name)


def test_none_there_is_said_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="meshless ca init"):
        CertificateAuthority.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[" * 5000, '{"trust_domain": 1}'])
def test_a_damaged_state_is_said(authority: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "ca" / "authority.json").write_text(content)
    with pytest.raises(IdentityError, match="damaged"):
        CertificateAuthority.load(tmp_path / "ca")


def test_a_key_that_does_not_fit_is_refused(authority: Any, tmp_path: Path) -> None:
    (key,) = (tmp_path / "ca").glob("*.key")
    key.write_bytes(certificates.key_to_pem(certificates.generate_key()))
    with pytest.raises(IdentityError, match="does not fit"):
        CertificateAuthority.load(tmp_path / "ca")


def test_a_rotation_trusts_both_roots_and_cross_certifies_the_new_one(authority: Any, tmp_path: Path) -> None:
    old = authority.root
    authority.rotate()
    assert roots(authority) == (authority.root, old)
    assert (tmp_path / "ca" / "bundle.pem").read_text() == authority.bundle_pem
    leaf, cross = issue(authority)
    assert certificates.is_issued_by(leaf, authority.root)
    assert certificates.is_issued_by(leaf, cross)
    assert certificates.is_issued_by(cross, old)


def test_the_old_key_is_destroyed_by_the_rotation(authority: Any, tmp_path: Path) -> None:
    (old_key,) = (tmp_path / "ca").glob("*.key")
    authority.rotate()
    assert not old_key.exists()
    assert len(list((tmp_path / "ca").glob("*.key"))) == 1


def test_a_rotation_cannot_be_started_twice(authority: Any) -> None:
    authority.rotate()
    with pytest.raises(IdentityError, match="--finish first"):
        authority.rotate()


def test_a_rotation_is_finished_when_no_old_leaf_can_be_valid(authority: Any, clock: Any) -> None:
    with pytest.raises(IdentityError, match="not being rotated"):
        authority.finish_rotation()
    issue(authority, lifetime=datetime.timedelta(days=3))
    authority.rotate()
    clock.now += 3 * 86400 - 1
    with pytest.raises(IdentityError, match="may be valid until"):
        authority.finish_rotation()
    clock.now += 1
    authority.finish_rotation()
    assert roots(authority) == (authority.root,)
    assert len(issue(authority)) == 1
    assert not authority.rotating


def test_a_rotation_can_be_finished_by_force(authority: Any) -> None:
    authority.rotate()
    authority.finish_rotation(force=True)
    assert len(roots(authority)) == 1


def test_a_rotation_of_another_process_is_picked_up(authority: Any, tmp_path: Path, clock: Any) -> None:
    assert not authority.refresh()
    CertificateAuthority.load(tmp_path / "ca", clock=clock).rotate()
    leaf, _ = issue(authority)  # even without an explicit refresh, the retired root signs nothing more
    assert not certificates.is_issued_by(leaf, roots(authority)[1])
    assert not authority.refresh()
