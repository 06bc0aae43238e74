"""Rules as a stock Great Expectations suite, run by a ValidationDefinition in an ephemeral context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import great_expectations as gx
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.registry import get_expectation_impl

from tasks.checks.contracts import Contract
from tasks.checks.fused import FusedDatasource, FusedExecutionEngine
from tasks.checks.measures import Measure
from tasks.checks.privacy import META, observes, redact
from tasks.checks.rules import Rule


def open_context(snapshot_id: str, files: dict[str, list[str]]) -> tuple[Any, FusedDatasource]:
    """Return an ephemeral context and its data source with the tables of one snapshot.

    Args:
        snapshot_id: names the data source.
        files: the Parquet files of each table, at least one.
    """
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
            analytics_enabled=False,
        ),
    )
    # Every table that is added would have the configuration of all put into YAML, for a context that is never saved.
    context._save_project_config = lambda: None  # type: ignore[method-assign]
    source: FusedDatasource = context.data_sources.add_mailstay(snapshot_id.replace("/", "-"), tables=files)
    return context, source


def build_suite(name: str, contract: Contract, rules: Sequence[Rule]) -> gx.ExpectationSuite:
    """Return the suite of a table; every expectation carries its rule's name, severity and words."""
    personal = contract.personal_columns()
    return gx.ExpectationSuite(
        name,
        expectations=[
            get_expectation_impl(rule.expectation)(
                **rule.kwargs,
                severity=FailureSeverity(rule.severity),
                description=f"{_subject(rule)}: {rule.says} ({rule.severity})",
                meta={META: {"rule": rule.rule_id, "personal": observes(rule.kwargs, personal)}},
            )
            for rule in rules
        ],
        meta={META: {"table": contract.table, "description": contract.description}},
    )


def run_suite(
    context: Any,
    source: FusedDatasource,
    snapshot_id: str,
    contract: Contract,
    rules: Sequence[Rule],
    at: datetime,
    result_format: dict[str, Any],
) -> dict[str, Any]:
    """Run the rules of one table and return each rule's result by its name.

    Names become file names of the Data Docs, which drops a page silently where a name holds a `/`.
    """
    name = contract.table.replace("/", "-")
    asset = source.add_table_asset(contract.table, table_name=f'"{contract.table}"')
    suite = context.suites.add(build_suite(name, contract, rules))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=name, data=asset.add_batch_definition_whole_table("snapshot"), suite=suite
        )
    )
    run_id = RunIdentifier(run_name=snapshot_id.replace("/", "-"), run_time=at)
    with configured_once():
        outcome = definition.run(result_format=result_format, run_id=run_id)
    return {one.expectation_config.meta[META]["rule"]: one for one in redact(outcome, errors=False).results}


@contextmanager
def configured_once() -> Iterator[None]:
    """Let every expectation put its configuration together once while suites run.

    Great Expectations asks an expectation for it some 80 times, and it is made anew from the model each time.
    """
    known = _CONFIGURED.set({})
    try:
        yield
    finally:
        _CONFIGURED.reset(known)


def measure_of(source: FusedDatasource, rule: Rule) -> Measure | None:
    """Return what the engine measured for a rule that counts bad rows; None where it ran a query instead."""
    if rule.measure is not None:
        return rule.measure
    engine = source.get_execution_engine()
    assert isinstance(engine, FusedExecutionEngine)
    return measured(engine, rule.table, rule.expectation, rule.kwargs)


def measured(
    engine: FusedExecutionEngine, table: str, expectation: str, kwargs: dict[str, Any]
) -> Measure | None:
    """Return what the engine measured for an expectation that counts unexpected rows; None if it left it to stock."""
    implementation = get_expectation_impl(expectation)
    metric = getattr(implementation, "map_metric", None)
    if metric is None:
        return None
    asked = implementation(**kwargs).configuration.kwargs  # as Great Expectations turned it: 0 became 0.0
    return engine.measure_of(f"{metric}.unexpected_count", asked, table)


_CONFIGURED: ContextVar[dict[int, tuple[Expectation, ExpectationConfiguration]] | None] = ContextVar(
    "configured", default=None
)
_STOCK_CONFIGURATION: Callable[[Expectation], ExpectationConfiguration] = vars(Expectation)[
    "configuration"
].fget


def _configuration(expectation: Expectation) -> ExpectationConfiguration:
    known = _CONFIGURED.get()
    if known is None:
        return _STOCK_CONFIGURATION(expectation)
    if id(expectation) not in known:  # beside the expectation: its id is its own while it lives
        known[id(expectation)] = expectation, _STOCK_CONFIGURATION(expectation)
    return known[id(expectation)][1]


Expectation.configuration = property(_configuration)  # type: ignore[method-assign,assignment]


def _subject(rule: Rule) -> str:
    return rule.column or rule.table
