"""The real rows behind a finding, for who may see them: read from the snapshot, given back, kept nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.checks.contracts import Contract
from tasks.checks.privacy import scrub
from tasks.checks.rules import Rule, TableFigures, compile_rules
from tasks.checks.running import misfits
from tasks.checks.sql import quote
from tasks.core import UsageError
from tasks.snapshots import Store, connect, split_name

if TYPE_CHECKING:
    import duckdb


def bad_rows(
    store: Store, snapshot_id: str, contracts: Mapping[str, Contract], rule: str, most: int
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and at most `most` rows of a snapshot that break a rule: personal data.

    Args:
        store: where the snapshot is; every object is hashed before it is read.
        snapshot_id: which one.
        contracts: those of its source.
        rule: the rule's name, as findings have it.
        most: how many rows at most.

    Raises:
        UsageError: no contract has that rule, or it is about no single rows, or it cannot be asked of this snapshot.
    """
    source, _ = split_name(snapshot_id)
    with contextlib.closing(connect(store, {source: snapshot_id})) as connection:
        connection.execute(f"USE {quote(source)}")
        contract, compiled, columns = _find(store, snapshot_id, contracts, rule, connection)
        keys = misfits(contract, compiled, columns) if compiled.kind == "type" else compiled.bad_keys
        if not keys:
            raise UsageError(
                f"The rule {rule} is about a table or a column as a whole: no row breaks it",
                fix=f"mailstay checks show {snapshot_id}",
            )
        same = " AND ".join(
            f"here.{quote(one)} IS NOT DISTINCT FROM bad.{quote(one)}" for one in contract.primary_key
        )
        here = f"SELECT here.* FROM {quote(contract.table)} here"  # noqa: S608
        return _fetch(connection, f"{here} SEMI JOIN ({keys}) bad ON {same} LIMIT {most:d}", rule, columns)


def _find(
    store: Store,
    snapshot_id: str,
    contracts: Mapping[str, Contract],
    rule: str,
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Contract, Rule, dict[str, str]]:
    manifest = store.manifest(snapshot_id)
    for contract in contracts.values():
        if contract.table in manifest.tables and rule.startswith(f"{contract.table}."):
            described = connection.execute(f"DESCRIBE {quote(contract.table)}").fetchall()
            columns = {str(row[0]): str(row[1]) for row in described}
            figures = TableFigures(tuple(columns), manifest.tables[contract.table].source_rows)
            for one in compile_rules(contract, figures, store.info(snapshot_id).consistency_at):
                if one.rule_id == rule:
                    return contract, one, columns
    raise UsageError(
        f"No contract has a rule {rule!r} about the rows of {snapshot_id}",
        fix=f"take one that `mailstay checks show {snapshot_id}` lists",
    )


def _fetch(
    connection: duckdb.DuckDBPyConnection, query: str, rule: str, columns: Mapping[str, str]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    import duckdb

    try:
        found = connection.execute(query)
        return [one[0] for one in found.description or []], found.fetchall()
    except duckdb.Error as error:
        raise UsageError(f"The rule {rule} cannot be asked: {scrub(str(error), set(columns))}") from None
