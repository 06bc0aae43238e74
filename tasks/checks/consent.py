"""Consent integrity: what must not have become of an opt-out since the last valid snapshot, as SQL. Pure.

What makes a change legitimate is one of: the store's ledger erased the person (a hash that goes on blocking them is
kept there); a wish in the consent log that is later than the opt-out; a double opt-in later than it; the opt-out stays
somewhere else; what it was an opt-out from is gone. Nothing else is, however it came about.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.checks.contracts import Consent, Contract
from tasks.checks.sql import among, literal, moment, quote

KINDS = ("opt_out_kept", "opt_out_holds", "consent_date_kept")


@dataclass(frozen=True)
class ConsentBefore:
    """What the consent rules of a table are held against.

    Attributes:
        view: the table as the last valid snapshot has it.
        columns: the columns it has there.
        erased: the view with the ids of erased persons (`id`, as text); empty if nobody was erased.
        log: the query for every person's latest wish (`person`, as text; `blocked`; `since`); empty without a log.
        covering: the consent of the table that `covered_by` names; None without one.
        covering_view: that table as the last valid snapshot has it; empty without one.
    """

    view: str
    columns: tuple[str, ...]
    erased: str = ""
    log: str = ""
    covering: Consent | None = None
    covering_view: str = ""


def guarded(contracts: Mapping[str, Contract], shipped: Mapping[str, Contract]) -> dict[str, Contract]:
    """Return the contracts with the consent that the source's mapping declares: no contract can take it away.

    Args:
        contracts: the contracts that a source is held against.
        shipped: those that come with Mailstay for its mapping; empty for a source without one.
    """
    bound = dict(contracts)
    for table, one in shipped.items():
        if one.consent is not None:
            bound[table] = contracts.get(table, one).model_copy(update={"consent": one.consent})
    return bound


def latest_wishes(consent: Consent, table: str) -> str:
    """Return the query for everybody's latest wish in a log; of two at the same moment the opt-out counts."""
    since, blocked = moment(quote(consent.since)), _blocked(consent, "")
    return (
        f"SELECT CAST({quote(consent.person)} AS VARCHAR) AS person, {blocked} AS blocked, {since} AS since "
        f"FROM {table} WHERE {quote(consent.person)} IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY {quote(consent.person)} "
        f"ORDER BY {since} DESC NULLS LAST, {blocked} DESC) = 1"
    )


def consent_queries(
    consent: Consent, key: Sequence[str], before: ConsentBefore, here: str
) -> Iterator[tuple[str, str, str, str]]:
    """Yield kind, words, source and condition of each rule; the source names `{batch}` `here` and the past `was`."""
    equals = "IS NOT DISTINCT FROM" if consent.by else "="
    same = " AND ".join(f"here.{quote(name)} {equals} was.{quote(name)}" for name in consent.by or key)
    blocked, blocked_now = (_blocked(consent, f"{side}.") for side in ("was", "here"))
    since, since_now = (moment(f"{side}.{quote(consent.since)}") for side in ("was", "here"))
    was, now = (_rows(consent, table) for table in (quote(before.view), "{batch}"))
    if consent.kind == "log":
        same += f" AND here.{quote(consent.person)} = was.{quote(consent.person)}"
    kept = [f"NOT {one}" for one in _kept(consent, before, here)]
    yield (
        "opt_out_kept",
        "an opt-out of the last valid snapshot is still there",
        f"{was} was LEFT JOIN {now} here ON {same}",
        " AND ".join([blocked, f"here.{quote(key[0])} IS NULL", *kept]),
    )
    if consent.kind == "log":
        yield (
            "opt_out_holds",
            "whoever had opted out in the last valid snapshot has done so still, or opted in by a later record",
            *_loosened_log(consent, key, was),
        )
    else:
        reopened = [f"NOT {one}" for one in _reopened(consent, before, since, since_now)]
        yield (
            "opt_out_holds",
            "whom nobody might mail in the last valid snapshot nobody may mail now, unless they opted in later",
            f"{now} here JOIN {was} was ON {same}",
            " AND ".join([blocked, f"NOT {blocked_now}", *reopened]),
        )
    both = "true" if consent.kind == "log" else f"{blocked} AND {blocked_now}"
    yield (
        "consent_date_kept",
        "the date of a consent is not before that of the last valid snapshot",
        f"{now} here JOIN {was} was ON {same}",
        f"{both} AND {since} IS NOT NULL AND coalesce({since_now} < {since}, true)",
    )


def _rows(consent: Consent, table: str) -> str:
    """Return what gives a row for each consent of a table."""
    return f"({consent.rows.replace('{table}', table)})" if consent.rows else table


def _blocked(consent: Consent, side: str) -> str:
    return among(f"{side}{quote(consent.column)}", consent.blocked) if consent.blocked else "true"


def _same_purpose(consent: Consent) -> str:
    """Return the condition that `again` is about everything, or about the list that `was` is about."""
    if consent.purpose is None:
        return "true"
    column = quote(consent.purpose.column)
    return f"(again.{column} IS NULL OR again.{column} = was.{column})"


def _kept(consent: Consent, before: ConsentBefore, here: str) -> Iterator[str]:
    """Yield what each lets an opt-out go without being lost, as conditions on `was`."""
    person = f"CAST(was.{quote(consent.person)} AS VARCHAR)"
    if before.erased:
        yield f"EXISTS (SELECT 1 FROM {quote(before.erased)} gone WHERE gone.id = {person})"
    if consent.address:
        address = quote(consent.address)
        yield (
            f"EXISTS (SELECT 1 FROM {_rows(consent, here)} again "
            f"WHERE lower(trim(again.{address})) = lower(trim(was.{address})) "
            f"AND {_same_purpose(consent)} AND {_blocked(consent, 'again.')})"
        )
    if consent.purpose is not None:
        purpose = consent.purpose
        yield (
            f"(was.{quote(purpose.column)} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {quote(purpose.table)} purpose "
            f"WHERE purpose.{quote(purpose.key)} = was.{quote(purpose.column)}))"
        )
    if consent.covered_by and before.covering is not None:
        wider = before.covering
        yield (
            f"EXISTS (SELECT 1 FROM {quote(consent.covered_by)} wider "
            f"WHERE CAST(wider.{quote(wider.person)} AS VARCHAR) = {person} "
            f"AND {_blocked(wider, 'wider.')})"
        )
        if wider.address and before.covering_view:
            address = quote(wider.address)
            yield (
                f"EXISTS (SELECT 1 FROM {quote(before.covering_view)} had JOIN {quote(consent.covered_by)} wider "
                f"ON lower(trim(wider.{address})) = lower(trim(had.{address})) "
                f"WHERE CAST(had.{quote(wider.person)} AS VARCHAR) = {person} "
                f"AND {_blocked(wider, 'wider.')})"
            )
    if before.log and consent.kind == "state":
        yield f"EXISTS (SELECT 1 FROM {before.log} wish WHERE wish.person = {person} AND wish.blocked)"


def _reopened(consent: Consent, before: ConsentBefore, since: str, since_now: str) -> Iterator[str]:
    """Yield what each proves that a person opted in again, as conditions on `was` and `here`."""
    if before.log:
        yield (
            f"EXISTS (SELECT 1 FROM {before.log} wish "
            f"WHERE wish.person = CAST(was.{quote(consent.person)} AS VARCHAR) "
            f"AND NOT wish.blocked AND wish.since > {since})"
        )
    purpose = consent.purpose
    if purpose is not None and purpose.double_opt_in and purpose.confirmed:
        double = " AND ".join(
            f"purpose.{quote(column)} = {literal(value)}" for column, value in purpose.double_opt_in.items()
        )
        yield (
            f"({among(f'here.{quote(consent.column)}', purpose.confirmed)} AND coalesce({since_now} > {since}, false) "
            f"AND EXISTS (SELECT 1 FROM {quote(purpose.table)} purpose "
            f"WHERE purpose.{quote(purpose.key)} = was.{quote(purpose.column)} AND {double}))"
        )


def _loosened_log(consent: Consent, key: Sequence[str], was: str) -> tuple[str, str]:
    """Return source and condition: whose latest wish blocked them then does not now, and by no new and later record."""
    person, keys = quote(consent.person), ", ".join(map(quote, key))
    since, blocked = moment(quote(consent.since)), _blocked(consent, "")
    latest = (
        f"(SELECT *, {blocked} AS mailstay_blocked, {since} AS mailstay_since FROM {{batch}} AS batch "
        f"QUALIFY row_number() OVER (PARTITION BY {person} ORDER BY {since} DESC NULLS LAST, {blocked} DESC) = 1)"
    )
    new = f"({', '.join(f'here.{quote(name)}' for name in key)}) NOT IN (SELECT ({keys}) FROM {was})"
    return (
        f"{latest} here JOIN ({latest_wishes(consent, was)}) was ON was.person = CAST(here.{person} AS VARCHAR)",
        f"was.blocked AND NOT here.mailstay_blocked "
        f"AND NOT ({new} AND coalesce(here.mailstay_since > was.since, false))",
    )
