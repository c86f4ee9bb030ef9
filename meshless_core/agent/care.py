"""A bug of ours on the way of one connection costs that connection, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["guarded"]


class _Failing(Protocol):
    def failed(self, error: Exception) -> None:
        """Log it and answer."""


_P = ParamSpec("_P")
_S = TypeVar("_S", bound=_Failing)


def guarded(method: Callable[Concatenate[_S, _P], None]) -> Callable[Concatenate[_S, _P], None]:
    """For methods: what they raise goes to `failed` of their object instead of to their caller."""

    @wraps(method)
    def calling(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - logged with the connection's id, and answered
            self.failed(error)

    return calling
