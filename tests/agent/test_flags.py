"""The words of `reason` and `flags`: fixed sets, complete, each with its meaning."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from meshless_core.agent.flags import CLOSED_FLAGS, NORMAL, REFUSED_REASONS, Cut, closed_flags, refused_labels
from meshless_core.relay import EndedBy, Outcome
from meshless_core.types import ReplyCode

# what the proposal of metrics names, and what the rest of the reply codes need besides
REASONS = {
    *("policy", "max_conn", "no_endpoint", "connect_failed", "draining"),
    *("not_found", "timeout", "overloaded", "not_ready", "bad_request", "internal_error"),
}


def test_however_a_connection_ends_the_word_is_one_of_the_known_ones() -> None:
    found = {
        closed_flags(outcome, ended_by, cut)
        for outcome, ended_by, cut in product(get_args(Outcome), get_args(EndedBy), get_args(Cut))
    }
    assert found == set(CLOSED_FLAGS)


@pytest.mark.parametrize("ended_by", ["client", "service"])
def test_an_end_of_both_directions_is_normal_whoever_began(ended_by: EndedBy) -> None:
    assert closed_flags("closed", ended_by) == NORMAL == "-"


def test_a_cut_that_came_too_late_does_not_blame_the_agent() -> None:
    assert closed_flags("closed", "client", "revoked") == NORMAL
    assert closed_flags("reset", "service", "draining") == "service_reset"


def test_a_cut_says_why_and_one_of_the_other_agent_says_that_it_was_the_other_one() -> None:
    assert closed_flags("aborted", "agent", "revoked") == "revoked"
    assert closed_flags("aborted", "agent", "draining") == "draining"
    assert closed_flags("aborted", "agent") == "cut"


def test_a_lost_tunnel_blames_neither_end() -> None:
    assert closed_flags("reset", "tunnel") == "tunnel_lost"


@pytest.mark.parametrize("code", [code for code in ReplyCode if code is not ReplyCode.OK], ids=lambda code: code.name)
def test_every_refusal_has_a_class_and_its_code_as_flags(code: ReplyCode) -> None:
    assert refused_labels(code, "some policy") == (REFUSED_REASONS[code], code.name.lower())


def test_the_classes_are_the_documented_ones() -> None:
    assert set(REFUSED_REASONS.values()) == REASONS


def test_a_client_that_does_not_finish_its_request_is_told_from_a_mesh_that_is_slow() -> None:
    assert refused_labels(ReplyCode.TIMEOUT, "handshake") == ("bad_request", "handshake_timeout")
    assert refused_labels(ReplyCode.TIMEOUT, "agent") == ("timeout", "timeout")


def test_a_client_that_left_is_no_error_of_ours() -> None:
    assert refused_labels(ReplyCode.INTERNAL_ERROR, "client") == ("client_gone", "client_gone")
    assert refused_labels(ReplyCode.INTERNAL_ERROR, "agent") == ("internal_error", "internal_error")
