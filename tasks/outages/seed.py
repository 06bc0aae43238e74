"""Sending a seed message through the provider's transactional API; `mailbox.py` looks for it.

A seed takes the way of every message: accepted by the API, handed to SMTP, delivered. Only it shows a provider that
accepts and does not deliver.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import httpx

from tasks.outages.errors import OutageError
from tasks.plan import LoadedPlan, secret


@dataclass(frozen=True)
class SeedRoute:
    """How a seed message goes out and where it is looked for."""

    auth: tuple[str, str]
    address: str
    mailbox_url: str
    mailbox_password: str | None = None


def seed_route(plan: LoadedPlan, provider: str) -> SeedRoute | None:
    """Return the way of a seed message through `provider`; None where the plan names no seed mailbox or address.

    Raises:
        PlanError: an environment variable that the plan names is not set.
    """
    settings = plan.provider(provider)
    if not settings.seed_mailbox_url or not settings.seed_address_env:
        return None
    used_by = f"{plan.path}: providers.{provider}"
    auth = (secret(settings.user_env, used_by), secret(settings.token_env, used_by))
    address = secret(settings.seed_address_env, used_by)
    password = secret(settings.seed_password_env, used_by) if settings.seed_password_env else None
    return SeedRoute(auth, address, settings.seed_mailbox_url, password)


class SeedRefused(OutageError):
    """The provider would not take the seed message for a reason that lies with us (settings, permission)."""


class SeedFailed(OutageError):
    """The provider did not take the seed message: no answer, or a server error."""


def seed_token(provider: str, at: datetime) -> str:
    """Return the text that finds the seed of this pass in a mailbox."""
    return f"mailstay-seed-{provider}-{at:%Y%m%dT%H%M%S}"


def send_seed(
    api_url: str, auth: tuple[str, str], address: str, token: str, *, timeout_seconds: float
) -> None:
    """Send the seed `token` to `address` with `POST /api/tx` and the first transactional template there is.

    Raises:
        SeedRefused: there is no such template, or the API said no.
        SeedFailed: no usable answer; whether the message goes out is unknown, and it does not matter.
    """
    base = api_url.rstrip("/").removesuffix("/api") + "/api"
    try:
        with httpx.Client(base_url=base, auth=auth, timeout=timeout_seconds) as client:
            templates = _data(client.get("/templates"))
            ids = [one["id"] for one in templates if isinstance(one, dict) and one.get("type") == "tx"]
            if not ids:
                raise SeedRefused(
                    "The provider has no transactional template for seed messages",
                    fix="create a template of type tx, or remove seed_mailbox_url from the plan",
                )
            message = {
                "subscriber_email": address,
                "template_id": min(ids),
                "subject": token,
                "data": {"token": token},
                "headers": [{"X-Mailstay-Seed": token}],
                "content_type": "plain",
            }
            _data(client.post("/tx", json=message))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SeedFailed(f"The seed message was not taken ({type(error).__name__})") from error


def _data(answer: httpx.Response) -> list[object]:
    if answer.is_client_error:
        raise SeedRefused(
            f"The provider refused the seed message (HTTP {answer.status_code})",
            fix="check the seed address (it must be a subscriber) and the API user's permission to send",
        )
    if not answer.is_success:
        raise SeedFailed(f"The seed message was not taken (HTTP {answer.status_code})")
    try:
        content = answer.json()
    except ValueError as error:
        raise SeedFailed("The seed message was answered with something that is not JSON") from error
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, list) else []
