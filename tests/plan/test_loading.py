"""A mistake in the plan is told with its file, line, field and mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tasks.plan import LoadedPlan, PlanError, lint, load_plan, plan_schema

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "plan.example.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = EXAMPLE.read_text()
    assert text.count(old) >= 1
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_example_loads_and_lacks_the_pinned_key_and_a_backup_of_one_provider() -> None:
    loaded = load_plan(EXAMPLE)
    assert {finding.field: finding.missing for finding in lint(loaded.plan)} == {
        "store.public_key": "the store's public key is not pinned: a chain signed anew with another key would pass",
        "providers.sendgrid": "its data is not backed up",
        "providers.mailchimp": "its data is not backed up",
        "providers.klaviyo": "its data is not backed up",
    }


def test_a_status_page_is_asked_for_unless_the_provider_has_none_to_read() -> None:
    loaded = load_plan(EXAMPLE)
    bare = {name: one.model_copy(update={"status_page": None}) for name, one in loaded.plan.providers.items()}
    found = lint(loaded.plan.model_copy(update={"providers": bare}))
    assert {one.field for one in found if one.missing == "no status page"} == {
        f"providers.{name}" for name in bare if name != "mailchimp"
    }


def test_the_example_shows_every_key_of_the_models() -> None:
    shown = set(_paths(yaml.safe_load(EXAMPLE.read_text())))
    optional = {
        "journal_env",
        "sla_monthly_uptime",
        "seed_mailbox_url",
        "seed_address_env",
        "name",
        "url",
        "schema",
    }
    known = set()
    schema = json.loads(plan_schema())
    for part in [schema, *schema["$defs"].values()]:
        known |= set(part.get("properties", {}))
    assert known - shown - optional <= {"tables", "to", "reschedule_minutes"}


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ("rto_minutes: 240", "rto_minutes: 99999", "objects.contacts", "exceeds mtpd_minutes"),
        ("channel: marketing,", "channel: pigeons,", "the plan", "stakeholders.marketing_team.channel names 'pigeons'"),
        ("suspect_after: 1", "suspect_after: 0", "detection.suspect_after", "greater than or equal to 1"),
        ("suspect_after: 1", "suspekt_after: 1", "detection.suspekt_after", "not permitted"),
        ("kind: listmonk", "kind: pigeon", "providers.listmonk.kind", "listmonk"),
        ("    provider: brevo ", "    provider: bravo ", "the plan", "sources.brevo_account.provider names 'bravo'"),
        ("    provider: brevo ", "    mapping: shop\n    provider: brevo ", "the plan",
         "the export of brevo is mapped by 'brevo'"),
        ("    provider: brevo ", "    provider: klaviyo ", "the plan",
         "klaviyo cannot be exported yet, only listmonk, brevo, sendgrid"),
        ("    provider: brevo ", "    url_env: X\n    provider: brevo ", "sources.brevo_account",
         "exactly one of url, url_env and provider"),
        ("    provider: brevo ", "    limit_rate: 1MiB/s\n    provider: brevo ", "sources.brevo_account",
         "sets its own pace"),
        ("    provider: brevo ", "    narrow: changes\n    provider: brevo ", "sources.brevo_account",
         "only PostgreSQL keeps a record"),
        ("source: esp", "source: nowhere", "the plan", "providers.listmonk.source names 'nowhere'"),
        ("keep_last: 7\n  keep_within_days: 0\n  keep_hourly: 0\n"
         "  keep_daily: 14                    # of each day, week, … the newest valid one\n"
         "  keep_weekly: 8\n  keep_monthly: 12",
         "keep_last: 0\n  keep_daily: 0\n  keep_weekly: 0\n  keep_monthly: 0", "retention",
         "would remove every snapshot"),
        ("url_env: MAILSTAY_SHOP_URL", "tables: []", "sources.shop", "exactly one of url, url_env"),
        ("url_env: MAILSTAY_SHOP_URL", "url: sqlite:///shop.db", "sources.shop",
         "only PostgreSQL keeps a record of its changes"),
        ("limit_rate: 50MiB/s", "limit_rate: 50 megs", "sources.shop.limit_rate", "'50 megs' is no rate"),
        ("url_env: MAILSTAY_MARKETING_URL", "to: []", "channels.marketing", "needs url_env"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_field_and_reason(
    tmp_path: Path, old: str, new: str, field: str, message: str
) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    told = str(caught.value)
    assert f": {field}: " in told
    assert message in told
    if field != "the plan":
        line = int(told.split(f"{path}:")[1].split(":")[0])
        key = field.rpartition(".")[2]
        assert path.read_text().splitlines()[line - 1].strip().startswith(f"{key}:")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "The plan is empty"),
        ("- 1", "The plan is empty"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
        ("version: 1", "Field required"),
    ],
)
def test_what_is_no_plan_is_refused_without_a_traceback(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(PlanError, match=message) as caught:
        load_plan(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_plan_names_the_example(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"There is no plan.*plan\.example\.yaml"):
        load_plan(tmp_path / "nothing.yaml")


def test_an_unset_secret_names_the_variable_and_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILSTAY_SHOP_URL", raising=False)
    with pytest.raises(PlanError, match=r"MAILSTAY_SHOP_URL is not set .*sources\.shop"):
        load_plan(EXAMPLE).source_url("shop")


def test_an_unknown_source_or_provider_lists_the_known_ones() -> None:
    loaded = load_plan(EXAMPLE)
    with pytest.raises(PlanError, match="use one of: shop, esp"):
        loaded.source_url("crm")
    with pytest.raises(PlanError, match="use one of: listmonk, sendgrid, brevo, mailchimp, klaviyo"):
        loaded.provider("pigeon")


def test_paths_and_sqlite_urls_are_relative_to_the_plan() -> None:
    loaded = load_plan(EXAMPLE)
    assert loaded.journal_url() == f"sqlite:///{EXAMPLE.parent / 'journal.db'}"
    assert loaded.store_url() == str(EXAMPLE.parent / "store")
    assert loaded.resolve("reports") == EXAMPLE.parent / "reports"


def test_the_digest_changes_with_the_content_and_not_with_comments(tmp_path: Path) -> None:
    same = edited(tmp_path, "# The continuity plan", "# Another comment")
    assert load_plan(same).digest == load_plan(EXAMPLE).digest
    other = edited(tmp_path, "keep_last: 7", "keep_last: 8")
    assert load_plan(other).digest != load_plan(EXAMPLE).digest


@pytest.mark.parametrize(
    ("old", "new", "field", "missing"),
    [
        ("    support: https://support.example.com\n", "", "providers.listmonk", "nowhere to open a ticket"),
        ("  scribe: {filled_by: marketing operations}\n", "", "roles", "nobody is named as scribe"),
        ("tables: [suppressions]", "tables: [lists]", "objects", "consent have no recovery objectives"),
        ("rpo_minutes: 60\n    rto_minutes: 60", "rpo_minutes: 5\n    rto_minutes: 60", "objects.consent.rpo_minutes",
         "cannot be met by backups every 60 minutes"),
        ("    source: esp\n", "", "providers.listmonk", "its data is not backed up"),
        ("    provider: brevo  ", "    url: sqlite:///x.db  ", "providers.brevo", "its data is not backed up"),
    ],
)  # fmt: skip
def test_lint_says_what_a_readable_plan_still_lacks(
    tmp_path: Path, old: str, new: str, field: str, missing: str
) -> None:
    findings = lint(load_plan(edited(tmp_path, old, new)).plan)
    usual = {(f.field, f.missing) for f in lint(load_plan(EXAMPLE).plan)}
    assert [(f.field, missing in f.missing) for f in findings if (f.field, f.missing) not in usual] == [
        (field, True)
    ]
    assert all(finding.fix for finding in findings)


def test_the_schema_describes_every_key() -> None:
    schema = json.loads(plan_schema())
    silent = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part.get("properties", {}).items()
        if "description" not in value
    ]
    assert silent == []


def _paths(node: object) -> list[str]:
    if not isinstance(node, dict):
        return []
    return list(node) + [path for value in node.values() for path in _paths(value)]


def test_loaded_plan_is_immutable() -> None:
    loaded = load_plan(EXAMPLE)
    assert isinstance(loaded, LoadedPlan)
    with pytest.raises(AttributeError):
        loaded.digest = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    batches: batches.csv", "    seed_mailbox_url: http://127.0.0.1:9/", "through listmonk only"),
        ("    source: esp\n", "    source: esp\n    batches: batches.csv\n", "only SendGrid has batches"),
    ],
)
def test_what_a_kind_of_provider_does_not_have_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        load_plan(edited(tmp_path, old, new))


def test_a_source_that_exports_a_provider_is_that_providers_source_and_mapped_as_its_kind_is() -> None:
    plan = load_plan(EXAMPLE).plan
    assert (plan.providers["brevo"].source, plan.sources["brevo_account"].mapping) == (
        "brevo_account",
        "brevo",
    )
    assert plan.providers["listmonk"].source == "esp"


def test_an_export_has_no_url_to_restore_into() -> None:
    with pytest.raises(PlanError, match="the export of the provider 'brevo', not a database"):
        load_plan(EXAMPLE).source_url("brevo_account")
