"""Links of the specifications lead on in the site."""

from __future__ import annotations

import pytest

from docs.generate.protocols import _LINK, PAGES, _site_link


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[x](https://example.org/a.md)", "[x](https://example.org/a.md)"),
        ("[codes](../docs/reference/reply-codes.md)", "[codes](reply-codes.md)"),
        ("[why](../docs/explanation/relay.md#half)", "[why](../explanation/relay.md#half)"),
        ("[v1](handshake-v1.md#reply)", "[v1](protocol-handshake-v1.md#reply)"),
        ("[vectors](vectors/handshake-v1.json)", "vectors (`protocol/vectors/handshake-v1.json`)"),
        ("[states](../meshless_core/handshake/states.py)", "states (`meshless_core/handshake/states.py`)"),
        ("[below](#reply)", "[below](#reply)"),
    ],
)
def test_a_link_of_a_specification_leads_to_the_sites_page_or_names_the_file(written: str, shown: str) -> None:
    assert _LINK.sub(_site_link, written) == shown


def test_every_specification_has_its_page() -> None:
    assert "protocol-handshake-v1.md" in {page.filename for page in PAGES}
