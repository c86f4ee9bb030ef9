from __future__ import annotations

import json
import pickle
from pathlib import Path

import meshless_sdk
import pytest
from meshless_sdk import errors

FILE = Path(__file__).parents[3] / "protocol" / "vectors" / "handshake-v1.json"
CODES = [entry for entry in json.loads(FILE.read_text("utf-8"))["codes"] if entry["code"]]


def test_every_reply_code_but_ok_has_a_class_and_no_other() -> None:
    assert set(errors.CODES) == {entry["code"] for entry in CODES}


@pytest.mark.parametrize("entry", CODES, ids=lambda entry: str(entry["name"]))
def test_a_class_carries_the_name_and_retryability_of_its_code(entry: dict[str, object]) -> None:
    assert isinstance(entry["code"], int)
    error = errors.CODES[entry["code"]]("http.cart.shop")
    assert (error.code, error.name, error.retryable) == (entry["code"], entry["name"], entry["retryable"])
    assert str(error).startswith(f"http.cart.shop: {entry['name']} ({entry['code']}): ")
    assert not str(error).endswith(".")
    assert isinstance(error, ConnectionError)
    if type(error) is not errors.AgentTimeout:
        camel = str(entry["name"]).title().replace("_", "")
        assert type(error).__name__ == camel


@pytest.mark.parametrize(
    "error",
    [
        errors.AccessDenied("http.cart.shop"),
        errors.UnknownReplyCode("http.cart.shop", 77),
        errors.AgentTimeout("http.cart.shop"),
        errors.AgentUnavailable("gone", 2),
        errors.HandshakeTimeout("late"),
        errors.ProtocolError("strange"),
        errors.ListenError("taken", 98),
        errors.InvalidServiceId("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_with_everything_they_know(error: errors.MeshlessError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy), getattr(copy, "errno", None)) == (str(error), vars(error), getattr(error, "errno", None))


def test_code_written_for_tcp_keeps_working() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if name not in {"CODES", "MeshlessError", "InvalidArgument", "InvalidServiceId"}:
            assert issubclass(kind, OSError), name
    assert issubclass(errors.HandshakeTimeout, TimeoutError)
    assert issubclass(errors.AgentTimeout, TimeoutError)
    assert issubclass(errors.InvalidServiceId, ValueError)


def test_every_error_is_exported_by_the_package() -> None:
    assert set(errors.__all__) - {"CODES"} <= set(meshless_sdk.__all__)


def test_advice_that_the_agent_gives_too_is_said_once() -> None:
    error = errors.AccessDenied("sql.db.shop")
    error.text = "a policy said no: list the service under spec.client; the log says which rule"
    assert str(error) == f"sql.db.shop: ACCESS_DENIED (4): {error.text}"
