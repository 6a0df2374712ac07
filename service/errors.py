"""What can go wrong while serving, below every other module of the service.

A request, in the order in which it meets them:
  `RequestSyntaxError`     the body is not JSON or msgpack
  `BodyTooLargeError`      the body is larger than allowed
  `InvalidRequestError`    the body is well formed but asks for something that can't be answered
  `UnknownModelError`      the body names a model that is not served
  `NotReadyError`          the bundle is not verified and warm yet, or the store holds another layout
  `LoopBehindError`        more comes than the event loop can read, and deadlines are missed
  `OverloadedError`        the queue is full
  `DeadlineOutOfReachError`  it would be answered too late, so it is not begun
  `DeadlineExceededError`  the caller's time was up before scoring began
  `CallerLeftError`        the caller hung up; nobody reads an answer
  `InferenceError`         the graph failed: a bug

A change of the slots (`/models`):
  `UnauthorizedError`      the admin token is missing or wrong, or none is set
  `UnknownSlotError`       there is no slot of that name
  `BundleRefusedError`     the bundle can't be served; what was served still is
  `SlotConflictError`      another change is under way, or there is nothing to go back to
  `SlotChangeError`        not all workers could change; what was served still is

Starting: `SettingsError`, `DeviceError`, `StartError`. What HTTP makes of each stands in `service.api.problems`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from contract.errors import InputError, LongsightError


class ServiceError(LongsightError):
    """A request that gets no scores; the message is for its caller."""


@dataclass(frozen=True)
class Complaint:
    """One thing wrong with a request: `where` is a path such as `candidates[3].ad.price`."""

    where: str
    what: str


class RequestSyntaxError(ServiceError):
    """The body is not JSON (or msgpack, when it was declared so)."""


class BodyTooLargeError(ServiceError):
    """The body is larger than `server.max_body_bytes`."""


class InvalidRequestError(ServiceError):
    """The body breaks the request's rules; `complaints` say where."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        self.complaints = tuple(complaints)
        first = self.complaints[0]
        more = len(self.complaints) - 1
        super().__init__(f"{first.where}: {first.what}" + (f" (and {more} more)" if more else ""))

    @classmethod
    def at(cls, where: str, what: str) -> "InvalidRequestError":
        """Complain about one place."""
        return cls([Complaint(where, what)])


class UnknownModelError(ServiceError):
    """The request names a model that this service does not serve."""


class UnauthorizedError(ServiceError):
    """The request lacks the admin token; the message says what to do."""


class UnknownSlotError(ServiceError):
    """There is no slot of that name."""


class BundleRefusedError(ServiceError):
    """The bundle is not there, does not hold what it promises, or does not fit the store; nothing has changed."""


class SlotConflictError(ServiceError):
    """Another change is under way, or the slot has nothing to go back to; nothing has changed."""


class SlotChangeError(ServiceError):
    """Not all workers changed in time, or one of them died; all serve what they served before."""


class NotReadyError(ServiceError):
    """The service can't answer yet; the message is the reason that `/readyz` gives too."""


class OverloadedError(ServiceError):
    """More candidates are waiting than `batching.max_queued_candidates`; nothing of the request was done.

    Attributes:
        reason: as `longsight_shed_total` has it.
        retry_after_s: whole seconds after which what is inside now is expected to be done; at least 1.

    """

    reason: ClassVar[str] = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class LoopBehindError(OverloadedError):
    """More requests come than can be read, and those that are let in miss their deadlines; it was not read."""

    reason: ClassVar[str] = "loop_behind"


class DeadlineOutOfReachError(OverloadedError):
    """With what is inside already, the request can't be answered before its deadline; it was not scored."""

    reason: ClassVar[str] = "out_of_reach"


class DeadlineExceededError(ServiceError):
    """The request's deadline passed before its scoring began."""


class CallerLeftError(ServiceError):
    """The caller closed the connection while its request waited."""


class InferenceError(ServiceError):
    """The graph failed on this request alone: a bug of ours or of the bundle."""


class SettingsError(InputError):
    """A setting that is unknown, mistyped or out of bounds; the message says where it was given."""


class DeviceError(InputError):
    """The device that was asked for can't be used; never answered by using another."""


class StartError(LongsightError):
    """The service can't start here: the port is taken, or a worker died while starting."""
