"""Pending keeps one entry per topic, oldest first."""

import pytest

from meshless_core.bus.pending import Pending


async def test_a_topic_that_changes_again_before_it_was_read_is_one_entry_and_keeps_its_place() -> None:
    pending = Pending()
    for topic in ("a", "b", "a", "a"):
        pending.add(topic)
    assert [await pending.next(), await pending.next()] == ["a", "b"]
    assert not pending


def test_taking_from_nothing_is_an_error() -> None:
    with pytest.raises(KeyError):
        Pending().pop()
