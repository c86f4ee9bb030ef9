"""`meshless ca`: make, use, rotate and look at the certificate authority of a mesh.

For one machine and for emergencies; a running mesh issues leaves by itself. A key is written to files, never to the terminal.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from typing import Any

import click
from cryptography import x509

from meshless_core.cli.exit_codes import CommandError, ExitCode
from meshless_core.cli.options import output_option
from meshless_core.cli.output import emit
from meshless_core.errors import IdentityError
from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.identity.keyfiles import make_private_directory, read_public, write_atomically, write_private
from meshless_core.meshlet import parse_duration
from meshless_core.types import Identity, is_dns_label

__all__ = ["command"]

_COLUMNS = ("subject", "kind", "serial", "not_before", "not_after", "remaining", "issuer", "state")
_ROOT_WARNING = datetime.timedelta(days=90)


@click.group()
def command() -> None:
    """Make, rotate and show the mesh's certificates.

    \b
    Examples:
      meshless ca init ./ca --trust-domain mesh.example.org
      meshless ca show ./ca
      meshless ca rotate ./ca            # a day later: meshless ca rotate ./ca --finish
    """


@command.command()
@click.argument("directory", type=click.Path(file_okay=False))
@click.option(
    "--trust-domain", required=True, metavar="NAME", help="DNS name of the mesh; part of every identity, fixed for good."
)
@output_option
def init(directory: str, trust_domain: str, output: str) -> int:
    """Make a new root in DIRECTORY (created, mode 0700).

    Exit code 1: there is an authority already; 2: the name or the directory is not usable.

    \b
    Example:
      meshless ca init ./ca --trust-domain mesh.example.org
    """
    authority = CertificateAuthority.create(directory, trust_domain)
    emit(_rows([authority.root]), _COLUMNS, output)
    return ExitCode.OK


@command.command()
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--namespace", required=True, help="Namespace of the meshlet.")
@click.option("--meshlet", required=True, help="Name of the meshlet.")
@click.option(
    "--out", "out", type=click.Path(file_okay=False), default=".", show_default=True,
    help="Directory for <meshlet>.<namespace>.crt, .key and bundle.pem.",
)  # fmt: skip
@click.option("--lifetime", default="24h", show_default=True, help="Life of the leaf, like 90m or 24h; at most 2160h.")
@output_option
def issue(directory: str, namespace: str, meshlet: str, out: str, lifetime: str, output: str) -> int:
    """Issue a leaf with a new key, by hand.

    Agents get theirs by themselves; this is for tests and for looking.
    Exit code 1: the authority refuses; 2: a file cannot be read or written.

    \b
    Example:
      meshless ca issue ./ca --namespace shop --meshlet cart --out ./leaf
    """
    for option, value in (("--namespace", namespace), ("--meshlet", meshlet)):
        if not is_dns_label(value):
            raise click.BadParameter(f"{value!r} is not a DNS label (a-z, 0-9 and '-', at most 63)", param_hint=option)
    authority = CertificateAuthority.load(directory)
    identity = Identity(authority.trust_domain, namespace, meshlet)
    key = certificates.generate_key()
    chain_pem = authority.issue(certificates.build_request(key), identity, lifetime=_lifetime(lifetime))
    if not os.path.isdir(out):
        make_private_directory(out)
    base = os.path.join(out, f"{meshlet}.{namespace}")
    write_private(f"{base}.key", certificates.key_to_pem(key))
    write_atomically(f"{base}.crt", chain_pem.encode())
    write_atomically(os.path.join(out, "bundle.pem"), authority.bundle_pem.encode())
    rows = _rows(certificates.load_certificates(chain_pem, base)[:1])
    rows[0] |= {"certificate": f"{base}.crt", "key": f"{base}.key", "bundle": os.path.join(out, "bundle.pem")}
    emit(rows, (*_COLUMNS[:-1], "certificate"), output)
    return ExitCode.OK


@command.command()
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--finish", is_flag=True, help="End a rotation: stop trusting the previous root.")
@click.option("--force", is_flag=True, help="With --finish: do it although leaves of the previous root may still be valid.")
@output_option
def rotate(directory: str, finish: bool, force: bool, output: str) -> int:
    """Replace the root without an outage, in two steps.

    The first makes a new root the issuer; both are trusted, and agents renew their leaves. The second, when the old leaves have
    expired (a day later, unless leaves live longer), stops trusting the old root.
    Exit code 1: not possible now, the message says why; 2: a file cannot be read or written.

    \b
    Examples:
      meshless ca rotate ./ca
      meshless ca rotate ./ca --finish
    """
    if force and not finish:
        raise click.UsageError("--force goes with --finish only")
    authority = CertificateAuthority.load(directory)
    if finish:
        authority.finish_rotation(force=force)
    else:
        authority.rotate()
    if authority.finish_after is not None:
        when = datetime.datetime.fromtimestamp(authority.finish_after, datetime.UTC)
        click.echo(f"the previous root stays trusted; run with --finish after {when:%Y-%m-%d %H:%M:%S} UTC", err=True)
    emit(_rows(certificates.load_certificates(authority.bundle_pem, directory)), _COLUMNS, output)
    return ExitCode.OK


@command.command()
@click.argument("path", type=click.Path(exists=False))
@output_option
def show(path: str, output: str) -> int:
    """Show the certificates of an authority's DIRECTORY or of a PEM FILE.

    Warns about what has expired or will soon (a root: 90 days; a leaf: a quarter of its life).
    Exit code 1: something has expired; 2: the file cannot be read.

    \b
    Examples:
      meshless ca show ./ca
      meshless ca show ./leaf/cart.shop.crt --output json
    """
    if os.path.isdir(path):
        found = certificates.load_certificates(CertificateAuthority.load(path).bundle_pem, path)
    else:
        data = read_public(path)
        if re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", data) and b"BEGIN CERTIFICATE" not in data:
            raise CommandError(f"{path} is a private key: it is not shown; name its certificate instead")
        found = certificates.load_certificates(data, path)
    rows = _rows(found)
    emit(rows, _COLUMNS, output)
    for row in rows:
        if row["state"] != "valid":
            advice = (
                "run meshless ca rotate" if row["kind"] == "root" else "its agent should have renewed it, see meshless check"
            )
            click.echo(f"warning: {row['subject']} ({row['serial'][:16]}) is {row['state']}: {advice}", err=True)
    return ExitCode.NO if any(row["state"] in ("expired", "not yet valid") for row in rows) else ExitCode.OK


def _rows(found: tuple[x509.Certificate, ...] | list[x509.Certificate]) -> list[dict[str, Any]]:
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    return [_row(certificate, now) for certificate in found]


def _row(certificate: x509.Certificate, now: datetime.datetime) -> dict[str, Any]:
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        subject, kind = str(certificates.identity_of(certificate)), "leaf"
    except IdentityError:
        try:
            subject = f"spiffe://{certificates.trust_domain_of(certificate)}"
            kind = "root" if certificate.subject == certificate.issuer else "cross"
        except IdentityError:
            subject, kind = certificate.subject.rfc4514_string(), "foreign"
    remaining = not_after - now
    soon = (not_after - not_before) / 4 if kind == "leaf" else _ROOT_WARNING
    if now >= not_after:
        state = "expired"
    elif now < not_before:
        state = "not yet valid"
    else:
        state = "expiring soon" if remaining < soon else "valid"
    return {
        "subject": subject,
        "kind": kind,
        "serial": f"{certificate.serial_number:x}",
        "not_before": not_before.isoformat(),
        "not_after": not_after.isoformat(),
        "remaining": _remaining(remaining),
        "issuer": certificate.issuer.rfc4514_string(),
        "state": state,
    }


def _remaining(left: datetime.timedelta) -> str:
    seconds = int(left.total_seconds())
    if seconds <= 0:
        return "none"
    if seconds >= 2 * 86400:
        return f"{seconds // 86400}d"
    return f"{seconds // 3600}h{seconds // 60 % 60:02d}m"


def _lifetime(text: str) -> datetime.timedelta:
    try:
        return datetime.timedelta(microseconds=parse_duration(text) // 1000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r} is not a duration: write 90m or 24h", param_hint="--lifetime") from error
