"""What a plan that can be read still lacks, against the checklist of a disaster recovery plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.plan.models import Plan

_WITHOUT_STATUS_PAGE = ("mailchimp",)
"""Their status pages are pages for people alone: no feed, no JSON."""
_NEEDED_OBJECTS: dict[str, set[str]] = {
    "contacts": {"subscribers"},
    "consent": {"suppressions"},
    "templates": {"templates"},
    "schedule": {"campaigns"},
    "event history": {"events", "messages"},
    "orders": {"orders"},
}
_NEEDED_ROLES = ("incident_commander", "approver", "scribe", "customer_liaison", "internal_liaison")


@dataclass(frozen=True)
class Finding:
    """Something the plan lacks: the field, what is missing, and what to write."""

    field: str
    missing: str
    fix: str


def lint(plan: Plan) -> list[Finding]:
    """Return what `plan` lacks, in the order of its keys; an empty list means it is complete."""
    return list(_findings(plan))


def _findings(plan: Plan) -> Iterator[Finding]:
    if plan.store.public_key is None:
        yield Finding(
            "store.public_key",
            "the store's public key is not pinned: a chain signed anew with another key would pass",
            "copy it from store.json",
        )
    for name, provider in plan.providers.items():
        field = f"providers.{name}"
        if provider.status_page is None and provider.kind not in _WITHOUT_STATUS_PAGE:
            yield Finding(field, "no status page", "add status_page with its url")
        if provider.source is None:
            yield Finding(
                field,
                "its data is not backed up",
                f"name the source that holds it, or add a source with `provider: {name}`",
            )
        if provider.support is None:
            yield Finding(field, "nowhere to open a ticket", "add support")
    covered = {table for thing in plan.objects.values() for table in thing.tables}
    for what, tables in _NEEDED_OBJECTS.items():
        if not tables & covered:
            yield Finding(
                "objects",
                f"{what} have no recovery objectives",
                f"add an object with the tables {', '.join(sorted(tables))} and its RPO, RTO and MTPD",
            )
    for name, thing in plan.objects.items():
        slowest = max((source.backup_every for source in plan.sources.values()), default=0)
        if thing.rpo_minutes < slowest:
            yield Finding(
                f"objects.{name}.rpo_minutes",
                f"an RPO of {thing.rpo_minutes} minutes cannot be met by backups every {slowest} minutes",
                "lower backup_every or raise the RPO",
            )
    for kind in ("newsletter", "launch", "sale", "winback"):
        if kind not in plan.lateness:
            yield Finding("lateness", f"no rule for late campaigns of kind {kind}", f"add lateness.{kind}")
    if plan.ramp.factor >= 2:
        yield Finding(
            "ramp.factor",
            f"a factor of {plan.ramp.factor:g} doubles a mailbox provider's daily volume, which risks rate limiting",
            "choose one below 2, such as 1.5",
        )
    if not plan.stakeholders:
        yield Finding("stakeholders", "nobody would be told", "add at least one stakeholder")
    for role in _NEEDED_ROLES:
        if role not in plan.roles:
            yield Finding("roles", f"nobody is named as {role}", f"add roles.{role}")
