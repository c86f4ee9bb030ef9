from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from meshless_core.cli.checks import Finding, Level
from meshless_core.cli.checks.control_plane import LEAST_ROOT_SECONDS, check_reconciler, check_roots
from meshless_core.errors import Problem
from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.reconciler.status import Condition, MeshletStatus, ReconcilerStatus
from meshless_core.types import MeshletRef, PodRef

NOW = 1_800_000_000.0
RESYNC = 600.0
GOOD = {
    "Accepted": ("True", "Valid", ""),
    "Resolved": ("True", "AllTargetsExist", ""),
    "Available": ("True", "ReadyPods", ""),
    "SelectorConsistent": ("True", "OwnPodsOnly", ""),
    "CanaryDegraded": ("False", "AllVersionsAvailable", ""),
    "Published": ("True", "OnBus", ""),
    "Ready": ("True", "AllGood", ""),
}


def meshlet(**changed: tuple[str, str, str]) -> MeshletStatus:
    conditions = tuple(Condition(type_, *value, since=NOW) for type_, value in {**GOOD, **changed}.items())
    return MeshletStatus(MeshletRef("shop", "cart"), conditions)


def findings(folder: Path, **fields: Any) -> list[Finding]:
    """What is found in a state that the reconciler really writes."""
    status = ReconcilerStatus(**{"generation": 7, "updated": NOW - 5, "nodes": {"node-a": 2}, **fields})
    (folder / "status.json").write_bytes(status.to_json())
    return list(check_reconciler(folder / "status.json", now=NOW, resync=RESYNC))


def wrong(found: list[Finding]) -> list[tuple[str, str, Level]]:
    return [(one.area, one.subject, one.level) for one in found if one.level is not Level.OK]


def test_a_mesh_in_order_is_one_line_per_meshlet_and_one_for_the_reconciler(tmp_path: Path) -> None:
    found = findings(tmp_path, meshlets=(meshlet(),))
    assert [(one.area, one.level) for one in found] == [("reconciler", Level.OK), ("meshlet", Level.OK)]


@pytest.mark.parametrize(
    ("type_", "condition", "level"),
    [
        ("Resolved", ("False", "ClientTargetMissing", "http.nope.shop"), Level.WARNING),
        ("Available", ("False", "NoReadyPods", "none"), Level.PROBLEM),
        ("Available", ("True", "ReadyPods", "not on a node of the mesh: shop/x on no node"), Level.WARNING),
        ("SelectorConsistent", ("False", "SelectorMatchesOtherPods", "shop/x"), Level.WARNING),
        ("CanaryDegraded", ("True", "CanaryVersionUnavailable", "no ready pod of version v2"), Level.WARNING),
        ("CanaryDegraded", ("True", "CanaryVersionNotListed", "v3"), Level.WARNING),
        ("Published", ("False", "BusUnavailable", "no bus"), Level.PROBLEM),
    ],
)
def test_each_bad_condition_is_found_with_its_message_and_a_fix(
    tmp_path: Path, type_: str, condition: tuple[str, str, str], level: Level
) -> None:
    found = findings(tmp_path, meshlets=(meshlet(**{type_: condition}),))
    assert wrong(found) == [("meshlet", "shop/cart", level)]
    assert condition[2] in found[-1].message
    assert found[-1].fix not in ("", "see the message")


def test_an_invalid_meshlet_is_one_problem_not_one_per_condition(tmp_path: Path) -> None:
    problem = Problem("$.spec.server", "is wrong", "shop.yaml", 7)
    never = ("False", "NotInForce", "the meshlet was never valid")
    status = meshlet(
        Accepted=("False", "Invalid", f"it is not in force; {problem}"), Resolved=never, Available=never, Published=never
    )
    found = findings(tmp_path, meshlets=(status,), problems=(problem,))
    assert wrong(found) == [("meshlet", "shop/cart", Level.PROBLEM)]
    assert "shop.yaml:7" in found[-1].message


def test_what_discovery_could_not_read_is_a_problem_at_its_line(tmp_path: Path) -> None:
    found = findings(tmp_path, problems=(Problem("", "is no YAML", "shop.yaml", 3),))
    assert wrong(found) == [("input", "shop.yaml:3", Level.PROBLEM)]


def test_a_pod_of_a_meshlet_that_does_not_exist_is_a_problem_with_the_nearest_name(tmp_path: Path) -> None:
    pods = (PodRef("shop", "web-0"), PodRef("shop", "web-1"))
    found = findings(tmp_path, meshlets=(meshlet(),), orphans={MeshletRef("shop", "crat"): pods})
    assert wrong(found) == [("pod", "shop/web-0 and 1 more", Level.PROBLEM)]
    assert "names crat, which is no Meshlet of shop" in found[-1].message
    assert "did you mean 'cart'?" in found[-1].fix


def test_a_lost_bus_is_a_problem_and_a_reconciler_that_stands_still_a_warning(tmp_path: Path) -> None:
    assert wrong(findings(tmp_path, bus_error="no bus")) == [("reconciler", "bus", Level.PROBLEM)]
    assert wrong(findings(tmp_path, updated=NOW - 2 * RESYNC - 2)) == [("reconciler", "itself", Level.WARNING)]
    assert not wrong(findings(tmp_path, updated=NOW - 2 * RESYNC + 2))


def test_no_state_and_broken_state_are_problems(tmp_path: Path) -> None:
    (missing,) = check_reconciler(tmp_path / "status.json", now=NOW, resync=RESYNC)
    (tmp_path / "status.json").write_text("{")
    (broken,) = check_reconciler(tmp_path / "status.json", now=NOW, resync=RESYNC)
    assert (missing.level, broken.level) == (Level.PROBLEM, Level.PROBLEM)


@pytest.mark.parametrize(
    ("left", "level"), [(LEAST_ROOT_SECONDS + 60, Level.OK), (LEAST_ROOT_SECONDS - 60, Level.WARNING), (-1.0, Level.PROBLEM)]
)
def test_a_root_is_judged_by_the_time_it_has_left(tmp_path: Path, left: float, level: Level) -> None:
    authority = CertificateAuthority.create(tmp_path / "ca", "mesh.test")
    ends = authority.root.not_valid_after_utc.timestamp()
    (found,) = check_roots(tmp_path / "ca" / "bundle.pem", now=ends - left)
    assert found.level is level
    assert found.subject.startswith("mesh.test ")


def test_both_roots_of_a_rotation_are_shown(tmp_path: Path) -> None:
    CertificateAuthority.create(tmp_path / "ca", "mesh.test").rotate()
    found = list(check_roots(tmp_path / "ca" / "bundle.pem", now=datetime.datetime.now(datetime.UTC).timestamp()))
    assert [one.level for one in found] == [Level.OK, Level.OK]
    assert len({one.subject for one in found}) == 2


def test_roots_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    (missing,) = check_roots(tmp_path / "bundle.pem", now=NOW)
    (tmp_path / "bundle.pem").write_text("nothing")
    (broken,) = check_roots(tmp_path / "bundle.pem", now=NOW)
    assert (missing.level, broken.level) == (Level.PROBLEM, Level.PROBLEM)
    assert json.dumps(missing.to_dict())
    assert certificates.ROOT_LIFETIME.total_seconds() > LEAST_ROOT_SECONDS
