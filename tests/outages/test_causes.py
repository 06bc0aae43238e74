"""The class of the cause: suggested with its evidence, and never more than suggested until a person names it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core import DrivenClock
from tasks.incidents import Journal
from tasks.outages import DetectorState, Memory, Pass, Signal, Surroundings, Transition, suggest_causes
from tasks.outages.steps import record_changes, remember
from tasks.plan import load_plan

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
DEAD = Signal("api", "bad", "the API does not work: HTTP 503", NOW)
REFUSED = Signal("api", "bad", "the API does not work: HTTP 401", NOW)


def page(words: str, verdict: str = "bad") -> Signal:
    return Signal("status_page", verdict, "the status page says …", NOW, {"words": words})  # type: ignore[arg-type]


def opt_outs(count: int) -> Signal:
    return Signal("consent", "good", "opt-outs are accepted", NOW, {"requests": count})


@pytest.mark.parametrize(
    ("signals", "around", "cause", "evidence"),
    [
        ([DEAD], {}, "technical_failure", "HTTP 503, and nothing speaks for anything else"),
        ([DEAD, page("A database failed.")], {}, "technical_failure", "'database'"),
        ([DEAD, page("We saw unauthorized access to our network.")], {}, "cyber_attack", "'unauthorized'"),
        ([DEAD, page("A DDoS attack is mitigated.")], {}, "cyber_attack", "'ddos'"),
        ([REFUSED, opt_outs(400)], {}, "cyber_attack", "our key is refused"),
        ([opt_outs(400)], {"usual_opt_outs": 3.0}, "cyber_attack", "400 opt-outs within an hour"),
        (
            [DEAD, page("Caused by a configuration change, rolled back.")],
            {},
            "human_error",
            "'configuration change'",
        ),
        ([DEAD], {"own_changes": ("the plan was changed",)}, "human_error", "the plan was changed"),
        ([REFUSED], {"own_changes": ("we did resume",)}, "human_error", "we did resume"),
        ([DEAD, page("Power loss in one data center.")], {}, "natural_disaster", "'power loss'"),
        ([DEAD, page("Multiple services: Region Availability")], {}, "natural_disaster", "a whole region"),
        ([DEAD], {"others_down": ("brevo", "sendgrid")}, "natural_disaster", "brevo, sendgrid"),
        (
            [
                replace(REFUSED, seen="the API does not work: account suspended, HTTP 403"),
                page("account under review"),
            ],
            {},
            "provider_suspension",
            "'account under review'",
        ),
    ],
)
def test_each_class_has_its_evidence(
    signals: list[Signal], around: dict[str, Any], cause: str, evidence: str
) -> None:
    first = suggest_causes(signals, Surroundings(**around))[0]
    assert first.cause == cause
    assert evidence in "; ".join(first.evidence)


def test_nothing_is_suggested_while_nothing_is_wrong_and_a_busy_day_is_no_attack() -> None:
    good = Signal("api", "good", "the API answers", NOW)
    assert suggest_causes([good, opt_outs(10)]) == []
    assert suggest_causes([good, opt_outs(60)], Surroundings(usual_opt_outs=20.0)) == []


def test_an_attack_that_the_page_reports_is_named_before_the_network_that_it_hit() -> None:
    found = suggest_causes([DEAD, page("Network overload by malicious traffic.")])
    assert [one.cause for one in found] == ["cyber_attack", "technical_failure"]


# In the journal -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    DrivenClock.create(tmp_path / "clock.json", NOW)
    content = yaml.safe_load((Path(__file__).parents[2] / "data" / "plan.example.yaml").read_text())
    content |= {"journal": "sqlite:///journal.db", "clock": "driven:clock.json"}
    content["providers"]["listmonk"]["shop"] = None
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def suspected(*signals: Signal) -> Pass:
    state = DetectorState(phase="suspected", bad_passes=1, first_bad_at=NOW)
    change = Transition("suspected", "clear", NOW, NOW, tuple(one.seen for one in signals))
    return Pass("listmonk", NOW, Memory(detector=state), signals, (change,), None)


def journal(plan: Path) -> Journal:
    return Journal.open(load_plan(plan).journal_url(), DrivenClock(plan.parent / "clock.json"))


def notes(plan: Path, kind: str) -> list[Any]:
    with journal(plan) as opened:
        return [one for one in opened.timeline("INC-0001") if one.kind == kind]


def cause(plan: Path) -> str:
    with journal(plan) as opened:
        return opened.incident("INC-0001").cause_class


def test_a_suggestion_is_never_the_cause_until_a_person_names_it(plan: Path) -> None:
    attacked = page("We saw unauthorized access.")
    found = record_changes.fn(str(plan), suspected(DEAD, attacked))
    [note] = notes(plan, "cause_suggested")
    assert note.text == "cyber_attack: the status page says 'unauthorized'"
    assert note.data["suggestions"][0]["evidence"] == ["the status page says 'unauthorized'"]
    assert cause(plan) == "unknown"

    with journal(plan) as opened:
        assert opened.name_cause("INC-0001", "human_error", "desk").cause_class == "human_error"
        opened.name_cause("INC-0001", "human_error", "desk")
    assert len(notes(plan, "cause")) == 1
    flooded = replace(found, signals=(DEAD, page("Flooding in the data center.")), transitions=())
    record_changes.fn(str(plan), flooded)
    assert [one.text.split(":")[0] for one in notes(plan, "cause_suggested")] == [
        "cyber_attack",
        "natural_disaster",
    ]
    assert cause(plan) == "human_error"


def test_who_responds_with_a_class_names_it_and_who_does_not_leaves_it(plan: Path) -> None:
    record_changes.fn(str(plan), suspected(DEAD))
    with journal(plan) as opened:
        for given, expected in (
            ("unknown", "unknown"),
            ("cyber_attack", "cyber_attack"),
            ("unknown", "cyber_attack"),
        ):
            joined = opened.declare(
                "listmonk", cause_class=given, summary="no mail", detected_at=NOW, declared_by="desk"
            )
            assert joined.cause_class == expected
    assert [one.data["by"] for one in notes(plan, "cause")] == ["desk"]


def test_every_decision_keeps_its_evidence_once_though_its_pass_is_concluded_again(plan: Path) -> None:
    for _ in range(2):
        record_changes.fn(str(plan), suspected(DEAD, page("…", "good")))
    [decision] = notes(plan, "decision")
    assert decision.data["decision"] == "suspected"
    assert [one["kind"] for one in decision.data["signals"]] == ["api", "status_page"]
    assert decision.data["signals"][0] == DEAD.to_dict()
    assert decision.data["detector"]["phase"] == "suspected"
    assert len(notes(plan, "cause_suggested")) == 1


def test_our_own_changes_of_the_last_day_speak_for_human_error(plan: Path) -> None:
    with journal(plan) as opened:
        earlier = opened.declare(
            "listmonk", cause_class="unknown", summary="before", detected_at=NOW, declared_by="desk"
        )
        action = opened.intend(
            earlier.id, "resume/7", kind="resume", target="7", payload={}, previous_state={}, undo={}
        )
        opened.complete(action.id)
        opened.transition(earlier.id, "canceled", "desk", "over")
    record_changes.fn(str(plan), suspected(DEAD))
    with journal(plan) as opened:
        [note] = [one for one in opened.timeline("INC-0002") if one.kind == "cause_suggested"]
    assert note.text == "human_error: we did resume at 2011-11-16 09:00 UTC (INC-0001)"


def test_a_plan_that_was_changed_since_all_was_well_speaks_for_human_error(plan: Path) -> None:
    calm = Pass("listmonk", NOW - timedelta(hours=1), Memory(), (), (), None)
    remember.fn(str(plan), calm)
    plan.write_text(plan.read_text().replace("confirm_after: 2", "confirm_after: 3"))
    record_changes.fn(str(plan), suspected(DEAD))
    [note] = notes(plan, "cause_suggested")
    assert note.text == "human_error: the plan was changed since the last pass in which all was well"


def test_an_outage_beside_that_of_another_provider_may_be_of_the_region(plan: Path) -> None:
    with journal(plan) as opened:
        opened.declare("brevo", cause_class="unknown", summary="down", detected_at=NOW, declared_by="monitor")
    record_changes.fn(str(plan), suspected(DEAD))
    with journal(plan) as opened:
        [note] = [one for one in opened.timeline("INC-0002") if one.kind == "cause_suggested"]
    assert note.text == "natural_disaster: at the same time down: brevo"
