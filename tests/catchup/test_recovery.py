"""Recovering against a real ESP that failed: the mailbox is the judge."""

from datetime import timedelta

import pytest
import yaml

from tasks.catchup.desk import Stopped
from tasks.incidents import Journal
from tasks.snapshots import Store, erase, generate_key, key_pem, read_ledger

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


def counts(outcomes):
    return {one.campaign_id: {name: n for name, n in one.counts.items() if n} for one in outcomes}


def die_in_the_middle(bench, after=50) -> int:
    """A newsletter runs, the ESP dies inside a batch and comes back; the response pauses what it resumed."""
    number = bench.campaign("News", status="running")
    bench.die(after)
    bench.esp.fault("stalled")
    bench.clock.advance(HOUR)
    bench.esp.restart()
    bench.clock.advance(30)
    return number


def test_whoever_opted_out_at_the_shop_is_never_mailed_though_the_esp_did_not_take_it(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.esp.fault("unsubscribe_failing")
    bench.clock.advance(2 * HOUR)
    bench.opt_out(3, 77, 160)
    bench.esp.clear("unsubscribe_failing")
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert counts([outcome]) == {number: {"accepted": 0, "delivered": 157, "suppressed": 3}} or (
        outcome.counts["suppressed"] == 3 and outcome.counts["accepted"] + outcome.counts["delivered"] == 157
    )
    provider = bench.provider()
    mailable = {one.subscriber_id for one in provider.memberships([1]) if one.mailable}
    assert not mailable & {3, 77, 160}


def test_while_the_esp_takes_no_opt_out_nothing_is_resumed(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.esp.fault("unsubscribe_failing")
    bench.clock.advance(2 * HOUR)
    bench.opt_out(3)
    with pytest.raises(Exception, match="consent"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    bench.esp.clear("unsubscribe_failing")
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))


def test_the_gate_is_red_while_the_shop_cannot_be_read(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    shop = bench.folder / "shop.sqlite"
    shop.rename(bench.folder / "away.sqlite")
    with pytest.raises(Stopped, match="gate is red"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    shop.unlink(missing_ok=True)
    (bench.folder / "away.sqlite").rename(shop)
    bench.recover(incident)
    assert len(bench.mailed()[number]) == 160


def test_a_campaign_whose_time_is_ahead_is_scheduled_again_exactly_as_it_was(bench) -> None:
    number = bench.campaign("Tomorrow", at=24 * HOUR)
    before = bench.provider().campaign(number)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    [outcome] = bench.recover(incident)
    assert bench.provider().campaign(number) == before
    assert (outcome.done, outcome.scheduled) == ("put_back", 160)
    bench.opt_out(9)
    bench.recover(bench.respond())
    bench.clock.advance(24 * HOUR)
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161)) - {9}


def test_a_win_back_goes_out_an_hour_later_by_the_providers_own_clock(bench) -> None:
    number = bench.campaign("Come back", kind="winback", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(3 * HOUR)
    [outcome] = bench.recover(incident)
    restored = bench.clock.now()
    assert (outcome.done, outcome.scheduled) == ("scheduled", 160)
    assert bench.mailed()[number] == []
    bench.clock.advance(2 * HOUR)
    bench.judge({})
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161))
    assert min(at for _, at in bench.mailed()[number]) >= restored + timedelta(minutes=50)


def test_only_as_many_as_fit_are_mailed_before_the_deadline(bench) -> None:
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=2 * HOUR + timedelta(minutes=6))
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert 20 <= len(bench.mailed()[number]) < 160
    assert outcome.counts["expired"] > 0


def test_the_ramp_grows_step_by_step(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.recover(incident)
    provider = bench.provider()
    sizes = [
        one.sent
        for one in sorted(provider.campaigns(), key=lambda one: one.step)
        if one.catch_up_of == number
    ]
    assert sizes == [20, 40, 60, 40]


def test_a_stalled_provider_stops_the_recovery_and_the_next_run_finishes_it(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("stalled")
    with pytest.raises(Stopped, match="sends nothing"):
        bench.recover(incident)
    bench.esp.clear("stalled")
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert len(bench.mailed()[number]) == 160


def test_a_provider_that_dies_again_during_the_catch_up_is_recovered_by_the_next_run(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("kill_mid_batch", after=70)
    with pytest.raises(Exception, match=r"reached|answer|broke"):
        bench.recover(incident)
    assert not bench.esp.alive
    bench.esp.restart()
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))


def test_a_second_outage_during_a_catch_up_unites_both_rounds(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    first = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("kill_mid_batch", after=70)
    with pytest.raises(Exception, match=r"reached|answer|broke"):
        bench.recover(first)
    bench.esp.restart()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        journal.transition(first, "resolved", "test", "closed by hand, too early")
    second = bench.respond()
    bench.recover(second)
    bench.judge(bench.ledgers(second))


def test_a_webhook_that_the_esp_has_no_log_of_makes_its_log_unfit_as_proof(bench) -> None:
    number = die_in_the_middle(bench)
    incident = bench.respond(number, impact_hours_ago=1)
    bench.webhook("delivered", number, 155)
    bench.esp.clear("stalled")
    [outcome] = bench.recover(incident)
    assert outcome.counts["not_attempted"] == 0
    assert outcome.counts["unknown"] > 90
    assert 155 in bench.ledgers(incident)[number]["delivered"]


def test_a_rerun_after_everything_is_done_changes_nothing(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.recover(incident)
    before = bench.sink.messages()
    campaigns = bench.provider().campaigns()
    bench.recover(incident)
    assert bench.sink.messages() == before
    assert bench.provider().campaigns() == campaigns


def test_what_is_not_agreed_to_is_held_and_nothing_is_sent(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    with pytest.raises(AssertionError):
        bench.recover(incident, agreed=frozenset())
    assert bench.mailed()[number] == []
    assert bench.provider().campaign(number).status == "draft"


class Killed(Exception):
    """Stands for a kill: a recovery that ends here writes down nothing more."""


def kill_at(monkeypatch, point) -> None:
    """Let the next recovery end at a crash point of its steps."""
    from tasks.catchup import stepping

    def crash(name: str) -> None:
        if name == point:
            monkeypatch.undo()
            raise Killed(name)

    monkeypatch.setattr(stepping, "crash_point", crash)


def test_a_yes_to_a_campaign_that_is_too_tight_does_not_bring_it_forward(bench) -> None:
    number = bench.campaign("Sale", kind="sale", at=6 * HOUR, deadline=6 * HOUR + timedelta(minutes=2))
    incident = bench.respond(number)
    bench.clock.advance(HOUR)
    [outcome] = bench.recover(incident, agreed=frozenset({"send_anyway"}))
    assert (outcome.done, bench.mailed()[number]) == ("scheduled", [])
    bench.clock.advance(6 * HOUR)
    times = [at for _, at in bench.mailed()[number]]
    assert times
    assert min(times) >= bench.planned[number]
    assert max(times) <= bench.deadline[number]
    assert outcome.scheduled == len(times)
    bench.judge({})


def test_a_yes_to_a_campaign_that_no_deadline_is_known_of_puts_it_back_at_its_time(bench) -> None:
    number = bench.campaign("Greeting", kind="greeting", at=6 * HOUR)
    before = bench.provider().campaign(number)
    incident = bench.respond(number)
    bench.clock.advance(HOUR)
    [outcome] = bench.recover(incident, agreed=frozenset({"send_anyway"}))
    assert (outcome.done, outcome.scheduled) == ("put_back", 160)
    assert bench.provider().campaign(number) == before


def test_a_step_whose_time_passed_before_its_campaign_was_made_gets_a_new_time(bench, monkeypatch) -> None:
    number = bench.campaign("Come back", kind="winback", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(3 * HOUR)
    kill_at(monkeypatch, "recover.step:intended")
    with pytest.raises(Killed):
        bench.recover(incident)
    bench.clock.advance(3 * HOUR)
    [outcome] = bench.recover(incident)
    assert (outcome.done, outcome.scheduled) == ("scheduled", 160)
    bench.clock.advance(3 * HOUR)
    bench.judge({})
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161))


def test_a_step_whose_time_passed_before_it_was_set_expires_nobody(bench) -> None:
    number = bench.campaign("Come back", kind="winback", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(3 * HOUR)
    with pytest.MonkeyPatch.context() as patched:
        from tasks.catchup.stepping import Stepping

        def killed(*_: object) -> None:
            raise Killed

        patched.setattr(Stepping, "_start", killed)
        with pytest.raises(Killed):
            bench.recover(incident)
    bench.clock.advance(3 * HOUR)
    [outcome] = bench.recover(incident)
    assert (outcome.done, outcome.counts["expired"], outcome.scheduled) == ("scheduled", 0, 160)
    bench.clock.advance(3 * HOUR)
    bench.judge({})
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161))


def test_whoever_a_worker_still_held_when_a_resumed_original_was_cancelled_is_not_mailed_again(
    bench, monkeypatch
) -> None:
    """The row of a message that a worker holds comes into the log a look after the campaign was cancelled."""
    from tasks.drills.esp.schema import MESSAGES, connect
    from tasks.providers import RunningStats

    number = bench.campaign("News", status="running")
    bench.clock.advance(30)
    incident = bench.respond(number)
    with pytest.raises(AssertionError):
        bench.recover(incident, agreed=frozenset())
    bench.provider().start(number)
    bench.clock.advance(10)
    provider, looks, in_hand = bench.provider(), [], []
    cancel, running_stats = provider.cancel, provider.running_stats

    def cancelled(campaign: int) -> None:
        cancel(campaign)
        if campaign == number:
            in_hand.append(max(one.subscriber_id for one in provider.send_log(number)) + 1)

    def working() -> list[RunningStats]:
        looks.extend(in_hand)
        if len(looks) == 1:
            return [*running_stats(), RunningStats(number, "cancelled", 160, 1, None)]
        if len(looks) == 2:
            engine = connect(f"sqlite:///{bench.folder / 'esp.sqlite'}")
            at = bench.clock.now().replace(tzinfo=None)
            with engine.begin() as connection:
                connection.execute(
                    MESSAGES.insert().values(
                        campaign_id=number, subscriber_id=in_hand[0], status="accepted", smtp_code=250,
                        queued_at=at, updated_at=at,
                    )
                )  # fmt: skip
            engine.dispose()
        return running_stats()

    monkeypatch.setattr(provider, "cancel", cancelled)
    monkeypatch.setattr(provider, "running_stats", working)
    monkeypatch.setattr(bench, "provider", lambda: provider)
    bench.recover(incident)
    monkeypatch.undo()
    assert in_hand[0] not in {who for who, _ in bench.mailed()[number]}
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161)) - set(in_hand)


def test_somebody_erased_at_the_esp_between_two_runs_blocks_nobody_and_is_accounted_for(
    bench, monkeypatch
) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    kill_at(monkeypatch, "recover.step:intended")
    with pytest.raises(Killed):
        bench.recover(incident)
    bench.erase(5, 100)
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert bench.ledgers(incident)[number]["dropped"] == {5, 100}
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161)) - {5, 100}


def test_an_erased_person_whom_an_import_brought_back_is_unsubscribed_and_not_mailed(
    bench, monkeypatch
) -> None:
    """Somebody erased from the store is the provider's subscriber 7 again; without the key nobody can tell who."""
    key = generate_key()
    store = Store.open(str(bench.folder / "store"), signing_key=key, create=True)
    person = read_ledger(store).person(bench.provider().addresses()[7])
    erase(store, person, mappings={}, clock=bench.clock, by="Ada", ground="objection", dry=False)
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    monkeypatch.delenv("MAILSTAY_SIGNING_KEY", raising=False)
    with pytest.raises(Stopped, match="The ledger of erased persons cannot be asked"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", key_pem(key).decode())
    bench.recover(incident)
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161)) - {7}
    assert 7 not in {one.subscriber_id for one in bench.provider().memberships([1]) if one.mailable}


def test_a_yes_goes_on_after_a_limit_of_the_ramp_from_a_canary(new_bench) -> None:
    bench = new_bench(hard_bounce=0.3)
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)

    def steps() -> list[int]:
        found = [one for one in bench.provider().campaigns() if one.catch_up_of == number]
        return [one.to_send for one in sorted(found, key=lambda one: one.step)]

    with pytest.raises(AssertionError, match=r"bounces among .* ramp\.max_bounce_rate"):
        bench.recover(incident)
    before = steps()
    bench.clock.advance(HOUR)
    with pytest.raises(AssertionError, match="bounces among"):
        bench.recover(incident)
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [asked] = journal.approvals(incident)  # bounces have come in since, but the question is the same
        assert asked.subject.startswith("recover: go on at other although")
        journal.answer_approval(asked.id, "approved", "Ada", False, "cli")
    with pytest.raises(AssertionError, match="bounces among"):
        bench.recover(incident)
    assert steps()[: len(before) + 1] == [*before, 20]
    bench.judge(bench.ledgers(incident))


def test_webhooks_that_cannot_be_read_hold_the_recovery_with_a_reason(bench) -> None:
    import sqlalchemy as sa

    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    engine = sa.create_engine(bench.shop_url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE webhook_receipts RENAME TO away"))
    with pytest.raises(Stopped, match="webhook receipts cannot be read"):
        bench.recover(incident)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO webhook_receipts"))
    engine.dispose()
    bench.recover(incident)
    assert len(bench.mailed()[number]) == 160


def test_people_without_an_outcome_are_not_a_steady_state(bench) -> None:
    from dataclasses import replace

    from tasks.catchup.desk import Desk
    from tasks.catchup.recovery import Recovery
    from tasks.plan import load_plan

    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    [outcome] = bench.recover(incident)
    with Journal.open(bench.journal_url, bench.clock) as journal:
        desk = Desk(
            load_plan(bench.plan_path), journal, bench.provider(), bench.clock, journal.incident(incident)
        )
        counts = outcome.counts | {"delivered": outcome.counts["delivered"] - 3}
        [problem] = Recovery(desk).unsteady([replace(outcome, counts=counts)])
    assert problem == f"campaign {number}: 3 people of its audience without an outcome"


def test_whoever_leaves_one_list_after_the_gate_stays_on_the_campaigns_others(bench, monkeypatch) -> None:
    from tasks.catchup.stepping import Stepping

    provider = bench.provider()
    other = provider.create_list("Offers").id
    provider.add_to_list(other, range(1, 161))
    number = bench.campaign("News", at=HOUR, lists=(1, other))
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    withhold = Stepping._withhold

    def leave_then_withhold(*args: object) -> None:
        provider.set_unsubscribed([7], [1])
        withhold(*args)

    monkeypatch.setattr(Stepping, "_withhold", leave_then_withhold)
    bench.recover(incident)
    on = {one.list_id: one.status for one in provider.memberships([1, other]) if one.subscriber_id == 7}
    assert on == {1: "unsubscribed", other: "confirmed"}
    assert 7 not in {who for who, _ in bench.mailed()[number]}


@pytest.fixture
def stock_listmonk(bench):
    """The bench's ESP as a stock listmonk is: `/api/extensions` answers 404. A real server that passes the rest on."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import httpx
    import yaml

    class Stock(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            if self.path.startswith("/api/extensions"):
                status, kind, body = 404, "application/json", b'{"message":"Not Found"}'
            else:
                size = int(self.headers.get("content-length") or 0)
                answer = httpx.request(
                    self.command, bench.esp.api_url + self.path, content=self.rfile.read(size) if size else None,
                    headers={key: self.headers[key] for key in ("authorization", "content-type") if self.headers[key]},
                    timeout=20,
                )  # fmt: skip
                status, body = answer.status_code, answer.content
                kind = answer.headers.get("content-type", "application/json")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = pass_on

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stock)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    plan = yaml.safe_load(bench.plan_path.read_text())
    plan["providers"]["esp"]["api_url"] = f"http://127.0.0.1:{server.server_port}"
    bench.plan_path.write_text(yaml.safe_dump(plan))
    yield bench
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_listmonk_without_a_send_log_still_mails_a_campaign_that_never_started(stock_listmonk) -> None:
    bench = stock_listmonk
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.opt_out(3)
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert counts([outcome]) == {number: {"accepted": 159, "suppressed": 1}}


def test_without_a_send_log_a_campaign_cut_short_leaves_everybody_unknown_and_listed(stock_listmonk) -> None:
    bench = stock_listmonk
    number = die_in_the_middle(bench)
    incident = bench.respond(number, impact_hours_ago=1)
    bench.esp.clear("stalled")
    bench.webhook("delivered", number, 4)
    mailed = len(bench.mailed()[number])
    [outcome] = bench.recover(incident)
    assert len(bench.mailed()[number]) == mailed
    assert counts([outcome]) == {number: {"delivered": 1, "unknown": 159}}


def test_a_store_that_cannot_be_read_holds_the_recovery_and_none_at_all_does_not(bench) -> None:
    plan = yaml.safe_load(bench.plan_path.read_text())
    plan["sources"]["esp"] = {"url": f"sqlite:///{bench.folder / 'esp.sqlite'}", "mapping": "listmonk"}
    plan["providers"]["esp"]["source"] = "esp"
    bench.plan_path.write_text(yaml.safe_dump(plan))
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    (bench.folder / "store").mkdir()
    (bench.folder / "store" / "store.json").write_text("{}")
    with pytest.raises(Stopped, match="The last good snapshot of esp cannot be read"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    (bench.folder / "store" / "store.json").unlink()
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
