"""The execution engine that answers all metrics of a suite in a few statements, over stock Great Expectations.

Great Expectations asks an engine for metrics by name. Those that `measures` translates need no other metric here, so
that a whole suite arrives in one call of `resolve_metrics`; `measuring` answers them together. All others go to the
stock SQL engine on the same connection. What is used of Great Expectations beside its public interface: the registry's
`_registered_metrics`, `resolve_metrics`, and the names of metrics. An engine of Great Expectations' own can take the
place of this module: suites and results stay as they are, only the speed and the masks go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import sqlalchemy as sa
from great_expectations.core.metric_function_types import MetricFunctionTypes
from great_expectations.exceptions.exceptions import MetricResolutionError
from great_expectations.expectations.metrics.metric_provider import MetricProvider
from great_expectations.expectations.registry import _registered_metrics, get_metric_provider
from great_expectations.validator.metric_configuration import MetricConfiguration

from tasks.checks.engine import DuckDBDatasource, DuckDBExecutionEngine
from tasks.checks.kept import Kept
from tasks.checks.measures import (
    FIGURE_METRICS,
    MAP_METRICS,
    TYPE,
    BadRows,
    Measure,
    Orphans,
    OutOfRange,
    Repeats,
)
from tasks.checks.measuring import Answer, Measurer, Table

_COUNT, _VALUES = ".unexpected_count", ".unexpected_values"
_QUERY_COUNT = "unexpected_rows_query.row_count"
_SHOWS = (_VALUES, ".unexpected_index_list", ".unexpected_index_query", ".unexpected_rows")
_SHOWN_BY_STOCK = (*_SHOWS, ".unexpected_value_counts", "unexpected_rows_query.table", "table.head")
_SCHEMA = ("table.columns", "table.column_types", "table.column_count")
_DEFAULT_SHOWN, _MOST_SHOWN = 20, 200

Metrics = dict[Any, Any]
_EngineType = type[DuckDBExecutionEngine]


class FusedExecutionEngine(DuckDBExecutionEngine):
    """Answers the metrics of a suite together; see `prepare`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stock = DuckDBExecutionEngine(engine=self.engine)
        self._measurer: Measurer | None = None
        self._known: dict[str, Measure] = {}
        self._done: Metrics = {}
        self._failed: dict[Any, str] = {}
        self._active: tuple[Any, str] = (None, "")

    def prepare(
        self,
        files: Mapping[str, Sequence[str]],
        *,
        segments: Mapping[str, Sequence[str]] | None = None,
        personal: Mapping[str, frozenset[str]] | None = None,
        kept: Kept | None = None,
    ) -> Measurer:
        """Say what the tables consist of, and return what measures them.

        Args:
            files: the Parquet files of every table, as the data source was given them.
            segments: the SHA-256 of each file, for tables of which something may be kept.
            personal: per table the columns whose values must not leave the engine.
            kept: what earlier validations kept of the segments.
        """
        columns: dict[str, dict[str, str]] = {name: {} for name in files}
        for table, column, kind in self.fetch(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        ):
            columns.get(table, {})[column] = kind
        tables = {
            name: Table(
                files=tuple(listed),
                columns=columns[name],
                segments=tuple((segments or {}).get(name, ())),
                personal=(personal or {}).get(name, frozenset()),
            )
            for name, listed in files.items()
        }
        self._measurer = Measurer(self.native, tables, kept)
        return self._measurer

    def knows(self, query: str, measure: Measure) -> None:
        """Remember what a query for unexpected rows asks: it is then measured with everything else, not run."""
        self._known[query] = measure

    @property
    def measurer(self) -> Measurer:
        """What measures the tables."""
        if self._measurer is None:
            return self.prepare(self.files)
        return self._measurer

    def measure_of(self, name: str, asked: Mapping[str, Any], table: str = "") -> Measure | None:
        """Return what a metric asks of a table (the active one); None: the stock engine answers it."""
        table = table or self._table_name()
        if not table or any(asked.get(one) for one in ("row_condition", "filter_conditions", "table")):
            return None
        base = next((name.removesuffix(end) for end in (_COUNT, *_SHOWS) if name.endswith(end)), "")
        if base in MAP_METRICS:
            return MAP_METRICS[base](self._typed(asked, table))
        if name in FIGURE_METRICS:
            return FIGURE_METRICS[name](self._typed(asked, table))
        return self._known.get(asked.get("unexpected_rows_query", "")) if name == _QUERY_COUNT else None

    def translates(self, metric: MetricConfiguration) -> bool:
        """Return whether a metric is answered here."""
        return (
            metric.metric_name in _SCHEMA or self.measure_of(metric.metric_name, _asked(metric)) is not None
        )

    def resolve_metrics(
        self,
        metrics_to_resolve: Iterable[MetricConfiguration],
        metrics: Metrics | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the value of every metric.

        Raises:
            MetricResolutionError: some cannot be answered. Great Expectations asks for all of them again, up to three
                times: what was answered is not measured again, and neither is what cannot be.
        """
        asked = [one for one in metrics_to_resolve if one.id not in self._done and one.id not in self._failed]
        ours = [one for one in asked if self.translates(one)]
        if ours:
            self._resolve_ours(ours)
        if len(ours) < len(asked):
            self._resolve_stock([one for one in asked if one not in ours], metrics, runtime_configuration)
        failed = [one for one in metrics_to_resolve if one.id in self._failed]
        if failed:
            why = self._failed[failed[0].id]
            same = [one for one in failed if self._failed[one.id] == why]
            raise MetricResolutionError(message=why, failed_metrics=same)
        return {one.id: self._done[one.id] for one in metrics_to_resolve}

    def _resolve_ours(self, metrics: list[MetricConfiguration]) -> None:
        name = self._table_name()
        wanted = {one.id: self.measure_of(one.metric_name, _asked(one)) for one in metrics}
        answers = self.measurer.measure(name, [one for one in wanted.values() if one is not None])
        for metric in metrics:
            measure = wanted[metric.id]
            if measure is None:
                self._done[metric.id] = self._schema(metric.metric_name)
            elif answers[measure].error:
                self._failed[metric.id] = answers[measure].error
            else:
                self._done[metric.id] = self._value(name, metric, measure, answers[measure])

    def _resolve_stock(
        self,
        metrics: list[MetricConfiguration],
        known: Metrics | None,
        runtime_configuration: dict[str, Any] | None,
    ) -> None:
        """Let the stock engine answer, all together, and where that fails one by one."""
        with self.get_connection() as connection:
            self._stock._connection = connection
        self._stock._batch_manager = self._batch_manager
        for group in (metrics, *([one] for one in metrics if len(metrics) > 1)):
            todo = [one for one in group if one.id not in self._done]
            if not todo:
                continue
            try:
                found = self._stock.resolve_metrics(todo, known, runtime_configuration)
                self._done |= {one.id: self._masked(one, found[one.id]) for one in todo}
            except MetricResolutionError as error:
                if len(group) == 1:
                    self._failed[group[0].id] = str(error)

    def _value(self, name: str, metric: MetricConfiguration, measure: Measure, answer: Answer) -> Any:
        shows = next((end for end in _SHOWS if metric.metric_name.endswith(end)), "")
        if not shows:
            return answer.value
        if shows != _VALUES or not answer.value:
            return [] if shows == _VALUES else None
        most = _shown(metric.metric_value_kwargs.get("result_format"))
        if not most or not isinstance(measure, BadRows | OutOfRange | Repeats | Orphans):
            return []
        if metric.metric_name == f"column_values.nonnull{_VALUES}":
            return [None] * min(most, answer.value)
        columns, personal = measure.columns, self.measurer.tables[name].personal
        rows = [
            tuple(
                _hashed(value) if column in personal else value
                for column, value in zip(columns, row, strict=True)
            )
            for row in self.measurer.examples(name, [measure], columns, most).get(measure, [])
        ]
        if metric.metric_name.startswith("compound_columns."):
            return [dict(zip(columns, row, strict=True)) for row in rows]
        return [row[0] for row in rows] if len(columns) == 1 else rows

    def _masked(self, metric: MetricConfiguration, value: Any) -> Any:
        """Return what the stock engine shows of rows without what is personal."""
        name = self._table_name()
        personal = self.measurer.tables[name].personal if name else frozenset({"*"})
        if not personal or not metric.metric_name.endswith(_SHOWN_BY_STOCK):
            return value
        used = {value for value in _asked(metric).values() if isinstance(value, str)}
        used |= set(_asked(metric).get("column_list") or ())
        if metric.metric_name.endswith(_VALUES) and not used & personal:
            return value
        return _hide(value)

    def _schema(self, name: str) -> Any:
        columns = self.measurer.tables[self._table_name()].columns
        match name:
            case "table.columns":
                return list(columns)
            case "table.column_count":
                return len(columns)
        return [{"name": column, "type": _sqlalchemy_type(kind)} for column, kind in columns.items()]

    def _typed(self, asked: Mapping[str, Any], table: str) -> dict[str, Any]:
        columns = self.measurer.tables[table].columns
        return {**asked, TYPE: columns.get(asked.get("column", ""), "")}

    def _table_name(self) -> str:
        """Return the table of the active batch; empty where a batch is not a table as a whole."""
        data: Any = self.batch_manager.active_batch_data
        if data is not self._active[0]:  # asked a few times for every metric
            self._active = (data, self._name_of(data))
        return self._active[1]

    def _name_of(self, data: Any) -> str:
        chosen = getattr(data.selectable, "element", None)
        if chosen is None or str(chosen.whereclause) not in ("true", "None"):
            return ""
        name = str(chosen.get_final_froms()[0].name)
        return next((one for one in (name, name[1:-1]) if one in self.files), "")


class FusedDatasource(DuckDBDatasource):
    """The data source `mailstay`: named tables, each a list of Parquet files, read by the fused engine."""

    type: Literal["mailstay"] = "mailstay"  # type: ignore[assignment]

    @property
    def execution_engine_type(self) -> _EngineType:
        """The engine that reads it."""
        return FusedExecutionEngine


class _Together(MetricProvider):
    """A metric that the fused engine answers without others; what it leaves to stock keeps its stock dependencies."""

    stock: ClassVar[str] = "DuckDBExecutionEngine"

    @classmethod
    def _get_evaluation_dependencies(
        cls,
        metric: MetricConfiguration,
        configuration: Any = None,
        execution_engine: Any = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> dict[str, MetricConfiguration]:
        if execution_engine.translates(metric):
            return {}
        provider, _ = get_metric_provider(metric.metric_name, execution_engine._stock)
        found: dict[str, MetricConfiguration] = provider.get_evaluation_dependencies(
            metric=metric,
            configuration=configuration,
            execution_engine=execution_engine._stock,
            runtime_configuration=runtime_configuration,
        )
        return found


def _never(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the fused engine answers this metric itself")


_never.metric_fn_type = MetricFunctionTypes.VALUE  # type: ignore[attr-defined]


def _register() -> None:
    """Let the fused engine answer the metrics that it translates, with their stock arguments."""
    names = [base + end for base in MAP_METRICS for end in (_COUNT, *_SHOWS)]
    for name in [*names, *FIGURE_METRICS, *_SCHEMA, _QUERY_COUNT]:
        if (definition := _registered_metrics.get(name)) is not None:
            definition["providers"][FusedExecutionEngine.__name__] = (_Together, _never)


def _asked(metric: MetricConfiguration) -> dict[str, Any]:
    return {**metric.metric_domain_kwargs, **metric.metric_value_kwargs}


def _shown(result_format: Any) -> int:
    if not isinstance(result_format, Mapping):
        return _DEFAULT_SHOWN
    if result_format.get("exclude_unexpected_values"):
        return 0
    if result_format.get("result_format") == "COMPLETE":
        return _MOST_SHOWN
    return int(result_format.get("partial_unexpected_count", _DEFAULT_SHOWN))


def _hashed(value: Any) -> Any:
    return None if value is None else "sha256:" + hashlib.sha256(str(value).encode()).hexdigest()[:12]


def _hide(value: Any) -> Any:
    """Return a value with its texts hashed; of tables of rows nothing."""
    match value:
        case str():
            return _hashed(value)
        case Mapping():
            return {key: _hide(one) for key, one in value.items()}
        case list() | tuple():
            return [_hide(one) for one in value]
        case None | bool() | int() | float():
            return value
    return None


def _sqlalchemy_type(kind: str) -> sa.types.TypeEngine[Any]:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return sa.TIMESTAMP(timezone=True)
    named = getattr(sa.types, kind.partition("(")[0], None)
    return (
        named() if isinstance(named, type) and issubclass(named, sa.types.TypeEngine) else sa.types.NullType()
    )


_register()
