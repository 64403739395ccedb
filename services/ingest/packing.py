"""Numbers of a bucket in as few bytes as they need; which form was taken follows from the length."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Below so many rows the lengths of two forms may be equal.
_LEAST = 3
_SPAN_US = 2**32


def packed(column: Array) -> bytes:
    """A column, or its one value where all are equal, bit by bit."""
    data = column.tobytes()
    one = data[: column.itemsize]
    return one if data == one * column.size else data


def packed_unless_zero(column: Array) -> bytes:
    """The same, and nothing where all are zero."""
    data = packed(column)
    return data if data.strip(b"\0") else b""


def packed_times(times: Array) -> bytes:
    """Sorted int64 microseconds; within 71 minutes as the first and uint32 distances from it, half the bytes."""
    if times.size >= _LEAST and int(times[-1]) - int(times[0]) < _SPAN_US:
        return times[:1].tobytes() + (times - times[0]).astype("<u4").tobytes()
    return times.tobytes()


def times_of(data: bytes, count: int) -> Array:
    """What `packed_times` packed."""
    if count >= _LEAST and len(data) == 8 + 4 * count:
        return np.frombuffer(data, "<u4", offset=8) + np.frombuffer(data, "<i8", 1)
    return np.frombuffer(data, "<i8")


def packed_values(values: Array) -> bytes:
    """float64 values; as float32 where that loses nothing, one where all are equal."""
    whole = packed(values)
    if values.size >= _LEAST and len(whole) > 8:
        with np.errstate(over="ignore"):
            half = values.astype("<f4")
        if bool((half == values).all()):
            return half.tobytes()
    return whole


def values_of(data: bytes, count: int) -> Array:
    """What `packed_values` packed; one value stands for all."""
    return np.frombuffer(data, "<f4" if count >= _LEAST and len(data) == 4 * count else "<f8")
