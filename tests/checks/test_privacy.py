"""Wherever an address was planted, whatever format is asked of Great Expectations: nothing that is told holds it."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tasks.checks import running
from tasks.checks.contracts import Contract, RowRule
from tasks.checks.findings import CheckReport
from tasks.checks.history import remember
from tasks.checks.privacy import redact, scrub
from tasks.core import MailstayError
from tests.checks.conftest import AT, Shop

TOKEN = "planted7f3a"

Plant = Callable[[Shop, str], None]


def in_column(table: str, column: str) -> Plant:
    """Put the address into a column, which becomes text if it is not; engines quote it where they cannot cast it."""

    def plant(shop: Shop, address: str) -> None:
        schema = shop.schemas[table]
        at = schema.get_field_index(column)
        if not pa.types.is_string(schema.field(at).type):
            shop.schemas[table] = schema.set(at, pa.field(column, pa.string()))
            for row in shop.rows[table]:
                row[column] = None if row[column] is None else str(row[column])
        for row in shop.rows[table][:2]:
            row[column] = address

    plant.__name__ = f"{table}.{column}"
    return plant


def in_json(shop: Shop, address: str) -> None:
    shop.schemas["orders"] = shop.schemas["orders"].append(pa.field("attributes", pa.string()))
    for row in shop.rows["orders"]:
        row["attributes"] = json.dumps({"buyer": [address]})


def in_field_names(shop: Shop, address: str) -> None:
    at = shop.schemas["orders"].get_field_index("kind")
    shop.schemas["orders"] = shop.schemas["orders"].set(
        at, pa.field("kind", pa.struct([(address, pa.string())]))
    )
    for row in shop.rows["orders"]:
        row["kind"] = {address: "sale"}


def in_column_name(shop: Shop, address: str) -> None:
    shop.schemas["orders"] = shop.schemas["orders"].append(pa.field(address, pa.string()))
    for row in shop.rows["orders"][1:]:
        row[address] = address


def in_table_name(shop: Shop, address: str) -> None:
    shop.schemas["people"] = pa.schema([(address, pa.string())])
    shop.rows["people"] = [{address: address}]


PLACES: list[Plant] = [
    *(in_column("orders", one) for one in ("order_id", "customer_id", "ordered_at", "kind", "country", "total_minor")),
    *(in_column("customers", one) for one in ("email", "country", "customer_id", "created_at")),
    in_json,
    in_field_names,
    in_column_name,
    in_table_name,
]  # fmt: skip

ADDRESSES = st.builds(
    "{}@{}".format,
    st.sampled_from(
        [TOKEN, f"{TOKEN}+tag", f"o'{TOKEN}", f'"{TOKEN} smith"', f"Ünï.{TOKEN.upper()}", f"{TOKEN}{{}}"]
    ),
    st.sampled_from(["secret.example", "[192.0.2.7]", "bücher.example", "localhost"]),
) | st.sampled_from([f"https://shop.example/?to={TOKEN}%40secret.example", f"{TOKEN}\\u0040secret.example"])

FORMATS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"result_format": st.sampled_from(["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"])},
    optional={
        "partial_unexpected_count": st.sampled_from([0, 20]),
        "include_unexpected_rows": st.just(True),
        "exclude_unexpected_values": st.booleans(),
        "return_unexpected_index_query": st.booleans(),
    },
)


@contextmanager
def everything_said() -> Iterator[io.StringIO]:
    """Collect standard output, standard error and every log record of any level."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def assert_untold(said: str, folder: Path) -> None:
    """Nothing that was said, and no file, name or Parquet value below `folder`, holds the token."""
    assert TOKEN not in said.lower()
    for path in folder.rglob("*"):
        assert TOKEN not in path.name.lower()
        if path.suffix == ".parquet":
            assert TOKEN not in str(pq.ParquetFile(path).read().to_pylist()).lower(), path
        elif path.is_file() and path.parent.name != "assets":
            assert TOKEN not in path.read_text(encoding="utf-8").lower(), path


def hold_against(
    contracts: dict[str, Contract], folder: Path, plants: list[Plant], address: str, asked: dict[str, Any]
) -> CheckReport | None:
    """Check a shop with the address planted in all `plants`, and scan all that came of it."""
    data, told = folder / "data", folder / "told"
    data.mkdir(parents=True)
    told.mkdir()
    shop = Shop(data)
    for plant in plants:
        plant(shop, address)
    casts = RowRule(
        name="casts",
        says="both are numbers",
        holds="CAST(country AS INTEGER) + CAST(kind AS INTEGER) > 0",
        columns=["country", "kind"],
    )
    orders = contracts["orders"]
    harmful = {
        "customers": contracts["customers"],
        "orders": orders.model_copy(update={"row_rules": [*orders.row_rules, casts]}),
    }
    with pytest.MonkeyPatch.context() as patch, everything_said() as said:
        patch.setattr(running, "_RESULT_FORMAT", asked)
        report = None
        try:
            report = running.check_data(shop.data(), harmful, at=AT, docs_folder=told / "docs")
            remember(told / "history", report)
            print(report)
        except MailstayError as error:
            print(repr(error), str(error))
    assert_untold(said.getvalue(), told)
    return report


@pytest.mark.slow
@settings(
    max_examples=300,
    phases=[Phase.explicit, Phase.generate],  # a case takes a second or two: shrinking it would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    plants=st.lists(st.sampled_from(PLACES), min_size=1, max_size=6, unique_by=lambda one: one.__name__),
    address=ADDRESSES,
    asked=FORMATS,
)
def test_a_planted_address_is_told_nowhere_in_many_ways(
    contracts: dict[str, Contract], tmp_path_factory: pytest.TempPathFactory, **case: Any
) -> None:
    hold_against(contracts, tmp_path_factory.mktemp("privacy"), **case)


def test_an_address_planted_everywhere_at_once_is_told_nowhere(
    contracts: dict[str, Contract], tmp_path: Path
) -> None:
    """The leakiest format and every place: the findings are all there, and none of them quotes."""
    asked = {"result_format": "COMPLETE", "partial_unexpected_count": 20, "include_unexpected_rows": True}
    places = [one for one in PLACES if one is not in_field_names]  # it takes the place of another
    report = hold_against(contracts, tmp_path, places, f"{TOKEN}@secret.example", asked)
    assert report is not None
    status = {one.rule: one.status for one in report.findings}
    assert status["orders.kind.allowed"] == status["customers.email.unique"] == "failed"
    assert status["orders.country+kind.casts"] == "broken"
    assert {"orders.customer_id.type", "orders.ordered_at.type", "orders.columns_known"} <= set(status)


def test_stock_great_expectations_would_tell_it_and_the_funnel_does_not(tmp_path: Path) -> None:
    """Every kind of expectation that quotes values, in every format: what comes out of the funnel holds none."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    from tasks.checks import suites
    from tasks.checks.docs import write_docs

    address = f"{TOKEN}@secret.example"
    path = tmp_path / "people.parquet"
    rows = [{"id": n, "email": f"{n}.{address}", "other": n, "born": n} for n in range(1, 30)]
    pq.write_table(pa.Table.from_pylist([*rows, rows[0]]), path)
    leaky = [
        gxe.ExpectColumnValuesToMatchRegex(column="email", regex="^nobody$"),
        gxe.ExpectColumnValuesToBeInSet(column="email", value_set=["nobody"]),
        gxe.ExpectColumnValuesToBeUnique(column="email"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "email"]),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="email", value_set=["nobody"]),
        gxe.ExpectColumnMostCommonValueToBeInSet(column="email", value_set=["nobody"]),
        gxe.ExpectColumnMaxToBeBetween(column="other", min_value=1000),
        gxe.ExpectColumnValuesToBeBetween(column="other", min_value=1000),
        gxe.UnexpectedRowsExpectation(unexpected_rows_query="SELECT * FROM {batch} WHERE id > 3"),
        gxe.UnexpectedRowsExpectation(unexpected_rows_query="SELECT CAST(email AS INTEGER) FROM {batch}"),
    ]
    leaked = 0
    for number, form in enumerate(["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"]):
        context, source = suites.open_context(f"people-{number}", {"people": [str(path)]})
        asset = source.add_table_asset("people", table_name="people")
        suite = context.suites.add(
            gx.ExpectationSuite("people", expectations=[copy.copy(one) for one in leaky])
        )
        batch = asset.add_batch_definition_whole_table("all")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name="people", data=batch, suite=suite)
        )
        asked = {
            "result_format": form,
            "partial_unexpected_count": 20,
            "unexpected_index_column_names": ["id"],
        }
        asked |= {"include_unexpected_rows": True} if form != "BOOLEAN_ONLY" else {}
        outcome = definition.run(result_format=asked)
        leaked += str(outcome.to_json_dict()).count(TOKEN)
        with everything_said() as said:
            write_docs(context, tmp_path / f"docs-{number}")
            print(redact(outcome))
        assert_untold(said.getvalue(), tmp_path / f"docs-{number}")
        by_regex = "expect_column_values_to_match_regex"
        (regex,) = (one.result for one in outcome.results if one.expectation_config.type == by_regex)
        assert form == "BOOLEAN_ONLY" or regex["unexpected_count"] == 30, "the counts are still told"
        source.get_execution_engine().dispose()
    assert leaked > 200


def test_a_number_of_a_personal_column_is_not_told() -> None:
    """The largest birthday or telephone number is somebody's."""

    @dataclasses.dataclass
    class Config:
        type: str
        kwargs: dict[str, Any]
        meta: dict[str, Any]
        rendered_content: Any = None

    @dataclasses.dataclass
    class Result:
        expectation_config: Config
        result: dict[str, Any]
        exception_info: Any = None
        rendered_content: Any = None

    @dataclasses.dataclass
    class Outcome:
        results: list[Result]

    def told(meta: dict[str, Any]) -> dict[str, Any]:
        config = Config("expect_column_max_to_be_between", {"column": "phone"}, meta)
        outcome = redact(Outcome([Result(config, {"observed_value": 447700900123, "element_count": 3})]))
        (one,) = outcome.results
        return dict(one.result)

    assert told({"mailstay": {"personal": True}}) == {"element_count": 3}
    assert told({}) == {"element_count": 3}, "what does not say so may be personal"
    assert told({"mailstay": {"personal": False}})["observed_value"] == 447700900123


def test_a_personal_key_is_told_apart_by_hashes_that_nobody_can_try(
    shop: Shop, contracts: dict[str, Contract]
) -> None:
    customers = contracts["customers"]
    by_address = customers.model_copy(update={"primary_key": ["email"]})
    for row in shop.rows["customers"][:2]:
        row["country"] = "x" * 100
    runs = [running.check_data(shop.data(), {"customers": by_address}, at=AT) for _ in range(2)]
    first, second = (
        next(one.sample_keys for one in run.findings if one.rule == "customers.country.length")
        for run in runs
    )
    assert len(set(first)) == 2
    assert all(one.startswith("email=#") and len(one) == len("email=#") + 12 for one in first)
    assert not set(first) & set(second), "salted anew"


def test_files_that_cannot_be_read_are_told_without_what_they_hold(
    shop: Shop, contracts: dict[str, Contract]
) -> None:
    data = shop.data()
    Path(data.tables["orders"].files[0]).write_bytes(f"'{TOKEN}@secret.example'".encode())
    with pytest.raises(MailstayError) as caught, everything_said() as said:
        running.check_data(data, contracts, at=AT)
    assert "could not be run" in str(caught.value)
    assert TOKEN not in str(caught.value) + said.getvalue()
    assert caught.value.__suppress_context__, "no traceback brings the database's words back"


def test_an_address_that_is_also_the_name_of_a_column_is_masked_as_urls_write_it() -> None:
    name = f"https://shop.example/?to={TOKEN}%40secret.example"
    assert TOKEN not in scrub(f"Conversion Error: Could not convert string '{name}' to INT32", {name})
