from __future__ import annotations

from http import HTTPStatus

from meshless_handshake_http.codes import ANSWERS, REJECTIONS

from meshless_core import ReplyCode

RFC_9209_ERRORS = {
    "dns_timeout",
    "dns_error",
    "destination_not_found",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_write_timeout",
    "connection_limit_reached",
    "http_request_error",
    "http_request_denied",
    "proxy_internal_response",
    "proxy_internal_error",
    "proxy_configuration_error",
}


def test_every_reply_code_has_an_answer_that_http_knows() -> None:
    assert set(ANSWERS) == set(ReplyCode)
    for code, answer in ANSWERS.items():
        assert HTTPStatus(answer.status).phrase
        assert (answer.error in RFC_9209_ERRORS) is (code is not ReplyCode.OK)


def test_what_may_be_retried_is_what_clients_retry() -> None:
    for code, answer in ANSWERS.items():
        if code is ReplyCode.OK:
            assert answer.status == 200
        elif code.retryable:
            assert answer.status in {404, 500, 502, 503, 504}
        else:
            assert answer.status in {400, 403, 505}


def test_every_rejection_is_a_status_with_its_reason() -> None:
    assert all(HTTPStatus(status).phrase and reason for status, reason in REJECTIONS.items())
