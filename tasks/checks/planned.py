"""Which contracts a plan names for a source, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tasks.checks.consent import guarded
from tasks.checks.contracts import Contract
from tasks.checks.loading import default_contracts, load_contracts
from tasks.checks.rules import TableFigures, compile_rules
from tasks.core import UsageError
from tasks.plan import LoadedPlan, SourcePlan
from tasks.snapshots import Store


def contracts_of(loaded: LoadedPlan, source: str) -> dict[str, Contract]:
    """Return the contracts that the snapshots of a source are held against, with the consent that its mapping declares.

    Of those that come with Mailstay the ones of tables that the plan does not back up are left out, unless they declare
    consent.

    Raises:
        UsageError: there is no such source, or it has no contracts.
        ContractError: a contract cannot be used.
    """
    settings = _settings(loaded, source)
    shipped = default_contracts(settings.mapping)
    folder = loaded.resolve(settings.contracts) if settings.contracts is not None else shipped
    if folder is None:
        raise UsageError(
            f"Source {source} has no contracts, so nothing of it can be proven",
            where=f"{loaded.path}: sources.{source}.contracts",
            fix=f"name the folder of its contracts; `mailstay checks propose {source}` writes them",
        )
    contracts = load_contracts(folder)
    if folder == shipped:
        read = set(settings.tables or contracts) - set(settings.exclude)
        contracts = {name: one for name, one in contracts.items() if name in read}
    return guarded(contracts, load_contracts(shipped) if shipped is not None else {})


def contracts_folder(loaded: LoadedPlan, source: str) -> Path:
    """Return the folder that the plan names for a source's contracts; `expectations/SOURCE` beside it if it names none.

    Raises:
        UsageError: there is no such source.
    """
    return loaded.resolve(_settings(loaded, source).contracts or f"expectations/{source}")


def linted_folders(loaded: LoadedPlan) -> list[Path]:
    """Return the folders of contracts that the plan names."""
    named = [one.contracts for one in loaded.plan.sources.values() if one.contracts is not None]
    return [loaded.resolve(one) for one in dict.fromkeys(named)]


def newest_snapshot(store: Store, source: str) -> str:
    """Return the newest snapshot of a source, proven or not.

    Raises:
        UsageError: there is none.
    """
    found = store.snapshot_ids(source)
    if not found:
        raise UsageError(
            f"There is no snapshot of {source}", where=store.url, fix="run `mailstay backup` first"
        )
    return found[-1]


def rules_in_words(contracts: Mapping[str, Contract], at: datetime) -> list[dict[str, str]]:
    """Return every rule that needs no earlier snapshot, as a snapshot of the moment `at` would be asked."""
    return [
        {
            "table": rule.table,
            "column": rule.column,
            "kind": rule.kind,
            "severity": rule.severity,
            "says": rule.says,
        }
        for contract in contracts.values()
        for rule in compile_rules(contract, TableFigures(tuple(contract.columns), 0), at)
    ]


def _settings(loaded: LoadedPlan, source: str) -> SourcePlan:
    settings = loaded.plan.sources.get(source)
    if settings is None:
        raise UsageError(
            f"The plan has no source {source!r}",
            where=str(loaded.path),
            fix=f"use one of: {', '.join(loaded.plan.sources)}",
        )
    return settings
