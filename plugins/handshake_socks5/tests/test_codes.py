from __future__ import annotations

import pytest
from meshless_handshake_socks5.codes import REJECTIONS, REPLIES, SocksReply

from meshless_core import ReplyCode


def test_every_reply_code_has_a_socks_reply() -> None:
    assert set(REPLIES) == set(ReplyCode)


def test_only_ok_succeeds() -> None:
    assert [code for code, reply in REPLIES.items() if reply is SocksReply.SUCCEEDED] == [ReplyCode.OK]
    assert SocksReply.SUCCEEDED not in REJECTIONS


@pytest.mark.parametrize("code", [ReplyCode.ACCESS_DENIED, ReplyCode.UNKNOWN_CLIENT])
def test_a_policy_s_no_is_told_as_one(code: ReplyCode) -> None:
    assert REPLIES[code] is SocksReply.NOT_ALLOWED
