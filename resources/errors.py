"""The errors that cross a port. A library's own exceptions stop at the adapter that called it, cause kept.

    StreamForgeError
    ├── Unavailable        trying again later may help (a server is down, a disk is full)
    │   └── RateLimited    ... and not before `retry_after` seconds
    └── Rejected           trying again cannot help (bad input, corrupt data, a wrong setting)

Every message says what was wrong, where, and what to do.
"""


class StreamForgeError(Exception):
    """Anything StreamForge refuses or fails to do, in one sentence meant for its user."""


class Unavailable(StreamForgeError):
    """Something outside does not answer or has no room: the same call may succeed later."""


class RateLimited(Unavailable):
    """The exchange refuses requests for now.

    Args:
        message: what was refused and until when.
        retry_after: seconds before a request may be sent again.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(StreamForgeError):
    """The same call can never succeed: the input, the data or a setting has to change."""
