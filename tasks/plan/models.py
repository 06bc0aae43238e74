"""The continuity plan: the one file that a user edits, as typed models.

Every key has a description: `mailstay plan schema` turns these into the JSON Schema that editors complete from.
Secrets are never in the plan: a key that ends in `_env` names the environment variable that holds one.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.core import UsageError, bytes_per_second

Minutes = Annotated[int, Field(ge=0, le=60 * 24 * 366)]
CauseClass = Literal[
    "technical_failure", "cyber_attack", "human_error", "natural_disaster", "provider_suspension", "unknown"
]
StatusPageKind = Literal[
    "statuspage", "incident_io", "instatus", "better_stack", "status_io", "sorry", "aws_health"
]
CampaignKind = Literal["newsletter", "launch", "sale", "winback", "transactional", "other"]
CanonicalTable = Literal[
    "subscribers",
    "lists",
    "memberships",
    "suppressions",
    "campaigns",
    "templates",
    "messages",
    "events",
    "orders",
    "order_lines",
    "refunds",
]


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{value!r} is no time zone: give an IANA name such as Europe/London") from None
    return value


TimeZone = Annotated[str, AfterValidator(_known_zone)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StorePlan(_Part):
    """Where snapshots are kept and how they are signed."""

    url: str = Field(description="A folder, or an object store URL such as `s3://bucket/prefix`.")
    signing_key_env: str = Field(
        "MAILSTAY_SIGNING_KEY",
        description="Environment variable with the Ed25519 private key (PEM, or the path of a PEM file).",
    )
    public_key: str | None = Field(
        None, description="The store's public key (hex), pinned here so that a re-signed chain is noticed."
    )
    anchors: dict[str, str] = Field(
        default={}, description="Per source the last anchored manifest digest: removal of newer ones shows."
    )
    reread_days: int = Field(
        30,
        ge=1,
        description="Every object is read in full at least once in so many days; older ones are named.",
    )


class Retention(_Part):
    """Which snapshots `prune` keeps. At least one rule must be set."""

    keep_last: int = Field(7, ge=0, description="Keep this many of the newest snapshots.")
    keep_within_days: int = Field(0, ge=0, description="Keep every snapshot of the last days.")
    keep_hourly: int = Field(0, ge=0, description="Keep the newest valid snapshot of this many hours.")
    keep_daily: int = Field(14, ge=0, description="Keep the newest valid snapshot of this many days.")
    keep_weekly: int = Field(8, ge=0, description="Keep the newest valid snapshot of this many weeks.")
    keep_monthly: int = Field(12, ge=0, description="Keep the newest valid snapshot of this many months.")
    keep_yearly: int = Field(0, ge=0, description="Keep the newest valid snapshot of this many years.")
    grace_hours: int = Field(
        24, ge=1, description="Hours between marking an object that nobody needs and deleting it."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Retention:
        if not any(value for name, value in self if name.startswith("keep_")):
            raise ValueError(
                "an empty retention would remove every snapshot: set at least one keep_… above 0"
            )
        return self


MappingName = Literal["shop", "listmonk", "listmonk_api", "brevo", "sendgrid", "none"]
EXPORT_MAPPINGS: dict[str, MappingName] = {
    "listmonk": "listmonk_api",
    "brevo": "brevo",
    "sendgrid": "sendgrid",
}
"""By kind of provider the mapping of its export."""
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A source's name is a folder of the store: letters, digits, - and _, beginning with a letter or digit."""


class SourcePlan(_Part):
    """A database whose tables are backed up from one consistent point, or a provider's account through its API."""

    url: str | None = Field(
        None,
        description="SQLAlchemy URL without a password: `sqlite:///…`, `duckdb:///…`, `postgresql://…`, `mysql://…` "
        "(MariaDB too), or that of another installed dialect.",
    )
    url_env: str | None = Field(None, description="Environment variable with the SQLAlchemy URL.")
    provider: str | None = Field(
        None, description="In place of a URL: the provider whose account is exported through its API."
    )
    mapping: MappingName = Field(
        "none", description="Which mapping brings this source's tables onto the canonical model."
    )
    db_schema: str | None = Field(
        None, alias="schema", description="Database schema (MySQL: database); the default if absent."
    )
    tables: list[str] = Field(default=[], description="The tables to back up; empty means all.")
    exclude: list[str] = Field(default=[], description="Tables to leave out.")
    contracts: str | None = Field(
        None, description="Folder of the table contracts that `validate` applies, relative to this file."
    )
    backup_every: Minutes = Field(1440, description="Minutes between two backups, as scheduled.")
    limit_rate: str | None = Field(
        None,
        description="The most a backup reads from this database, such as `20MiB/s`; as fast as it can if absent.",
    )

    readers: int = Field(
        2,
        ge=1,
        le=16,
        description="Tables that a backup reads at the same time, each over a connection of its own.",
    )
    narrow: Literal["none", "changes"] = Field(
        "none",
        description="With `changes`, tables that PostgreSQL (17 or later, `summarize_wal = on`) proves unchanged since "
        "the snapshot before are taken over from it and not read.",
    )
    full_read_every: int = Field(
        10,
        ge=1,
        description="With `narrow: changes`: every table is read at the latest in so many snapshots.",
    )

    @field_validator("limit_rate")
    @classmethod
    def _a_rate(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                bytes_per_second(value)
            except UsageError as error:
                raise ValueError(f"{error.what}: {error.fix}") from None
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> SourcePlan:
        if [self.url, self.url_env, self.provider].count(None) != 2:
            raise ValueError("give exactly one of url, url_env and provider")
        if self.provider is not None and (self.db_schema or self.limit_rate):
            raise ValueError("a provider has no schema and sets its own pace: remove schema and limit_rate")
        return self

    @model_validator(mode="after")
    def _a_record_of_changes(self) -> SourcePlan:
        other = self.url is not None and not self.url.startswith("postgresql")
        if self.narrow == "changes" and (other or self.provider is not None):
            raise ValueError("only PostgreSQL keeps a record of its changes: remove narrow")
        return self


class StatusPagePlan(_Part):
    """The provider's public status page."""

    url: str = Field(
        description="Base URL of the page; for Status.io the whole address of its public API with the page's id."
    )
    kind: StatusPageKind = Field(
        "statuspage",
        description="The dialect it speaks. Never guessed: read in another one, a page may look all clear.",
    )
    name: str | None = Field(
        None, description="The page's own name: any other page is treated as unreadable."
    )
    timeout_seconds: float = Field(10.0, gt=0, description="Longest time for reading the whole page.")
    components: list[str] = Field(
        default=[],
        description="Ids or names of the components that matter; empty means the page as a whole."
        " AWS Health: service and region, like ses-eu-west-1.",
    )

    @model_validator(mode="after")
    def _fits_its_dialect(self) -> StatusPagePlan:
        if self.kind in ("status_io", "aws_health") and self.name:
            raise ValueError(f"a page of kind {self.kind} does not say its name: leave name out")
        if self.kind == "status_io" and not re.search(r"/status/[0-9a-f]{24}$", self.url):
            raise ValueError(
                "the url of a status_io page ends in /status/ and its id of 24 hexadecimal digits"
            )
        if self.kind == "aws_health" and not self.components:
            raise ValueError("AWS Health lists every region: name components like ses-eu-west-1")
        return self


class SmtpPlan(_Part):
    """The server that takes our mail over SMTP: a probe shakes hands with it and begins no message."""

    host: str = Field(description="Its name, which its certificate must bear.")
    port: int = Field(587, ge=1, le=65535, description="Its port.")
    encryption: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How it encrypts: after greeting, from the first byte, or not."
    )
    timeout_seconds: float = Field(10.0, gt=0, description="Longest time for the whole handshake.")
    warn_days: int = Field(14, ge=0, description="Days before its certificate ends from which that is said.")


class ProviderPlan(_Part):
    """An e-mail service provider and how to reach and watch it."""

    kind: Literal["listmonk", "sendgrid", "brevo", "mailchimp", "klaviyo"] = Field(
        description="Which connector speaks to it."
    )
    api_url: str = Field(description="Base URL of the API.")
    user_env: str = Field(
        "MAILSTAY_ESP_USER",
        description="Environment variable with the API user, which only listmonk has.",
    )
    token_env: str = Field("MAILSTAY_ESP_TOKEN", description="Environment variable with the API token.")
    source: str | None = Field(
        None, description="The source that holds this provider's data, for planning offline."
    )
    shop: str | None = Field(
        None, description="The source with our own orders, opt-outs and webhook receipts."
    )
    status_page: StatusPagePlan | None = Field(None, description="Its public status page.")
    messages_per_minute: int = Field(
        60, ge=1, description="How fast it sends, to judge what fits before a deadline."
    )
    timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for one answer of the API.")
    seed_mailbox_url: str | None = Field(
        None,
        description="Where the probe looks for its seed message: `imaps://user@host/INBOX`, or `http://…` returning"
        " JSON; absent: no seed.",
    )
    seed_password_env: str | None = Field(
        None, description="Environment variable with the password of the seed mailbox, for IMAP."
    )
    seed_timeout_seconds: float = Field(10.0, gt=0, description="Longest time for looking into the mailbox.")
    seed_address_env: str | None = Field(None, description="Environment variable with the seed address.")
    smtp: SmtpPlan | None = Field(None, description="The server that takes our mail over SMTP.")
    unsubscribe_url_env: str | None = Field(
        None,
        description="Environment variable with the opt-out address of the seed subscriber, as its List-Unsubscribe"
        " header has it: it is opened, never confirmed.",
    )
    unsubscribe_timeout_seconds: float = Field(10.0, gt=0, description="Longest time for opening it.")
    sla_monthly_uptime: float | None = Field(
        None, gt=0, le=100, description="Promised monthly uptime in per cent."
    )
    support: str | None = Field(None, description="Where a ticket is opened: an address or a URL.")
    batches: str | None = Field(
        None,
        description="CSV file (batch_id, name, send_at, people, kind, useful_until) with the batches of scheduled"
        " mail that we handed to SendGrid, which lists none of them.",
    )
    download_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts that the provider's exports may be fetched from, besides the API's own.",
    )

    @model_validator(mode="after")
    def _belongs_to_its_kind(self) -> ProviderPlan:
        if self.kind != "listmonk" and self.seed_mailbox_url:
            raise ValueError("a seed message can be sent through listmonk only: leave seed_mailbox_url out")
        if (self.seed_mailbox_url or "").startswith("imap") and not self.seed_password_env:
            raise ValueError("a mailbox over IMAP has a password: name its variable in seed_password_env")
        if self.kind != "sendgrid" and self.batches:
            raise ValueError("only SendGrid has batches of scheduled mail: leave batches out")
        return self


class DetectionPlan(_Part):
    """When a signal becomes a suspicion and a suspicion an incident; counts are passes of `monitor`."""

    suspect_after: int = Field(1, ge=1, description="Bad passes until people are notified.")
    confirm_after: int = Field(2, ge=1, description="Bad passes until the incident is confirmed.")
    clear_after: int = Field(3, ge=1, description="Good passes in a row until restoration is believed.")
    slow_seconds: float = Field(5.0, gt=0, description="A probe slower than this counts as degraded.")
    stalled_minutes: Minutes = Field(
        10, description="A running campaign whose `sent` stands still this long is stalled."
    )


class MarketingObject(_Part):
    """Something that has recovery objectives."""

    tables: list[CanonicalTable] = Field(description="The canonical tables it consists of.")
    rpo_minutes: Minutes = Field(description="How old restored data may be.")
    rto_minutes: Minutes = Field(description="How long restoring may take.")
    mtpd_minutes: Minutes = Field(description="Longest tolerable disruption; RTO must not exceed it.")

    @model_validator(mode="after")
    def _rto_within_mtpd(self) -> MarketingObject:
        if self.rto_minutes > self.mtpd_minutes:
            raise ValueError(f"rto_minutes {self.rto_minutes} exceeds mtpd_minutes {self.mtpd_minutes}")
        return self


class LatenessRule(_Part):
    """How long after its planned time a campaign of one kind may still go out."""

    useful_for_minutes: Minutes = Field(
        description="latest_useful_at = send_at + this, unless the campaign names its own."
    )
    when_late: Literal["send", "reschedule", "drop", "needs_approval"] = Field(
        "send", description="What becomes of a held campaign that is still useful."
    )
    reschedule_minutes: Minutes = Field(0, description="With `reschedule`: minutes after recovery.")

    @property
    def useful_for(self) -> timedelta:
        """The time a campaign stays useful after its planned time."""
        return timedelta(minutes=self.useful_for_minutes)


class QuietHours(_Part):
    """Hours in which nothing late is sent; a campaign whose own time is still ahead keeps it."""

    begin: time = Field(description='Local time at which they begin, in quotes: `"21:00"`.')
    end: time = Field(description="Local time at which they end; before `begin` it is the next morning.")
    timezone: TimeZone = Field("UTC", description="Time zone of both (IANA).")

    @model_validator(mode="after")
    def _some_hours(self) -> QuietHours:
        if self.begin == self.end:
            raise ValueError("begin and end are the same: leave quiet_hours out, or name two times")
        return self

    def over(self, moment: datetime) -> datetime | None:
        """Return when the quiet hours end in which `moment` lies; None if it lies in none."""
        day = moment.astimezone(ZoneInfo(self.timezone)).date()
        for begin, end in (self._night(day - timedelta(days=1)), self._night(day)):
            if begin <= moment < end:
                return end
        return None

    def next(self, moment: datetime) -> datetime:
        """Return when quiet hours begin next after `moment`."""
        day = moment.astimezone(ZoneInfo(self.timezone)).date()
        begins = (self._night(day + timedelta(days=ahead))[0] for ahead in range(3))
        return min(begin for begin in begins if begin > moment)

    def _night(self, day: date) -> tuple[datetime, datetime]:
        zone = ZoneInfo(self.timezone)
        morning = day + timedelta(days=self.end < self.begin)
        begin, end = datetime.combine(day, self.begin, zone), datetime.combine(morning, self.end, zone)
        return begin.astimezone(UTC), end.astimezone(UTC)


class RampPlan(_Part):
    """How volume returns after an outage, to each mailbox provider (gmail, outlook, yahoo, apple, other) by itself."""

    canary: int = Field(50, ge=1, description="Messages of the first step to a mailbox provider.")
    factor: float = Field(
        1.5,
        gt=1,
        le=10,
        description="In 24 hours a mailbox provider gets at most this many times its trailing daily volume (the"
        " busiest day of the 30 before the outage, from the last good snapshot), and in one step at most this many"
        " times the largest before. Doubling risks rate limiting (Google).",
    )
    max_step: int = Field(2000, ge=1, description="Messages of the largest step to a mailbox provider.")
    max_bounce_rate: float = Field(
        0.05, gt=0, le=1, description="Stop a mailbox provider above this (Amazon SES reviews at 5 %)."
    )
    max_complaint_rate: float = Field(
        0.001, gt=0, le=1, description="Stop a mailbox provider above this (Google: stay below 0.1 %)."
    )
    mailbox_providers: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")], list[str]] = Field(
        default={},
        description="Further domains of a mailbox provider, known or not, such as `{gmail: [shop.example]}` where"
        " Google keeps a company's mail. They go before the domains that Mailstay knows.",
    )

    @field_validator("mailbox_providers")
    @classmethod
    def _each_domain_once(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        seen: dict[str, str] = {}
        for name, domains in value.items():
            for domain in map(str.casefold, domains):
                if "@" in domain or "." not in domain:
                    raise ValueError(f"{domain!r} is no domain: write what stands behind the @")
                if seen.setdefault(domain, name) != name:
                    raise ValueError(f"{domain} is listed under {seen[domain]} and {name}: keep one")
        return value


class FrequencyCap(_Part):
    """How much mail one person gets at most; a catch-up keeps to it, campaigns that go out at their time do not ask."""

    messages: int = Field(ge=1, le=100, description="The most messages to one person …")
    per_hours: int = Field(ge=1, le=24 * 31, description="… within any so many hours.")
    exempt: list[CampaignKind] = Field(
        default=["transactional"], description="Kinds of campaign that are neither counted nor held back."
    )


class ApprovalPlan(_Part):
    """Who may let actions happen, and how long a run waits for an answer."""

    policy_actions: list[Literal["pause", "unschedule", "resume", "reschedule", "drop", "catch_up"]] = Field(
        default=["pause", "unschedule"],
        description="With approval `policy`, these go ahead without a person if they can be undone.",
    )
    wait_minutes: Minutes = Field(15, description="How long a run waits before it ends as held.")


class Stakeholder(_Part):
    """Somebody who must be told."""

    channel: str = Field(description="Name of a channel below.")
    report: Literal["tactical", "executive", "audience"] = Field(description="Which form the message takes.")
    every_minutes: Minutes = Field(60, description="The promised time between two updates.")
    every_minutes_by_severity: dict[Annotated[int, Field(ge=1, le=5)], Minutes] = Field(
        default={}, description="Another time between two updates for some severities, such as {1: 15}."
    )
    from_severity: int = Field(
        5, ge=1, le=5, description="Told from this severity on (1 is worst, 5 is everything)."
    )

    def cadence(self, severity: int | None) -> int:
        """Return the minutes between two updates at `severity`; None while it is not known."""
        return self.every_minutes_by_severity.get(severity or 0, self.every_minutes)


class Channel(_Part):
    """Where messages go: a folder, or any service that apprise knows."""

    kind: Literal["folder", "smtp", "apprise"] = Field(
        description="`folder` writes .eml files, for drills and tests."
    )
    path: Path | None = Field(None, description="With `folder`: where the messages are written.")
    url_env: str | None = Field(
        None, description="With `smtp` and `apprise`: environment variable with the URL."
    )
    to: list[str] = Field(default=[], description="With `smtp`: the recipients' addresses.")

    @model_validator(mode="after")
    def _complete(self) -> Channel:
        if self.kind == "folder" and self.path is None:
            raise ValueError("a folder channel needs path")
        if self.kind != "folder" and self.url_env is None:
            raise ValueError(f"a channel of kind {self.kind} needs url_env")
        return self


class Role(_Part):
    """A role of the response and the desk that fills it."""

    filled_by: str = Field(description="A team or on-call rota, never one person.")


class ReportPlan(_Part):
    """How the review estimates and where it writes."""

    currency: str = Field("GBP", min_length=3, max_length=3, description="Currency of orders (ISO 4217).")
    timezone: TimeZone = Field("UTC", description="Time zone of the business calendar (IANA).")
    country: str | None = Field(None, description="Country whose public holidays count (ISO 3166).")
    settle_hours: int = Field(48, ge=1, description="Hours after resolution until figures are settled.")
    baseline_days: int = Field(
        28, ge=7, description="Days before the outage that reputation is compared with."
    )

    @field_validator("country")
    @classmethod
    def _known_country(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from holidays import country_holidays

        try:
            # An alias such as UK becomes the ISO code, which the calendar asks for.
            return str(country_holidays(value).country)
        except NotImplementedError:
            raise ValueError(
                f"{value!r} is no country whose public holidays are known: give its ISO 3166 code in capitals, such as "
                "GB, or leave it out"
            ) from None


class Plan(_Part):
    """The whole continuity plan of one company."""

    version: Literal[1] = Field(description="Format of this file.")
    name: str = Field(description="Whose plan this is, as reports show it.")
    clock: str = Field("system", description="`system`, or `driven:PATH` in a drill.")
    journal: str | None = Field(None, description="SQLAlchemy URL of the journal, without a password.")
    journal_env: str | None = Field(None, description="Environment variable with the journal's URL.")
    state: Path = Field(Path("mailstay-state"), description="Folder for ledgers and other working files.")
    reports: Path = Field(Path("mailstay-reports"), description="Folder for reports.")
    store: StorePlan
    retention: Retention = Retention()
    sources: dict[SourceName, SourcePlan] = Field(min_length=1)
    providers: dict[str, ProviderPlan] = Field(min_length=1)
    detection: DetectionPlan = DetectionPlan()
    objects: dict[str, MarketingObject] = Field(
        default={}, description="Marketing objects with their objectives."
    )
    lateness: dict[CampaignKind, LatenessRule] = Field(
        default={}, description="Lateness rule per campaign kind."
    )
    quiet_hours: QuietHours | None = Field(
        None, description="When nothing late is sent; absent: at any hour."
    )
    ramp: RampPlan = RampPlan()
    frequency_cap: FrequencyCap | None = Field(
        None, description="How much mail one person gets at most from a catch-up; absent: no limit."
    )
    approval: ApprovalPlan = ApprovalPlan()
    channels: dict[str, Channel] = Field(default={}, description="Where messages go.")
    stakeholders: dict[str, Stakeholder] = Field(default={}, description="Who must be told.")
    roles: dict[str, Role] = Field(default={}, description="Who fills which role.")
    report: ReportPlan = ReportPlan()

    @model_validator(mode="before")
    @classmethod
    def _exports_are_told_once(cls, content: Any) -> Any:
        """A source that exports a provider is that provider's own, mapped as its kind is, unless the plan differs."""
        if not isinstance(content, dict):
            return content
        sources, providers = content.get("sources"), content.get("providers")
        if not isinstance(sources, dict) or not isinstance(providers, dict):
            return content
        content = content | {"sources": dict(sources), "providers": dict(providers)}
        for name, source in sources.items():
            used = source.get("provider") if isinstance(source, dict) else None
            provider = providers.get(used) if isinstance(used, str) else None
            if isinstance(provider, dict):
                mapping = EXPORT_MAPPINGS.get(str(provider.get("kind")), "none")
                content["sources"][name] = {"mapping": mapping, **source}
                content["providers"][used] = {"source": name, **provider}
        return content

    @model_validator(mode="after")
    def _names_resolve(self) -> Plan:
        if (self.journal is None) == (self.journal_env is None):
            raise ValueError("give exactly one of journal and journal_env")
        for name, who in self.stakeholders.items():
            if who.channel not in self.channels:
                raise ValueError(
                    f"stakeholders.{name}.channel names {who.channel!r}, which is not in channels"
                )
        for name, provider in self.providers.items():
            for key in ("source", "shop"):
                used = getattr(provider, key)
                if used is not None and used not in self.sources:
                    raise ValueError(f"providers.{name}.{key} names {used!r}, which is not in sources")
        for name, source in self.sources.items():
            if source.provider is None:
                continue
            if source.provider not in self.providers:
                raise ValueError(
                    f"sources.{name}.provider names {source.provider!r}, which is not in providers"
                )
            kind = self.providers[source.provider].kind
            if kind not in EXPORT_MAPPINGS:
                can = ", ".join(EXPORT_MAPPINGS)
                raise ValueError(f"sources.{name}.provider: {kind} cannot be exported yet, only {can}")
            mapping = EXPORT_MAPPINGS[kind]
            if source.mapping not in (mapping, "none"):
                raise ValueError(
                    f"sources.{name}.mapping: the export of {source.provider} is mapped by {mapping!r}"
                )
        return self
