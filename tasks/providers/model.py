"""What every provider is to the rest of Mailstay: its things, what it can do as data, and how it is asked.

No address of a subscriber passes this boundary: people are known by their subscriber id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

CampaignStatus = Literal["draft", "scheduled", "running", "paused", "cancelled", "finished"]
SendStatus = Literal["sending", "accepted", "failed"]
SuppressionReason = Literal["unsubscribed", "complaint", "hard_bounce", "manual"]
Kind = Literal["campaign", "batch", "feed"]
Action = Literal["pause", "unschedule", "reschedule", "start", "resume", "cancel", "retire"]


@dataclass(frozen=True)
class Probe:
    """One look at the provider's API: whether it answered as itself, how fast, and what was wrong if not."""

    ok: bool
    seconds: float
    at: datetime
    detail: str = ""


@dataclass(frozen=True)
class Campaign:
    """A campaign as the provider has it now.

    Attributes:
        kind: `newsletter`, `launch`, `sale`, `winback`, …; `other` where the campaign does not say.
        latest_useful_at: after it the message must not go out; None where the campaign does not say.
        to_send: messages that the provider means to send; counted by it when it starts.
        catch_up_of: the id of the campaign whose remaining people this one was made for by `recover`.
        step: the step of the ramp that this catch-up campaign is, from 1; 0 for any other campaign.
        bounced: bounces that the provider counts for it; 0 where it counts none.
        complaints: complaints that the provider counts for it; 0 where it counts none.
        of: `batch` for messages of our own making that wait at the provider under one id; `feed` for a campaign that
            the provider sends again and again by itself (RSS), of which only what is still to come is told.
    """

    id: int
    uuid: str
    name: str
    kind: str
    status: CampaignStatus
    send_at: datetime | None
    latest_useful_at: datetime | None
    list_ids: tuple[int, ...]
    to_send: int
    sent: int
    started_at: datetime | None
    tags: tuple[str, ...]
    subject: str
    catch_up_of: int | None = None
    step: int = 0
    bounced: int = 0
    complaints: int = 0
    of: Kind = "campaign"


@dataclass(frozen=True)
class RunningStats:
    """How far the provider's sender is with one campaign that it works on."""

    campaign_id: int
    status: str
    to_send: int
    sent: int
    updated_at: datetime | None


@dataclass(frozen=True)
class MailingList:
    """A list of subscribers."""

    id: int
    name: str


@dataclass(frozen=True)
class Membership:
    """A subscriber on a list, with the status of that subscription and of the subscriber.

    Attributes:
        since: when the subscriber came onto the list; None where the provider does not say.
        left_at: since when the subscriber is not mailable any more, as far as the provider says; None while it is.
    """

    subscriber_id: int
    list_id: int
    status: Literal["unconfirmed", "confirmed", "unsubscribed"]
    subscriber_status: Literal["enabled", "disabled", "blocklisted"]
    since: datetime | None = None
    left_at: datetime | None = None

    @property
    def mailable(self) -> bool:
        """Whether the provider would mail this subscriber through this list."""
        return self.status != "unsubscribed" and self.subscriber_status == "enabled"

    def was_due(self, planned_at: datetime | None) -> bool:
        """Whether the subscriber belonged to the audience of a campaign planned for `planned_at`."""
        if planned_at is None:
            return self.mailable
        joined = self.since is None or self.since <= planned_at
        return joined and (self.mailable or (self.left_at is not None and self.left_at > planned_at))


@dataclass(frozen=True)
class Suppression:
    """A subscriber that must not be mailed, through `list_id` or, if that is None, at all."""

    subscriber_id: int
    reason: SuppressionReason
    list_id: int | None = None


@dataclass(frozen=True)
class SendRecord:
    """One line of the sender's own log: `sending` is written before the message leaves, `accepted` after.

    A record that stays `sending` is an unknown outcome. `smtp_code` is the reply of the receiving server, None
    where none was recorded.
    """

    campaign_id: int
    subscriber_id: int
    status: SendStatus
    at: datetime
    smtp_code: int | None = None


@dataclass(frozen=True)
class ProviderEvent:
    """Something that happened to one message, as the provider recorded it."""

    event_id: int
    type: str
    campaign_id: int
    subscriber_id: int
    occurred_at: datetime


@dataclass(frozen=True)
class Capability:
    """What one action does to a campaign in one status.

    Attributes:
        undo: the action that brings it back; None where nothing does.
        restores_exactly: whether the undo leaves the campaign as it was before (audience included).
        source: where this is written or was measured.
        before: how long before `send_at` it must be asked for; None where the status alone decides.
        expires: how long after `send_at` a held message is thrown away; None where it is kept.
        rate: the name of the limit that its call counts against; empty where none is documented.
        deadline: until when it works, in words; empty where it always does.
        limits: what it cannot do.
        leaves_behind: what stays changed even after the undo.
        of: what it is done to.
    """

    action: Action
    from_status: CampaignStatus
    to_status: CampaignStatus
    undo: Action | None
    restores_exactly: bool
    source: str
    before: timedelta | None = None
    expires: timedelta | None = None
    rate: str = ""
    deadline: str = ""
    limits: str = ""
    leaves_behind: str = ""
    of: Kind = "campaign"

    @property
    def undoable(self) -> bool:
        """Whether an action of the same provider takes it back."""
        return self.undo is not None

    def in_time(self, send_at: datetime | None, now: datetime) -> bool:
        """Whether it can still be asked for at `now`."""
        return self.before is None or send_at is None or now <= send_at - self.before


@dataclass(frozen=True)
class RateLimit:
    """At most `calls` calls within any `per`, over everything that `covers` says.

    Attributes:
        name: what a `Capability` calls it by.
        paths: beginnings of the paths (or of method and path) that count against it, of which the longest that fits
            counts; empty for all that no other limit covers.
    """

    name: str
    calls: int
    per: timedelta
    covers: str
    source: str
    paths: tuple[str, ...] = ()

    @property
    def scarce(self) -> bool:
        """Whether calls must be saved: fewer than one a second over an hour or more."""
        return self.per >= timedelta(hours=1) and self.calls < self.per / timedelta(seconds=1)


@dataclass(frozen=True)
class Trap:
    """Something that a provider does and nobody would expect, and what Mailstay does about it."""

    name: str
    what: str
    handled: str
    source: str


@dataclass(frozen=True)
class ByHand:
    """What only a person can do, where the API cannot: "log in and …", as the plan of a response shows it."""

    status: CampaignStatus
    what: str
    source: str
    of: Kind = "campaign"


@dataclass(frozen=True)
class Capabilities:
    """What a kind of provider can do, before anybody needs it.

    Attributes:
        title: the provider's name as people write it.
        send_log: whether it can say per subscriber whether a campaign was attempted.
        resume_per_recipient: whether its own resume skips exactly those who were already mailed.
        fires_late: whether it sends a scheduled campaign however long its time is past; None where nobody knows.
        stop_all: how everything of the account is stopped at once, in words.
        page_rows: rows that one page of its lists holds at most.
        needs_user: whether its API takes a user beside the token.
        list_opt_outs: whether an opt-out from one list leaves a mark there; where not, taking people off a list
            forgets their wish, and an opt-out blocks them everywhere.
        drafts_are_untouched: whether a draft surely never sent; where a campaign that was stopped half way becomes a
            draft again, only the journal can say that it was stopped before its time.
        slots: it schedules only at multiples of this within the hour; None for any time.
        connections: calls that may be under way at the same time; None where no such limit is documented.
        limits_source: where `connections` is written.
    """

    kind: str
    title: str
    actions: tuple[Capability, ...]
    send_log: bool
    resume_per_recipient: bool
    fires_late: bool | None
    stop_all: str
    page_rows: int
    needs_user: bool = False
    list_opt_outs: bool = True
    drafts_are_untouched: bool = True
    slots: timedelta | None = None
    connections: int | None = None
    limits_source: str = ""
    rates: tuple[RateLimit, ...] = ()
    by_hand: tuple[ByHand, ...] = ()
    traps: tuple[Trap, ...] = ()

    def allowed(self, status: CampaignStatus, of: Kind = "campaign") -> tuple[Capability, ...]:
        """Return what can be done to a campaign (or batch) in `status`."""
        return tuple(one for one in self.actions if (one.from_status, one.of) == (status, of))

    def find(self, action: Action, status: CampaignStatus, of: Kind = "campaign") -> Capability | None:
        """Return what `action` does to a campaign in `status`; None where the provider refuses it."""
        return next((one for one in self.allowed(status, of) if one.action == action), None)

    def hold(self, status: CampaignStatus, of: Kind = "campaign") -> Capability | None:
        """Return the action that keeps a campaign in `status` from sending and can be undone, if there is one."""
        return self.find("pause", status, of) or self.find("unschedule", status, of)

    def rate_of(self, capability: Capability) -> RateLimit | None:
        """Return the limit that asking for `capability` counts against; None where none is documented."""
        return next((one for one in self.rates if one.name == capability.rate), None)

    @property
    def longest_window(self) -> timedelta:
        """The longest window of a limit that an action counts against: one call may wait that long."""
        limits = [self.rate_of(one) for one in self.actions]
        return max((limit.per for limit in limits if limit is not None), default=timedelta())

    def left_to_people(self, status: CampaignStatus, of: Kind = "campaign") -> str:
        """Return what a person can do to a campaign in `status` that the API cannot; empty where nothing is known."""
        return next((one.what for one in self.by_hand if (one.status, one.of) == (status, of)), "")

    def next_slot(self, at: datetime) -> datetime:
        """Return the first time from `at` on that the provider can schedule at."""
        if self.slots is None:
            return at
        return at + (datetime.min.replace(tzinfo=at.tzinfo) - at) % self.slots


class Provider(Protocol):
    """How a provider is asked. Reads may be repeated and are; a write is sent once.

    Every method may raise `ProviderUnavailable` (its `outcome_unknown` says whether a change may have happened) or
    `ProviderRefused` (surely not).
    """

    name: str
    capabilities: Capabilities

    def health(self) -> Probe:
        """Ask for something only the real API can answer; never raises."""

    def running_stats(self) -> list[RunningStats]:
        """Return the campaigns that the sender works on now, stopping ones included."""

    def campaigns(self) -> list[Campaign]:
        """Return every campaign, checked against the total that the provider promised."""

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one campaign as it is now: how every write is read back."""

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the campaign called exactly `name` (the oldest of several)."""

    def pause(self, campaign_id: int) -> None:
        """Stop a running campaign."""

    def unschedule(self, campaign_id: int) -> None:
        """Take a scheduled campaign back to draft; its time stays stored."""

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Schedule a draft or paused campaign at its stored time, or at `send_at` where the provider lost that."""

    def start(self, campaign_id: int) -> None:
        """Start a draft or paused campaign at once."""

    def cancel(self, campaign_id: int) -> None:
        """End a running or paused campaign for good."""

    def retire(self, campaign_id: int, tag: str) -> None:
        """Take the time of a draft away and tag it, so that nobody schedules it again by mistake."""

    def create_campaign(
        self,
        *,
        copy_of: int,
        name: str,
        list_id: int,
        tags: Sequence[str] = (),
        step: int = 1,
        latest_useful_at: datetime | None = None,
        send_at: datetime | None = None,
    ) -> Campaign:
        """Create a draft with the content of `copy_of`, for the people of `list_id` only."""

    def lists(self) -> list[MailingList]:
        """Return every list."""

    def find_list(self, name: str) -> MailingList | None:
        """Return the list called exactly `name` (the oldest of several)."""

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a private single opt-in list, for people who are on the lists `among`."""

    def delete_list(self, list_id: int) -> None:
        """Delete a list; its subscribers stay."""

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Put subscribers on a list as confirmed; who is on it already stays."""

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists (None: on any list), with their status."""

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all subscribers that there are, on a list or not."""

    def addresses(self) -> dict[int, str]:
        """Return the address of every subscriber by id; personal data, never to be logged or kept."""

    def suppressions(self) -> list[Suppression]:
        """Return whom the provider would not mail: blocklisted, disabled, unsubscribed, hard bounce, complaint."""

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Unsubscribe people from lists."""

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Block people from every campaign."""

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Yield the sender's own log of a campaign, in the order of attempts.

        Raises:
            NotOffered: this provider keeps none.
        """

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Yield the events (of one campaign) after `after_id`, oldest first.

        Raises:
            NotOffered: this provider keeps none.
        """

    def close(self) -> None:
        """Give the connections back."""
