from __future__ import annotations

from typing import Any

import attrs
import pytest

from meshless_core.config import DEFAULT_PLUGINS, AgentSettings, Config, MeshSettings, PluginSetting, ReconcilerSettings
from meshless_core.config.structuring import structure
from meshless_core.meshlet.reading import ProblemLog

SECTIONS = [MeshSettings, AgentSettings, ReconcilerSettings]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_default_and_says_unit_default_and_why(section: type[Any]) -> None:
    for field in attrs.fields(section):
        assert field.default is not attrs.NOTHING, field.name
        doc = field.metadata["doc"]
        unit, _, rest = doc.partition(". ")
        assert unit, field.name
        assert rest.startswith("Default"), field.name
        assert len(rest) > 60, f"{field.name}: why?"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Config().agent.workers = 2  # type: ignore[misc]  # the mistake under test


def test_without_a_file_the_default_plugins_are_active_in_order() -> None:
    assert [plugin.name for plugin in Config().plugins] == list(DEFAULT_PLUGINS)
    assert all(plugin == PluginSetting(plugin.name) for plugin in Config().plugins)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "node-1.local:15008", "[::1]:80", "0.0.0.0:65535"])
def test_an_address_is_host_and_port(address: str) -> None:
    assert structure(AgentSettings, {"tunnel_address": address}, path=(), log=ProblemLog("", None)) is not None


@pytest.mark.parametrize("address", ["", ":80", "host", "host:", "host:http", "host:65536", "::1:80", "host:-1", "host:\u0663"])
def test_what_is_no_address_is_refused(address: str) -> None:
    log = ProblemLog("", None)
    assert structure(AgentSettings, {"tunnel_address": address}, path=(), log=log) is None
    assert "is not an address: write <host>:<port>, an IPv6 host in brackets" in log.problems[0].message


@pytest.mark.parametrize("admin", ["unix:/run/a.sock", "tcp:127.0.0.1:9090", None])
def test_admin_is_a_socket_file_or_an_address(admin: str | None) -> None:
    assert structure(AgentSettings, {"admin": admin}, path=(), log=ProblemLog("", None)) is not None


@pytest.mark.parametrize("admin", ["/run/a.sock", "unix:", "tcp:80", "http://x", "127.0.0.1:80"])
def test_an_admin_of_another_form_is_refused(admin: str) -> None:
    log = ProblemLog("", None)
    assert structure(AgentSettings, {"admin": admin}, path=(), log=log) is None
    assert "is not an address: write" in log.problems[0].message


@pytest.mark.parametrize("domain", ["mesh.local", "a", "prod.example.com"])
def test_a_trust_domain_is_a_dns_name(domain: str) -> None:
    assert structure(MeshSettings, {"trust_domain": domain}, path=(), log=ProblemLog("", None)) is not None


@pytest.mark.parametrize("domain", ["", "Mesh", "a..b", "a/b", "spiffe://a", "a" * 64])
def test_what_is_no_trust_domain_is_refused(domain: str) -> None:
    log = ProblemLog("", None)
    assert structure(MeshSettings, {"trust_domain": domain}, path=(), log=log) is None
    assert "is not a trust domain: use DNS labels joined by dots" in log.problems[0].message
