"""Choosing the connector that the plan names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tasks.core import Clock, UsageError, open_clock
from tasks.plan import LoadedPlan, secret
from tasks.providers.listmonk import Listmonk
from tasks.providers.model import Provider


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


def connect_provider(name: str, plan: ProviderSettings, user: str, token: str, clock: Clock) -> Provider:
    """Return the connector for the provider that the plan calls `name`. Nothing is sent yet.

    Args:
        name: the provider's name in the plan, as messages and the journal show it.
        plan: its entry in the plan.
        user: API user, from the environment.
        token: API token, from the environment; never logged.
        clock: what waiting between two reads goes by.

    Raises:
        UsageError: no connector speaks `plan.kind`.
    """
    if plan.kind == "listmonk":
        return Listmonk(
            name, plan.api_url, user=user, token=token, timeout_seconds=plan.timeout_seconds, clock=clock
        )
    raise UsageError(f"No connector for a provider of kind {plan.kind!r}", fix="use listmonk")


@contextmanager
def open_provider(plan: LoadedPlan, name: str) -> Iterator[Provider]:
    """Connect to the provider that `plan` calls `name`, with its secrets from the environment, on the plan's clock.

    Raises:
        PlanError: the plan has no such provider, or an environment variable that it names is not set.
        UsageError: no connector speaks its kind.
    """
    settings = plan.provider(name)
    used_by = f"{plan.path}: providers.{name}"
    user, token = secret(settings.user_env, used_by), secret(settings.token_env, used_by)
    provider = connect_provider(name, settings, user, token, open_clock(plan.clock_spec()))
    try:
        yield provider
    finally:
        provider.close()
