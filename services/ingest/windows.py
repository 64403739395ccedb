"""Pieces of samples cut at the borders of windows, and the numbers of each window."""

import numpy as np

from services.ingest.buckets import MINUTE_US, Array

# A piece of a sample that counts, or an instant: `sample` is the number of its row.
PIECE = np.dtype(
    [
        ("start", "<i8"),
        ("end", "<i8"),
        ("value", "<f8"),
        ("offset", "<i2"),
        ("device", "<i4"),
        ("sample", "<i8"),
    ]
)
# `key` is the window's number since 1970, in local time for days; `first` and `last` the offsets at both ends.
WINDOW = np.dtype(
    [
        ("key", "<i8"),
        ("device", "<i4"),
        ("first", "<i2"),
        ("last", "<i2"),
        ("count", "<i8"),
        ("sum", "<f8"),
        ("min", "<f8"),
        ("max", "<f8"),
    ]
)


def clipped(pieces: Array, from_us: int, to_us: int) -> Array:
    """`pieces` inside [from_us, to_us), their values cut in proportion; an instant is in or out."""
    start, end = np.maximum(pieces["start"], from_us), np.minimum(pieces["end"], to_us)
    instant = pieces["start"] == pieces["end"]
    inside = np.where(instant, (start == pieces["start"]) & (start < to_us), end > start)
    if inside.all() and (start == pieces["start"]).all() and (end == pieces["end"]).all():
        return pieces
    found = pieces[inside]
    length = found["end"] - found["start"]
    found["start"], found["end"] = start[inside], end[inside]
    cut = found["end"] - found["start"] < length
    found["value"][cut] *= ((found["end"] - found["start"])[cut]) / length[cut]
    return found


def aggregated(parts: Array, key: Array, *, by_device: bool) -> Array:
    """The windows (dtype WINDOW) of pieces sorted by start, by key and device; windows without any are left out."""
    if not len(parts):
        return np.zeros(0, WINDOW)
    device = parts["device"] if by_device else np.zeros(len(parts), "<i4")
    if by_device or (key[1:] < key[:-1]).any():
        order = np.lexsort((parts["start"], device, key))
        parts, key, device = parts[order], key[order], device[order]
    first = np.flatnonzero(np.append(True, (key[1:] != key[:-1]) | (device[1:] != device[:-1])))
    table = np.zeros(len(first), WINDOW)
    table["key"], table["device"] = key[first], device[first]
    table["first"] = parts["offset"][first]
    table["last"] = parts["offset"][np.append(first[1:], len(parts)) - 1]
    value = np.ascontiguousarray(parts["value"])
    table["sum"] = np.add.reduceat(value, first)
    table["min"] = np.minimum.reduceat(value, first)
    table["max"] = np.maximum.reduceat(value, first)
    table["count"] = _distinct(parts["sample"], first)
    return table


def at_windows(pieces: Array, step: int, daily: bool) -> tuple[Array, Array]:
    """`pieces` cut at the borders of windows, and the number of each one's window."""
    shift = local_shift(pieces["offset"]) if daily else np.zeros(len(pieces), "i8")
    key = (pieces["start"] + shift) // step
    windows = np.maximum((pieces["end"] + shift - 1) // step, key) - key + 1
    if (windows == 1).all():
        return pieces, key
    place = np.repeat(np.arange(len(pieces)), windows)
    parts = pieces[place]
    key = key[place] + np.arange(len(place)) - np.repeat(np.cumsum(windows) - windows, windows)
    cut = np.flatnonzero(windows[place] > 1)
    begin = key[cut] * step - shift[place[cut]]
    length = (parts["end"] - parts["start"])[cut]
    parts["start"][cut] = np.maximum(parts["start"][cut], begin)
    parts["end"][cut] = np.minimum(parts["end"][cut], begin + step)
    parts["value"][cut] *= (parts["end"] - parts["start"])[cut] / length
    return parts, key


def _distinct(sample: Array, first: Array) -> Array:
    """How many different samples each group has: one whose middle another device covers comes as two pieces."""
    size = np.diff(np.append(first, len(sample)))
    if (sample[1:] > sample[:-1]).all():
        return size
    group = np.repeat(np.arange(len(first)), size)
    order = np.lexsort((sample, group))
    sample, group = sample[order], group[order]
    new = np.append(True, (sample[1:] != sample[:-1]) | (group[1:] != group[:-1]))
    return np.bincount(group[new], minlength=len(first))


def local_shift(offset: Array) -> Array:
    """Offsets in minutes as microseconds."""
    return offset.astype("i8") * MINUTE_US
