"""Every event that crosses a service's border, one union per topic.

Values are JSON of frozen pydantic models; readers ignore unknown fields. `gateway.batches.v1` alone is
MessagePack of one msgspec Struct with packed columns. Each has a worked example in `tests/contract/events`, which
the tests read back. Change is additive only; anything else is a new topic version.
"""
