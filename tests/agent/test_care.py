from __future__ import annotations

from meshless_core.agent.care import guarded


class Connection:
    def __init__(self) -> None:
        self.failures: list[Exception] = []

    @guarded
    def divide(self, number: int, *, by: int) -> None:
        number // by

    def failed(self, error: Exception) -> None:
        self.failures.append(error)


def test_what_a_method_raises_is_its_objects_affair_alone() -> None:
    connection = Connection()
    connection.divide(1, by=1)
    assert connection.failures == []
    connection.divide(1, by=0)
    assert [type(error) for error in connection.failures] == [ZeroDivisionError]
