"""Choosing the connector that the plan names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import httpx

from tasks.core import Clock, UsageError, open_clock
from tasks.plan import LoadedPlan, secret
from tasks.providers.batches import read_batches
from tasks.providers.brevo import BREVO, Brevo
from tasks.providers.brevo_export import BrevoExport
from tasks.providers.exporting import ExportTable
from tasks.providers.http import PATIENCE
from tasks.providers.klaviyo import KLAVIYO, Klaviyo
from tasks.providers.listmonk import LISTMONK, Listmonk
from tasks.providers.listmonk_export import ListmonkExport
from tasks.providers.mailchimp import MAILCHIMP, Mailchimp
from tasks.providers.model import Capabilities, Provider
from tasks.providers.sendgrid import SENDGRID, SendGrid
from tasks.providers.sendgrid_export import SendGridExport

PROVIDERS = {one.kind: one for one in (LISTMONK, SENDGRID, BREVO, MAILCHIMP, KLAVIYO)}
"""What each kind of provider can do, by the name that a plan calls it."""
EXPORT_TABLES: dict[str, Sequence[ExportTable]] = {
    "brevo": BrevoExport.tables,
    "listmonk": ListmonkExport.tables,
    "sendgrid": SendGridExport.tables,
}
"""By kind of provider what its export gives."""


class ProviderSettings(Protocol):
    """What a connector needs to know of the plan's provider entry."""

    @property
    def kind(self) -> str:
        """Which connector."""

    @property
    def api_url(self) -> str:
        """Base URL of the API."""

    @property
    def timeout_seconds(self) -> float:
        """Longest wait for one answer."""

    @property
    def download_hosts(self) -> Sequence[str]:
        """Hosts that an export may be fetched from."""


def capabilities_of(kind: str) -> Capabilities:
    """Return what a kind of provider can do.

    Raises:
        UsageError: no connector speaks it.
    """
    if kind not in PROVIDERS:
        raise UsageError(
            f"No connector for a provider of kind {kind!r}", fix=f"use one of {', '.join(sorted(PROVIDERS))}"
        )
    return PROVIDERS[kind]


def connect_provider(
    name: str,
    plan: ProviderSettings,
    user: str,
    token: str,
    clock: Clock,
    *,
    batches: Path | None = None,
    patience: timedelta | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Provider:
    """Return the connector for the provider that the plan calls `name`. Nothing is sent yet.

    Args:
        name: the provider's name in the plan, as messages and the journal show it.
        plan: its entry in the plan.
        user: API user, from the environment; empty where the API has none.
        token: API token, from the environment; never logged.
        clock: what waiting between two reads goes by.
        batches: the file that lists batches of scheduled mail (SendGrid).
        patience: longest wait for a rate limit; None waits out any that the provider documents for its actions.
        transport: carries the requests; None is the network.

    Raises:
        UsageError: no connector speaks `plan.kind`, or the file with the batches cannot be read.
    """
    capabilities = capabilities_of(plan.kind)
    window = capabilities.longest_window + timedelta(seconds=5)
    waits = patience if patience is not None else max(PATIENCE, window)
    keyed: dict[str, type[Brevo | Mailchimp | Klaviyo]] = {
        "brevo": Brevo,
        "mailchimp": Mailchimp,
        "klaviyo": Klaviyo,
    }
    makers: dict[str, Callable[[], Provider]] = {
        "listmonk": lambda: Listmonk(
            name,
            plan.api_url,
            user=user,
            token=token,
            timeout_seconds=plan.timeout_seconds,
            clock=clock,
            transport=transport,
        ),
        "sendgrid": lambda: SendGrid(
            name,
            plan.api_url,
            token=token,
            timeout_seconds=plan.timeout_seconds,
            clock=clock,
            batches=read_batches(batches) if batches else (),
            download_hosts=plan.download_hosts,
            patience=waits,
            transport=transport,
        ),
    }
    if plan.kind in makers:
        return makers[plan.kind]()
    return keyed[plan.kind](
        name,
        plan.api_url,
        token=token,
        timeout_seconds=plan.timeout_seconds,
        clock=clock,
        patience=waits,
        transport=transport,
    )


@contextmanager
def open_provider(plan: LoadedPlan, name: str, *, patience: timedelta | None = None) -> Iterator[Provider]:
    """Connect to the provider that `plan` calls `name`, with its secrets from the environment, on the plan's clock.

    Args:
        plan: the plan.
        name: the provider's name in it.
        patience: longest wait for a rate limit; None waits out any that the provider documents.

    Raises:
        PlanError: the plan has no such provider, or an environment variable that it names is not set.
        UsageError: no connector speaks its kind, or the file with the batches cannot be read.
    """
    settings = plan.provider(name)
    used_by = f"{plan.path}: providers.{name}"
    user = secret(settings.user_env, used_by) if capabilities_of(settings.kind).needs_user else ""
    token = secret(settings.token_env, used_by)
    provider = connect_provider(
        name,
        settings,
        user,
        token,
        open_clock(plan.clock_spec()),
        batches=plan.resolve(settings.batches) if settings.batches else None,
        patience=patience,
    )
    try:
        yield provider
    finally:
        provider.close()
