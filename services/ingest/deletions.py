"""Records that are gone at their source: what a deletion names, checked."""

from dataclasses import dataclass

# A deletion that names no version is final. Ranks double a version, so a quarter of int64 is the most one may be;
# microseconds since 1970 reach it in the year 75000, nanoseconds in 2043.
FINAL_VERSION = (2**63 - 1) // 4


@dataclass(frozen=True)
class CheckedDeletion:
    """A deletion that passed: by the source's id, or by metric and time of a record that has none.

    `identity`: 16 bytes where the source gave an id, else None. `metric`: our name, "" where not told. `start_us` and
    `end_us`: None where not told; where `identity` is None both are there, and are those the stored row has.
    `version`: `FINAL_VERSION` where none was told.
    """

    index: int
    identity: bytes | None
    metric: str
    start_us: int | None
    end_us: int | None
    version: int
    device_id: str

    @property
    def row_identity(self) -> bytes:
        """The 16 bytes under which the record is stored: the id's hash, else start and end packed."""
        if self.identity is not None:
            return self.identity
        if self.start_us is None or self.end_us is None:
            raise AssertionError("a deletion without an id has its times")
        return self.start_us.to_bytes(8, "little") + self.end_us.to_bytes(8, "little")
