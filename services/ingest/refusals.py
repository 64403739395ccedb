"""Why a record was not stored as sent: every code a receipt may hold, and what to do; listed in docs/metrics.md."""

from typing import Literal

Code = Literal[
    "invalid-record",
    "unknown-metric",
    "unsupported-type",
    "not-a-sample",
    "unknown-unit",
    "out-of-range",
    "before-1970",
    "in-future",
    "end-before-start",
    "too-long",
    "bad-offset",
    "bad-version",
    "unknown-stage",
    "bad-stages",
    "unknown-total",
    "unknown-stream",
    "bad-stream",
    "bad-deletion",
    "superseded",
    "deleted",
]

CODES: dict[Code, str] = {
    "invalid-record": "The record has another form than the API's; see the OpenAPI document.",
    "unknown-metric": "No metric, HealthKit type or Health Connect record has this name; see docs/metrics.md.",
    "unsupported-type": "We keep nothing of this type of the platform's; leave it out, or see the note beside it.",
    "not-a-sample": "This comes as a session; send it under `sessions` with its start and end.",
    "unknown-unit": "The metric has no such unit; send one of those listed under Units; capitals count.",
    "out-of-range": "No body has this value; check the unit, and leave out what a sensor did not measure.",
    "before-1970": "The phone's clock was never set; correct it and send again.",
    "in-future": "It begins more than 24 h from now: the phone's clock is ahead; correct it and send again.",
    "end-before-start": "Send `start` first; a session or a stretch of sleep also lasts longer than nothing.",
    "too-long": "A sample covers at most 26 h (a day with a change of clocks), a session 48 h; split it.",
    "bad-offset": "No place has this offset from UTC; send the one of the user's clock.",
    "bad-version": "A version is a number from 0 to 2,305,843,009,213,693,950; microseconds since 1970 fit.",
    "unknown-stage": "The stage has no such name or number; see the table of stages.",
    "bad-stages": "Stages belong to a sleep, lie inside it and follow one another; only `in_bed` overlaps others.",
    "unknown-total": "No total has this name; see the table of totals.",
    "unknown-stream": "No stream has this name; see the table of streams.",
    "bad-stream": "Streams belong to a workout, one of each name, with as many times as values, all inside it.",
    "bad-deletion": "Name the record by its `id`, or by its `metric` and `start` (and `end` where it had one).",
    "superseded": "A newer `version` of the same record is stored; nothing to do.",
    "deleted": "The same record was deleted at its source; send a higher `version` if it is back.",
}
