"""What can go wrong between us and a provider, told apart by what we know afterwards."""

from __future__ import annotations

from tasks.core import MailstayError


class ProvidersError(MailstayError):
    """A provider could not be asked, or its answer could not be used."""


class ProviderUnavailable(ProvidersError):
    """The provider gave no usable answer.

    Attributes:
        outcome_unknown: whether a change may have happened all the same. False: it surely did not (the connection
            was refused, or the call only read). True: it must be read back, never blindly sent again.
        retry_after: seconds after which it may be asked again, if it said so.
    """

    def __init__(
        self,
        what: str,
        *,
        outcome_unknown: bool,
        retry_after: float | None = None,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.outcome_unknown = outcome_unknown
        self.retry_after = retry_after
        super().__init__(what, where=where, fix=fix)


class ProviderGarbled(ProviderUnavailable):
    """The provider answered something that is not its API: HTML, half a JSON document, an unknown state."""


class ProviderRefused(ProvidersError):
    """The provider understood and said no (HTTP 4xx): nothing was changed.

    Attributes:
        status: the HTTP status.
        retry_after: seconds after which it may be asked again, if it said so.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int,
        retry_after: float | None = None,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__(what, where=where, fix=fix)


class NotOffered(ProviderRefused):
    """The provider has no such thing: a part of its API that not every installation offers."""
