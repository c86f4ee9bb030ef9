"""The Meshlet schema: the contract's example loads, and every mistake is told with path, line and cure, all at once."""

# ruff: noqa: E501 - messages are asserted whole, so that they can be searched for
from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import ValidationError
from meshless_core.meshlet import API_VERSIONS, CanaryWeight, Meshlet, Service, load_objects, parse_meshlet
from meshless_core.meshlet.schema import is_label_key, is_label_value
from meshless_core.types import MAX_SERVICE_ID_BYTES, MeshletRef, ServiceId

EXAMPLE = """\
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  client:
    - {namespace: shop, meshlet: db, service: sql}
  server:
    selector: {app: cart}
    services:
      - name: http
        maxConn: 100
        idleTimeout: 1m
        allow:
          - {namespace: shop, meshlet: web}
        proxyProtocol: v2
    canary:
      - {version: v1, weight: 99}
      - {version: v2, weight: 1}
"""


def parse(text: str) -> Meshlet:
    (obj,) = load_objects(text, "f.yaml")
    return parse_meshlet(obj.data, obj.source, obj.marks)


def problems(text: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value]


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """The example with one value replaced or added; with `...` removed."""
    data: Any = yaml.safe_load(EXAMPLE)
    here = data
    for step in path[:-1]:
        here = here[step]
    if value is ...:
        del here[path[-1]]
    elif isinstance(here, list) and path[-1] == len(here):
        here.append(value)
    else:
        here[path[-1]] = value
    return dict(data)


def problems_of(path: list[Any], value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        parse_meshlet(changed(path, value))
    return [str(problem) for problem in caught.value]


@pytest.mark.parametrize("version", API_VERSIONS)
def test_the_contracts_example_loads_in_both_api_groups(version: str) -> None:
    assert parse(EXAMPLE.replace("meshless.dev/v1", version)) == Meshlet(
        ref=MeshletRef("shop", "cart"),
        clients=(ServiceId("sql", "db", "shop"),),
        selector={"app": "cart"},
        services=(Service("http", 100, 60_000_000_000, (MeshletRef("shop", "web"),), "v2"),),
        canary=(CanaryWeight("v1", 99), CanaryWeight("v2", 1)),
    )


def test_everything_but_the_name_is_optional() -> None:
    bare = {"apiVersion": "meshless.dev/v1", "kind": "Meshlet", "metadata": {"name": "web"}, "spec": {}}
    assert parse_meshlet(bare) == Meshlet(MeshletRef("default", "web"))


def test_what_the_api_server_adds_is_let_through() -> None:
    added = {
        "uid": "x",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": "now",
        "managedFields": [{}],
        "labels": {"a": ""},
    }
    data = changed(["metadata"], {"name": "cart", "namespace": "shop", **added}) | {"status": {"conditions": []}}
    assert parse_meshlet(data).ref == MeshletRef("shop", "cart")


def test_all_problems_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = (
        EXAMPLE.replace("maxConn: 100", 'maxConn: "5"')
        .replace("idleTimeout: 1m", "idleTimeout: -1m")
        .replace("allow:", "alow:")
        .replace("weight: 99", "weight: -1")
        .replace("name: cart", "name: Cart")
    )
    assert problems(text) == [
        "f.yaml:3: $.metadata.name: the string 'Cart' is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', no '-' at the ends",
        "f.yaml:11: $.spec.server.services[0].maxConn: must be an integer, not the string '5': write it without quotes",
        "f.yaml:12: $.spec.server.services[0].idleTimeout: idleTimeout must not be negative, the string '-1m' is: remove it for no limit",
        "f.yaml:13: $.spec.server.services[0].alow: unknown field, did you mean 'allow'?",
        "f.yaml:17: $.spec.server.canary[0].weight: must be an integer from 0 to 2147483647, not -1",
    ]


SERVICE = ["spec", "server", "services", 0]
CANARY = ["spec", "server", "canary"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["apiVersion"], ..., "$: required field 'apiVersion' is missing"),
        (["apiVersion"], "meshless.dev/v2", "$.apiVersion: the string 'meshless.dev/v2' is not known, use meshless.dev/v1"),
        (["kind"], "Mesh", "$.kind: must be Meshlet, not the string 'Mesh'"),
        (["kind"], ..., "$: required field 'kind' is missing"),
        (["metadata"], ..., "$: required field 'metadata' is missing"),
        (["metadata", "name"], ..., "$.metadata: required field 'name' is missing"),
        (["metadata", "name"], 5, "$.metadata.name: must be a string, not the number 5: put it in quotes"),
        (["metadata", "nmae"], "x", "$.metadata.nmae: unknown field, did you mean 'name'?"),
        (["metadata", "namespace"], "a.b", "$.metadata.namespace: the string 'a.b' is not a DNS label"),
        (["metadata", "labels"], {"a b": "x"}, '$.metadata.labels["a b"]: is not a label key'),
        (["metadata", "labels"], {"a": "x y"}, "$.metadata.labels.a: the string 'x y' is not a label value"),
        (["metadata", "labels"], {"a": True}, "$.metadata.labels.a: must be a string, not the boolean true: put it in quotes"),
        (["spec"], ..., "$: required field 'spec' is missing"),
        (["spec"], None, "$.spec: must be a mapping, not nothing (null): give it a value or remove it"),
        (["spec", "canary"], [], "$.spec.canary: unknown field, move it below spec.server"),
        (["spec", "servers"], [], "$.spec.servers: unknown field, did you mean 'server'?"),
        (["spec", "client"], {}, "$.spec.client: must be a sequence, not a mapping"),
        (
            ["spec", "client", 0],
            "sql.db.shop",
            "$.spec.client[0]: must be a mapping with string keys, not the string 'sql.db.shop'",
        ),
        (["spec", "client", 0, "service"], ..., "$.spec.client[0]: required field 'service' is missing"),
        (["spec", "client", 0, "service"], "x" * 64, "$.spec.client[0].service: the string"),
        (["spec", "client", 0, "port"], 5, "$.spec.client[0].port: unknown field, known are meshlet, namespace, service"),
        (
            ["spec", "client", 1],
            {"namespace": "shop", "meshlet": "db", "service": "sql"},
            "$.spec.client[1]: duplicate service 'sql.db.shop', first at $.spec.client[0]: keep one",
        ),
        (["spec", "server", "selector"], {}, "$.spec.server.selector: is empty and would select every pod"),
        (
            ["spec", "server", "selector"],
            {"app": 5},
            "$.spec.server.selector.app: must be a string, not the number 5: put it in quotes",
        ),
        (["spec", "server", "selector"], None, "$.spec.server.selector: must be a mapping, not nothing (null)"),
        (["spec", "server", "services"], ..., "$.spec.server: required field 'services' is missing"),
        (["spec", "server", "services"], [], "$.spec.server.services: has no entry: name a service or remove spec.server"),
        ([*SERVICE, "name"], ..., "$.spec.server.services[0]: required field 'name' is missing"),
        ([*SERVICE, "name"], "Http", "$.spec.server.services[0].name: the string 'Http' is not a DNS label"),
        (
            ["spec", "server", "services", 1],
            {"name": "http"},
            "$.spec.server.services[1].name: duplicate service 'http', first at $.spec.server.services[0]: keep one",
        ),
        ([*SERVICE, "maxConn"], 0, "$.spec.server.services[0].maxConn: must be an integer from 1 to 2147483647, not 0"),
        ([*SERVICE, "maxConn"], True, "$.spec.server.services[0].maxConn: must be an integer, not the boolean true"),
        ([*SERVICE, "maxConn"], 1.0, "$.spec.server.services[0].maxConn: must be an integer, not the number 1.0"),
        ([*SERVICE, "maxConn"], 2**31, "$.spec.server.services[0].maxConn: must be an integer from 1 to 2147483647"),
        (
            [*SERVICE, "maxConn"],
            None,
            "$.spec.server.services[0].maxConn: must be an integer, not nothing (null): give it a value or remove it",
        ),
        ([*SERVICE, "idleTimeout"], "1d", "$.spec.server.services[0].idleTimeout: '1d' is not a duration: unknown unit 'd'"),
        (
            [*SERVICE, "idleTimeout"],
            60,
            "$.spec.server.services[0].idleTimeout: the number 60 has no unit: write for example 60s or 60m",
        ),
        ([*SERVICE, "idleTimeout"], False, "$.spec.server.services[0].idleTimeout: must be a string, not the boolean false"),
        ([*SERVICE, "idleTimeout"], "-1ns", "$.spec.server.services[0].idleTimeout: idleTimeout must not be negative"),
        ([*SERVICE, "allow"], None, "$.spec.server.services[0].allow: must be a sequence, not nothing (null)"),
        ([*SERVICE, "allow", 0, "meshlet"], ..., "$.spec.server.services[0].allow[0]: required field 'meshlet' is missing"),
        ([*SERVICE, "allow", 0, "service"], "x", "$.spec.server.services[0].allow[0].service: unknown field"),
        (
            [*SERVICE, "allow", 1],
            {"namespace": "shop", "meshlet": "web"},
            "$.spec.server.services[0].allow[1]: duplicate meshlet 'shop/web'",
        ),
        (
            [*SERVICE, "proxyProtocol"],
            "v1",
            "$.spec.server.services[0].proxyProtocol: the string 'v1' is not supported: use v2 or remove it",
        ),
        (
            [*SERVICE, "maxConn"],
            1e20,
            "$.spec.server.services[0].maxConn: must be an integer from 1 to 2147483647, not 1e+20",
        ),
        (["apiVersion"], ..., "$: required field 'apiVersion' is missing: write apiVersion: meshless.dev/v1"),
        (CANARY, [], "$.spec.server.canary: has no entry"),
        ([*CANARY, 0, "wieght"], 5, "$.spec.server.canary[0].wieght: unknown field, did you mean 'weight'?"),
        ([*CANARY, 0, "weight"], ..., "$.spec.server.canary[0]: required field 'weight' is missing"),
        (
            [*CANARY, 0, "weight"],
            "1",
            "$.spec.server.canary[0].weight: must be an integer, not the string '1': write it without quotes",
        ),
        ([*CANARY, 0, "weight"], True, "$.spec.server.canary[0].weight: must be an integer, not the boolean true"),
        (
            [*CANARY, 0, "version"],
            1.0,
            "$.spec.server.canary[0].version: must be a string, not the number 1.0: put it in quotes",
        ),
        ([*CANARY, 0, "version"], "", "$.spec.server.canary[0].version: the string '' is not a label value"),
        (
            [*CANARY, 0, "version"],
            "v2",
            "$.spec.server.canary[1].version: duplicate version 'v2', first at $.spec.server.canary[0]: keep one",
        ),
        (CANARY, [{"version": "a", "weight": 0}, {"version": "b", "weight": 0}], "$.spec.server.canary: every weight is 0"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_cure(path: list[Any], value: Any, problem: str) -> None:
    found = problems_of(path, value)
    assert len(found) == 1, found
    assert found[0].startswith(problem)


def test_a_weight_of_zero_beside_another_is_fine() -> None:
    canary = parse_meshlet(changed([*CANARY, 1, "weight"], 0)).canary
    assert canary == (CanaryWeight("v1", 99), CanaryWeight("v2", 0))


@pytest.mark.parametrize("zero", ["0", "0s", "-0", 0])
def test_an_idle_timeout_of_zero_is_no_limit(zero: object) -> None:
    assert parse_meshlet(changed([*SERVICE, "idleTimeout"], zero)).services[0].idle_timeout_ns is None


def test_an_empty_allow_list_lets_nobody_in_and_none_is_no_list() -> None:
    assert parse_meshlet(changed([*SERVICE, "allow"], [])).services[0].allow == ()
    assert parse_meshlet(changed([*SERVICE, "allow"], ...)).services[0].allow is None


def test_a_service_id_never_exceeds_its_limit_since_its_labels_cannot() -> None:
    longest = ServiceId("s" * 63, "m" * 63, "n" * 63)
    assert len(str(longest)) == 191 < MAX_SERVICE_ID_BYTES
    assert ServiceId.parse(str(longest)) == longest


@pytest.mark.parametrize("value", [None, 5, "x", [], {1: 2}])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"\$: must be a mapping with string keys"):
        parse_meshlet(value)


def test_the_source_is_named_also_without_lines() -> None:
    with pytest.raises(ValidationError, match=r"^pod-list:7: \$: required field"):
        parse_meshlet({"apiVersion": "meshless.dev/v1", "kind": "Meshlet", "metadata": {"name": "a"}}, "pod-list:7")


@pytest.mark.parametrize(
    ("text", "good"),
    [("", True), ("a" * 63, True), ("a" * 64, False), ("-a", False), ("A.b_c-1", True), ("a\n", False), ("ä", False)],
)
def test_label_values_are_those_of_kubernetes(text: str, good: bool) -> None:
    assert is_label_value(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("app", True),
        ("meshless/meshlet", True),
        ("a.b/c", True),
        ("", False),
        ("/a", False),
        ("A/b", False),
        ("a/b/c", False),
        ("a/", False),
    ],
)
def test_label_keys_are_those_of_kubernetes(text: str, good: bool) -> None:
    assert is_label_key(text) is good


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)  # fmt: skip
PATHS = [
    ["metadata"],
    ["spec"],
    ["spec", "client"],
    ["spec", "client", 0],
    ["spec", "server"],
    SERVICE,
    CANARY,
    [*SERVICE, "allow"],
    [*CANARY, 0],
    ["metadata", "labels"],
]


@given(st.sampled_from(PATHS), JSON)
def test_whatever_stands_anywhere_the_answer_is_a_meshlet_or_problems(path: list[Any], value: Any) -> None:
    data = changed(path, value)
    before = copy.deepcopy(data)
    found: Meshlet | ValidationError
    try:
        found = parse_meshlet(data)
    except ValidationError as error:
        found = error
    if isinstance(found, ValidationError):
        assert found.problems
        assert all(problem.path.startswith("$") and problem.message for problem in found)
    assert repr(data) == repr(before), "the input is left alone"
