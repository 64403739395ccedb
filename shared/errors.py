"""How work can fail, as one small tree.

* `Rejected`: this input can never succeed; it becomes a dead letter or a line on a receipt.
* `Unavailable`: our own database, broker or object store does not answer; "later", never lost.
* `Erased`: it is about a user whose data was erased; dropped.
* `Problem`: an HTTP answer other than success, rendered by `shared.problems` (RFC 9457).

Any other exception is a defect: tried again a few times, then a dead letter or a 500.
"""


class Rejected(Exception):
    """The input can never succeed. `reason` is a stable code, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unavailable(Exception):
    """Our own `system` ("database", "broker", "objects") does not answer; try again later."""

    def __init__(self, system: str) -> None:
        super().__init__(f"{system} does not answer")
        self.system = system


class Erased(Exception):
    """What was to be written is a user's who was erased: work of that user is dropped, with nothing kept."""

    def __init__(self) -> None:
        super().__init__("the user was erased")


class Problem(Exception):
    """An HTTP problem document: `code` is the stable last part of its `type`, `detail` says what to do."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.members = members
