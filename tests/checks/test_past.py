"""Against the snapshots before: what is legitimate passes, what must wait says so, nothing passes for want of data."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.checks.anomaly import NEEDS, bounds, expected
from tasks.checks.consent import guarded
from tasks.checks.contracts import Consent, Contract
from tasks.checks.drift import by_chance, stability_index
from tasks.checks.loading import default_contracts, load_contracts
from tasks.checks.past import ConsentLog
from tasks.checks.profiling import Profiled, TableProfile
from tasks.checks.rules import VACUOUS, TableFigures, compile_rules, gravest
from tasks.checks.running import SnapshotData, TableData, check_data
from tasks.checks.schema_drift import Change, Shape, kinds_of_change, schema_changes
from tasks.snapshots.rules import RULES
from tasks.sources import ColumnFacts, TableFacts

NOW = datetime(2011, 11, 16, 7, 0)  # noqa: DTZ001
LOG = Consent(kind="log", person="who", column="kind", blocked=["unsubscribe"], since="at")


def _left(esp: Any) -> Any:
    """Subscriber 2, who had left list 1."""
    return esp.rows["subscriber_lists"][2]


def _on_list_again(esp: Any) -> None:
    _left(esp).update(status="confirmed", updated_at=NOW)


def _confirmed_by_mail(esp: Any) -> None:
    """Subscriber 3, who had left list 2, which asks for a confirmation by mail."""
    esp.rows["subscriber_lists"][5].update(status="confirmed", updated_at=NOW)


def _list_deleted(esp: Any) -> None:
    esp.rows["subscriber_lists"] = [row for row in esp.rows["subscriber_lists"] if row["list_id"] != 1]
    esp.rows["lists"].pop(0)


def _blocked_instead(esp: Any) -> None:
    esp.rows["subscribers"][1]["status"] = "blocklisted"
    esp.rows["subscriber_lists"].remove(_left(esp))


def _deleted(*people: int) -> Callable[[Any], None]:
    def do(esp: Any) -> None:
        esp.rows["subscribers"] = [row for row in esp.rows["subscribers"] if row["id"] not in people]
        rows = esp.rows["subscriber_lists"]
        esp.rows["subscriber_lists"] = [row for row in rows if row["subscriber_id"] not in people]

    return do


def _blocked_under_another_id(esp: Any) -> None:
    esp.rows["subscribers"][0]["id"] = 99
    _deleted(1)(esp)


LEGITIMATE: list[tuple[str, Callable[[Any], None], dict[str, Any]]] = [
    ("an opt-in in the log that is later", _on_list_again, {"wishes": [(2, "subscribe", NOW)]}),
    ("a double opt-in that is later", _confirmed_by_mail, {}),
    ("a list that is gone", _list_deleted, {}),
    ("a membership of somebody who is blocked as a whole", _blocked_instead, {}),
    ("a deleted person whose address is blocked under another id", _blocked_under_another_id, {}),
    (
        "a deleted person whose last wish in the log keeps them out",
        _deleted(1),
        {"wishes": [(1, "unsubscribe", NOW)]},
    ),
    ("a person whom the ledger erased", _deleted(1, 2), {"erased": frozenset(["1", "2"])}),
]
ILLEGITIMATE: list[tuple[str, Callable[[Any], None], dict[str, Any]]] = [
    (
        "an opt-in in the log that is older",
        _on_list_again,
        {"wishes": [(2, "subscribe", NOW - timedelta(days=21))]},
    ),
    (
        "an opt-in that the log takes back",
        _on_list_again,
        {"wishes": [(2, "subscribe", NOW), (2, "unsubscribe", NOW)]},
    ),
    ("somebody else's opt-in", _on_list_again, {"wishes": [(3, "subscribe", NOW)]}),
    (
        "a confirmation that is not later",
        lambda esp: esp.rows["subscriber_lists"][5].update(status="confirmed"),
        {},
    ),
    ("a deleted person whose log ends with an opt-in", _deleted(1), {"wishes": [(1, "subscribe", NOW)]}),
    ("a person beside one whom the ledger erased", _deleted(1), {"erased": frozenset(["2"])}),
]


def consents_found(esp: Any, check: Any, contracts: Any, do: Any, known: dict[str, Any]) -> list[str]:
    import pyarrow.parquet as pq

    wishes, log = known.pop("wishes", None), None
    if wishes is not None:
        path = esp.folder / "log.parquet"
        columns = {
            name: pa.array(values)
            for name, values in zip(("who", "kind", "at"), zip(*wishes, strict=True), strict=True)
        }
        pq.write_table(pa.table(columns), path)
        log = ConsentLog(LOG, (str(path),))
    past = esp.as_past(contracts, log=log, **known)
    do(esp)
    esp.rows["messages"].clear()
    kinds = ("opt_out_kept", "opt_out_holds", "consent_date_kept")
    only = ("subscribers", "subscriber_lists")
    report = check_data(esp.data(past=past), {name: contracts[name] for name in only}, at=datetime.now(UTC))
    found = [one for one in report.findings if one.rule.endswith(kinds)]
    assert {(one.severity, one.status) for one in found} <= {("critical", "failed")}
    return [one.rule for one in found]


@pytest.mark.parametrize(("why", "do", "known"), LEGITIMATE, ids=[one[0] for one in LEGITIMATE])
def test_a_consent_may_change_with(
    why: str, do: Any, known: Any, esp: Any, check: Any, esp_contracts: Any
) -> None:
    assert consents_found(esp, check, esp_contracts, do, dict(known)) == []


@pytest.mark.parametrize(("why", "do", "known"), ILLEGITIMATE, ids=[one[0] for one in ILLEGITIMATE])
def test_a_consent_may_not_change_with(
    why: str, do: Any, known: Any, esp: Any, check: Any, esp_contracts: Any
) -> None:
    assert consents_found(esp, check, esp_contracts, do, dict(known)) != []


def test_a_later_opt_in_in_the_shops_own_log_is_no_finding(shop: Any, check: Any, contracts: Any) -> None:
    past = shop.as_past(contracts)
    shop.wish(6, 12001, "subscribe", NOW - timedelta(days=1))
    assert check(shop, past=past).findings == []


def test_an_erased_persons_requests_may_go_from_the_log(shop: Any, check: Any, contracts: Any) -> None:
    past = shop.as_past(contracts, erased=frozenset(["12001"]))
    shop.rows["consent_requests"].pop(0)
    assert [one.rule for one in check(shop, past=past).findings] == ["consent_requests.rows_shrink"]


def test_no_contract_takes_away_what_the_mapping_says_of_consent(esp_contracts: Any) -> None:
    shipped = load_contracts(default_contracts("listmonk") or "")
    bare = {name: one.model_copy(update={"consent": None}) for name, one in esp_contracts.items()}
    own = {"subscribers": bare["subscribers"], "subscriber_lists": bare["subscriber_lists"]}
    bound = guarded(own, shipped)
    assert bound["subscribers"].consent == shipped["subscribers"].consent
    assert bound["subscribers"].columns == own["subscribers"].columns
    assert bound["bounces"] == shipped["bounces"]  # a table that they leave out altogether
    assert "campaigns" not in bound


@pytest.mark.parametrize("mapping", ["shop", "listmonk"])
def test_consent_means_the_same_to_checks_and_restores(mapping: str) -> None:
    contracts = load_contracts(default_contracts(mapping) or "")
    rules = {table: rule for table, rule in RULES[mapping].items() if rule.consent}
    found = {table: one.consent for table, one in contracts.items() if one.consent is not None}
    assert found.keys() == rules.keys()
    for table, consent in found.items():
        assert (consent.column, tuple(consent.blocked)) == (rules[table].column, rules[table].order[-1])


# Vacuous passes -------------------------------------------------------------------------------------------------

SEVERITIES = st.sampled_from(["critical", "warning", "info"])


@st.composite
def contracts_of_anything(draw: st.DrawFn) -> Contract:
    def rule(**more: Any) -> dict[str, Any]:
        return {"severity": draw(SEVERITIES), **more}

    kinds: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "text": [
            ("format", {"pattern": "^x"}),
            ("allowed", {"values": ["x"]}),
            ("length", {"max": 3}),
            ("unique", {}),
            ("no_addresses", {}),
        ],
        "integer": [("range", {"min": 1}), ("unique", {}), ("allowed", {"values": [1]})],
        "timestamp": [("dates", {"not_before": "2000-01-01"})],
    }
    columns: dict[str, Any] = {"id": {"type": "integer"}}
    for n in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(sorted(kinds)))
        chosen = draw(st.lists(st.sampled_from(kinds[kind]), max_size=3, unique_by=lambda one: one[0]))
        nulls = rule(at_most=draw(st.sampled_from([0, 0.5, 1, "auto"])))
        columns[f"c{n}"] = {"type": kind, "nulls": nulls} | {name: rule(**more) for name, more in chosen}
    holds = {"name": "holds", "says": "x", "holds": "c0 IS NULL OR id > 0", "columns": ["c0"]}
    return Contract.model_validate(
        {
            "table": "things",
            "primary_key": ["id"],
            "key_severity": draw(SEVERITIES),
            "rows": {"at_least": draw(st.sampled_from([0, 1, 5])), "severity": draw(SEVERITIES)},
            "columns": columns,
            "row_rules": draw(st.sampled_from([[], [rule(**holds)]])),
        }
    )


@given(contracts_of_anything())
@settings(max_examples=100)
def test_every_rule_that_want_of_data_satisfies_is_paired_with_one_as_grave_that_it_breaks(
    contract: Contract,
) -> None:
    rules = compile_rules(
        contract, TableFigures(tuple(contract.columns), 10), datetime(2011, 1, 1, tzinfo=UTC)
    )
    vacuous = [rule for rule in rules if rule.kind in VACUOUS or rule.across]
    filled = {
        name: [rule for rule in rules if rule.column == name and rule.kind in ("not_null", "has_values")]
        for name in contract.columns
    }
    counted = [rule for rule in rules if rule.kind in ("rows_at_least", "rows_any")]
    order = ["critical", "warning", "info", None]
    for rule in vacuous:
        for name in rule.needs:
            if contract.columns[name].nulls.at_most != 1:
                assert order.index(gravest(one.severity for one in filled[name])) <= order.index(
                    rule.severity
                ), rule
        if contract.rows.at_least:
            assert order.index(gravest(one.severity for one in counted)) <= order.index(rule.severity), rule


def _held(contract: Contract, rows: list[dict[str, Any]], folder: Any) -> Any:
    import pyarrow.parquet as pq

    kinds = {"text": pa.string(), "integer": pa.int64(), "timestamp": pa.timestamp("us")}
    schema = pa.schema([(name, kinds[column.type]) for name, column in contract.columns.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "things.parquet")
    table = TableData((str(folder / "things.parquet"),), len(rows))
    return check_data(
        SnapshotData("x/00000001", datetime(2011, 1, 1, tzinfo=UTC), {"things": table}),
        {"things": contract},
        at=datetime(2011, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("lowered", [False, True])
def test_an_empty_table_or_column_is_not_valid_unless_the_contract_says_so(
    lowered: bool, tmp_path: Any
) -> None:
    low = {"severity": "warning"} if lowered else {}
    note: dict[str, Any] = {
        "type": "text",
        "format": {"pattern": "x"},
        "nulls": {"at_most": 0.5 if lowered else 0} | low,
    }
    things: dict[str, Any] = {"table": "things", "primary_key": ["id"], "rows": low}
    columns: dict[str, Any] = {"id": {"type": "integer"}, "note": note}
    contract = Contract.model_validate(things | {"columns": columns})
    unfilled = [{"id": n, "note": None} for n in range(9)]
    assert _held(contract, [], tmp_path).outcome == "quarantined"
    assert _held(contract, unfilled, tmp_path).outcome == "quarantined"
    columns["note"] = note | {"nulls": {"at_most": 1}}
    allowing = Contract.model_validate(things | {"columns": columns, "rows": {"at_least": 0}})
    assert _held(allowing, [], tmp_path).outcome == "valid"
    assert _held(allowing, unfilled, tmp_path).outcome == "valid"


# History ----------------------------------------------------------------------------------------------------------

AUTO = Contract.model_validate(
    {
        "table": "things",
        "primary_key": ["id"],
        "rows": {"change": "auto"},
        "columns": {
            "id": {"type": "integer"},
            "note": {"type": "text", "nulls": {"at_most": "auto"}},
            "at": {"type": "timestamp", "fresh": {"within_minutes": "auto"}},
        },
    }
)
AT = datetime(2011, 11, 16, 3, 0, tzinfo=UTC)


def nights(rows: list[int], notes: float = 0.1, lag: int = 20) -> list[Profiled]:
    """Return what is kept of one snapshot a night, newest first."""
    found = []
    for back, count in enumerate(reversed(rows), 1):
        then = AT - timedelta(days=back)
        profile = TableProfile(count, {"note": round(count * notes)}, {"at": then - timedelta(minutes=lag)})
        found.append(Profiled(f"x/{back}", then, {"things": profile}))
    return found


def test_auto_waits_until_there_is_enough_history_and_says_so() -> None:
    found, waiting = expected(AUTO, nights([1000] * (NEEDS - 1)), AT)
    assert (found.rows, found.nulls, found.minutes) == (None, {}, {})
    assert [one.partition(":")[0] for one in waiting] == [
        "things.rows_change",
        "things.note.not_null",
        "things.at.fresh",
    ]
    assert all("not enough history: 6 earlier valid snapshots of the 7 it needs" in one for one in waiting)
    found, waiting = expected(AUTO, nights([1000] * NEEDS), AT)
    assert waiting == []
    assert found.rows == (980, 1021)
    assert found.nulls["note"] == pytest.approx(0.11)
    assert found.minutes["at"] == 80


def test_auto_follows_growth_and_a_bad_night_does_not_move_it() -> None:
    rows = [1000 + 50 * n for n in range(12)]
    low, high = expected(AUTO, nights(rows), AT)[0].rows or (0, 0)
    assert low <= rows[-1] + 50 <= high < rows[-1] + 150
    assert low > rows[-1]
    rows[5] = 4000
    spoiled = expected(AUTO, nights(rows), AT)[0].rows or (0, 0)
    assert spoiled[1] < rows[-1] + 300


def test_a_weekend_without_snapshots_is_no_anomaly() -> None:
    rows = [1000 + 100 * n for n in range(12)]
    monday = AT + timedelta(days=2)
    low, high = expected(AUTO, nights(rows), monday)[0].rows or (0, 0)
    assert low <= rows[-1] + 300 <= high


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0.01, 10), st.floats(-1e3, 1e3))
def test_bounds_hold_the_median_and_move_with_the_values(
    values: list[float], floor: float, shift: float
) -> None:
    low, high = bounds(values, floor)
    moved = bounds([value + shift for value in values], floor)
    assert (
        low <= sorted(values)[len(values) // 2] + 1e-6
        and high >= sorted(values)[(len(values) - 1) // 2] - 1e-6
    )
    assert high - low >= 2 * floor * (1 - 1e-9) - 1e-6
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-3)


# The spread of values ---------------------------------------------------------------------------------------------


def test_the_index_is_that_of_the_textbook() -> None:
    before, now = {"a": 50, "b": 30, "c": 20}, {"a": 40, "b": 30, "c": 30}
    by_hand = (0.4 - 0.5) * math.log(0.4 / 0.5) + (0.3 - 0.2) * math.log(0.3 / 0.2)
    assert stability_index(before, now) == pytest.approx(by_hand)
    assert stability_index(before, before) == stability_index({}, now) == 0


def test_chance_alone_is_told_from_drift_once_in_a_thousand_times() -> None:
    draws = random.Random(7)
    shares = [0.4, 0.3, 0.2, 0.07, 0.03]
    above = 0
    for _ in range(2000):
        one, other = (draws.choices("abcde", shares, k=size) for size in (300, 200))
        counts = [{name: some.count(name) for name in "abcde"} for some in (one, other)]
        above += stability_index(*counts) > by_chance(*counts)
    assert above <= 12  # 2 are to be expected; above 12 in one of a million runs


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**6), min_size=2))
def test_a_hundredfold_table_of_the_same_spread_has_not_drifted(counts: dict[str, int]) -> None:
    assert stability_index(counts, {name: 100 * count for name, count in counts.items()}) == pytest.approx(0)


# The schema -------------------------------------------------------------------------------------------------------


def shape(**columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> Shape:
    facts = [ColumnFacts(name, one[0], one[2] if len(one) > 2 else False) for name, one in columns.items()]
    schema = pa.schema([(name, one[1]) for name, one in columns.items()])
    return Shape(TableFacts("t", tuple(facts), (facts[0].name,), (), ""), schema)


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (("INTEGER", pa.int32()), ("BIGINT", pa.int64()), "widened"),
        (("BIGINT", pa.int64()), ("INTEGER", pa.int32()), "narrowed"),
        (("VARCHAR(64)", pa.string()), ("VARCHAR(32)", pa.string()), "narrowed"),
        (("VARCHAR(64)", pa.string()), ("TEXT", pa.string()), "widened"),
        (("NUMERIC(12,2)", pa.decimal128(12, 2)), ("NUMERIC(14,2)", pa.decimal128(14, 2)), "widened"),
        (("NUMERIC(12,3)", pa.decimal128(12, 3)), ("NUMERIC(12,2)", pa.decimal128(12, 2)), "narrowed"),
        (("NUMERIC(12,2)", pa.decimal128(12, 2)), ("REAL", pa.float64()), "retyped"),
        (("TIMESTAMP", pa.timestamp("us")), ("TIMESTAMP", pa.string()), "retyped"),
        (("timestamp", pa.timestamp("us")), ("timestamptz", pa.timestamp("us", "UTC")), "retyped"),
        (("TEXT", pa.string(), False), ("TEXT", pa.string(), True), "nullable"),
        (("TEXT", pa.string(), True), ("TEXT", pa.string(), False), "not_nullable"),
    ],
)
def test_a_change_of_a_column_is_named_by_its_kind(was: Any, now: Any, kind: str) -> None:
    id_ = ("INTEGER", pa.int32())
    found = schema_changes(shape(id=id_, c=was), shape(id=id_, c=now), lambda *_: None)
    assert [(one.kind, one.column) for one in found] == [(kind, "c")]
    assert kind in kinds_of_change()


@pytest.mark.parametrize(
    ("old", "new", "content", "renamed"),
    [
        ("email", "contact", (0.97, 500), True),  # the values are the same
        ("email", "mail", (0.2, 500), False),  # the values are others, whatever the name
        ("is_test", "is_tested", (1.0, 1), True),
        ("generated", "archived_flag", (1.0, 1), False),  # one value everywhere says nothing
        ("email", "e_mail", None, True),  # no key to compare by: the name decides
        ("email", "country", None, False),
    ],
)
def test_a_rename_is_known_by_values_and_name(old: str, new: str, content: Any, renamed: bool) -> None:
    id_, text = ("INTEGER", pa.int32()), ("TEXT", pa.string())
    found = schema_changes(shape(id=id_, **{old: text}), shape(id=id_, **{new: text}), lambda *_: content)
    told = f"{old} is called {new} now"
    assert (Change("renamed", new, told, old) in found) is renamed
    assert len(found) == (1 if renamed else 2)


def test_a_change_that_the_contract_asks_for_is_only_information(
    shop: Any, check: Any, contracts: Any
) -> None:
    past = shop.as_past(contracts)
    orders = contracts["orders"]
    columns = {name: one for name, one in orders.columns.items() if name != "generated"}
    reviewed = {**contracts, "orders": orders.model_copy(update={"columns": columns})}
    shop.schemas["orders"] = pa.schema(
        [field for field in shop.schemas["orders"] if field.name != "generated"]
    )
    for row in shop.rows["orders"]:
        del row["generated"]
    report = check_data(shop.data(past=past), reviewed, at=AT)
    assert [(one.rule, one.severity) for one in report.findings] == [
        ("orders.generated.schema_removed", "info")
    ]
    assert report.outcome == "valid"
