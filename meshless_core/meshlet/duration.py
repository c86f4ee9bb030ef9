"""Durations as Go writes them: `idleTimeout: 1h15m30.918s`.

Why our own: the Meshlet resource is defined by Go's `time.ParseDuration`, including what it refuses, how it rounds a fraction
and where it overflows, so a file means the same to every implementation. The loops below follow Go's `leadingInt`,
`leadingFraction`, `ParseDuration` and `Duration.String` step by step, with their 64-bit limits; a test compares them with the
real thing. This module must not be lenient where Go is not.
"""

from __future__ import annotations

from typing import Final

from meshless_core.errors import InvalidDurationError

__all__ = ["format_duration", "parse_duration"]

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek letter mu: Go accepts both
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT: Final = 1 << 63
_WRAP: Final = (1 << 64) - 1
_DIGITS: Final = frozenset("0123456789")
_SHOWN: Final = 64
_HELP: Final = "write for example 30s, 1.5h or 1h15m (units ns, us, ms, s, m, h)"


def _bad(text: str, what: str) -> InvalidDurationError:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return InvalidDurationError(f"{shown!r} is not a duration: {what}; {_HELP}")


def _end_of_digits(text: str, start: int) -> int:
    end = start
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    return end


def _integer(digits: str) -> int | None:
    """Value of the digits, None if it exceeds 2**63, which Go refuses already here."""
    significant = digits.lstrip("0")
    if len(significant) > len(str(_LIMIT)):
        return None
    value = int(significant or "0")
    return value if value <= _LIMIT else None


def _fraction(digits: str) -> tuple[int, float]:
    """Numerator and scale of the digits after the point; what no longer fits 63 bits is cut off, as in Go."""
    value, scale = 0, 1.0
    for digit in digits:
        if value > (_LIMIT - 1) // 10:
            break
        grown = value * 10 + int(digit)
        if grown > _LIMIT:
            break
        value, scale = grown, scale * 10.0
    return value, scale


def parse_duration(text: str) -> int:
    r"""Parse a duration.

    Args:
        text: `[-+]?([0-9]*(\.[0-9]*)?<unit>)+` or a bare, possibly signed `0`.

    Returns:
        Nanoseconds, -2**63 to 2**63 - 1.

    Raises:
        InvalidDurationError: Go would refuse it: no digits, no or an unknown unit, out of range.

    Source: https://pkg.go.dev/time#ParseDuration
    """
    position = 1 if text.startswith(("-", "+")) else 0
    negative = text.startswith("-")
    if text[position:] == "0":
        return 0
    if position == len(text):
        raise _bad(text, "it is empty")
    total = 0
    while position < len(text):
        point = _end_of_digits(text, position)
        whole = _integer(text[position:point])
        if whole is None:
            raise _bad(text, "it is out of range (about 292 years)")
        end = point
        if text.startswith(".", point):
            end = _end_of_digits(text, point + 1)
        if end - position - (end > point) == 0:
            raise _bad(text, "a number is missing")
        numerator, scale = _fraction(text[point + 1 : end])
        after = end
        while after < len(text) and text[after] != "." and text[after] not in _DIGITS:
            after += 1
        if after == end:
            raise _bad(text, "a unit is missing")
        unit = _UNITS.get(text[end:after])
        if unit is None:
            raise _bad(text, f"unknown unit {text[end:after][:16]!r}")
        value = whole * unit
        if value > _LIMIT:
            raise _bad(text, "it is out of range (about 292 years)")
        if numerator > 0:
            # Go computes the fraction in float64, in this order; any other order differs in the last nanosecond.
            value += int(float(numerator) * (float(unit) / scale))
            if value > _LIMIT:
                raise _bad(text, "it is out of range (about 292 years)")
        # Go adds in 64 bits: two parts of exactly 2**63 wrap to zero and pass. Same value here, however odd.
        total = (total + value) & _WRAP
        if total > _LIMIT:
            raise _bad(text, "it is out of range (about 292 years)")
        position = after
    if negative:
        return -total
    if total == _LIMIT:
        raise _bad(text, "it is out of range (about 292 years)")
    return total


def _with_fraction(value: int, digits: int) -> str:
    """`value / 10**digits` without trailing zeros."""
    whole, rest = divmod(value, 10**digits)
    fraction = f"{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def format_duration(ns: int) -> str:
    """Format nanoseconds the way Go's `Duration.String` does: `1h15m30.918s`, `1.5ms`, `0s`."""
    sign, rest = ("-", -ns) if ns < 0 else ("", ns)
    if rest == 0:
        return "0s"
    if rest < 1_000:
        return f"{sign}{rest}ns"
    if rest < 1_000_000:
        return f"{sign}{_with_fraction(rest, 3)}µs"
    if rest < 1_000_000_000:
        return f"{sign}{_with_fraction(rest, 6)}ms"
    minutes, rest = divmod(rest, 60_000_000_000)
    seconds = f"{_with_fraction(rest, 9)}s"
    if minutes == 0:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"
