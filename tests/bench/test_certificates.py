from __future__ import annotations

import ssl
from pathlib import Path

from bench.certificates import write_certificates


def test_both_sides_prove_themselves_to_each_other_with_tls_1_3(tmp_path: Path) -> None:
    files = write_certificates(tmp_path)
    sides = []
    for protocol, certificate in ((ssl.PROTOCOL_TLS_CLIENT, files.client), (ssl.PROTOCOL_TLS_SERVER, files.server)):
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(files.ca)
        context.load_cert_chain(certificate)
        sides.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = sides[0].wrap_bio(to_client, to_server)
    server = sides[1].wrap_bio(to_server, to_client, server_side=True)
    pending = {client, server}
    for _ in range(4):
        for side in tuple(pending):
            try:
                side.do_handshake()
                pending.discard(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    proven = server.getpeercert()
    assert proven is not None
    assert proven["subjectAltName"] == (("URI", "spiffe://bench.local/ns/bench/meshlet/client"),)


def test_keys_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    files = write_certificates(tmp_path)
    assert {file.stat().st_mode & 0o777 for file in (files.client, files.server)} == {0o600}
