"""The commands. Each parses its options, runs a flow or an exported function, and prints what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli import show
from flows.cli.actions import actions
from flows.cli.options import JsonOption, NameOption, PlanOption
from flows.cli.reports import report
from tasks.core import (
    MailstayError,
    UsageError,
    bytes_per_second,
    current_progress,
    mask_addresses,
    open_clock,
    report_progress_to,
)

EPILOGUE = (
    "Exit codes: 0 done; 1 something is wrong (the message says what); 2 wrong use or a broken plan; "
    "3 a snapshot is quarantined; 4 held: a decision or the provider is awaited."
)
QUARANTINED, HELD = 3, 4

app = typer.Typer(
    name="mailstay",
    help="Keeps e-mail marketing recoverable when its provider fails.",
    epilog=EPILOGUE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
snapshots = typer.Typer(help="Look at snapshots and prove them.", no_args_is_help=True)
incidents = typer.Typer(help="Look at incidents, declare one, answer an approval.", no_args_is_help=True)
plan = typer.Typer(help="Check the continuity plan; print its schema.", no_args_is_help=True)
checks = typer.Typer(help="Write contracts of tables; see what they found, since when.", no_args_is_help=True)
app.add_typer(snapshots, name="snapshots")
app.add_typer(checks, name="checks")
app.add_typer(incidents, name="incidents")
app.add_typer(actions, name="actions")
app.add_typer(report, name="report")
providers = typer.Typer(help="What each kind of e-mail provider can do, and how.", no_args_is_help=True)
app.add_typer(plan, name="plan")
app.add_typer(providers, name="providers")

Ground = Literal[
    "no_longer_needed", "consent_withdrawn", "objection", "unlawful", "legal_obligation", "child"
]
Cause = Literal[
    "technical_failure", "cyber_attack", "human_error", "natural_disaster", "provider_suspension", "unknown"
]


def main() -> None:
    """Run the command line; a mistake of the user's ends in one message and an exit code, never a traceback."""
    code = 0
    try:
        app(standalone_mode=True)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
        if code == 130:
            show.err.print("mailstay: stopped; what was committed stays, the next run goes on from there")
    except MailstayError as error:
        show.err.print(f"mailstay: {mask_addresses(str(error))}", markup=False, style="red")
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code
    )  # DuckDB's module complains on its way out (nanobind reference counts); everything is flushed


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of the flows.")] = False,
) -> None:
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.captureWarnings(not verbose)


@contextlib.contextmanager
def _flows(*, quiet: bool = False, home: Path | None = None, always: bool = False) -> Iterator[str]:
    """Make ready to run flows: progress for the person who waits, and a Prefect server."""
    from flows.cli.server import prefect_server

    report_progress_to(show.Bars(quiet=quiet))
    with prefect_server(home, always=always) as api:
        yield api


@app.command(epilog=EPILOGUE)
def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything is written; must be new, empty or a demo's.")
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Another seed gives another shop week and another outage.")
    ] = 7,
    scale: Annotated[
        Literal["demo", "small"], typer.Option(help="`small` is quicker and less real.")
    ] = "demo",
    shop_url: Annotated[
        str, typer.Option(help="SQLAlchemy URL of an empty shop database; SQLite if absent.")
    ] = "",
    journal_url: Annotated[
        str, typer.Option(help="SQLAlchemy URL of an empty journal; SQLite if absent.")
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Run the whole story on the sample shop: backup, outage, response, recovery, review.

    A simulated provider is started on the loopback address, killed in the middle of a newsletter, and brought back in
    a bad state. Nothing leaves this machine and nothing outside FOLDER is changed.
    """
    from tasks.drills import prepare_folder

    began = time.monotonic()
    prepare_folder(folder)
    with _flows(quiet=json_, home=folder / "prefect", always=True):
        from flows.demo import demo as run

        with show.story(quiet=json_):
            result = run(
                folder=str(folder), seed=seed, scale=scale, shop_url=shop_url, journal_url=journal_url
            )
    result = dataclasses.replace(result, seconds=round(time.monotonic() - began, 1))
    if json_:
        show.as_json(result)
    else:
        show.demo_end(result)


@app.command(epilog=EPILOGUE)
def backup(
    plan: PlanOption = "plan.yaml",
    source: Annotated[str, typer.Option(help="One source of the plan, or `all`.")] = "all",
    limit_rate: Annotated[
        str,
        typer.Option(help="The most to read from each source, such as 20MiB/s; the plan's limit if absent."),
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Take a verified snapshot of every source of the plan. Reads only; commits all tables of a source or none."""
    if limit_rate:
        bytes_per_second(limit_rate)  # a slip here is said before anything is started
    with _flows(quiet=json_):
        from flows.backup import backup as run

        result = run(plan=plan, source=source, limit_rate=limit_rate)
    show.as_json(result) if json_ else show.backups(result)


@app.command(epilog=EPILOGUE)
def validate(
    plan: PlanOption = "plan.yaml",
    source: Annotated[str, typer.Option(help="One source of the plan, or `all`.")] = "all",
    snapshot: Annotated[str, typer.Option(help="A snapshot's id, or `latest`.")] = "latest",
    json_: JsonOption = False,
) -> None:
    """Prove snapshots against their contracts: each becomes `valid` or `quarantined` (exit code 3)."""
    with _flows(quiet=json_):
        from flows.validate import validate as run

        result = run(plan=plan, snapshot=snapshot, source=source)
    show.as_json(result) if json_ else show.validations(result)
    if result.outcome == "quarantined":
        raise typer.Exit(QUARANTINED)


@app.command(epilog=EPILOGUE)
def restore(
    source: Annotated[str, typer.Argument(help="The source of the plan whose data is restored.")],
    into: Annotated[
        str,
        typer.Option(
            help="The database: sqlite:///path, postgresql://…, or env:NAME. If absent the source's own, "
            "in the modes for a database in use."
        ),
    ] = "",
    plan: PlanOption = "plan.yaml",
    snapshot: Annotated[
        str, typer.Option(help="A snapshot's id, or `latest` for the newest valid one.")
    ] = "latest",
    mode: Annotated[
        Literal["empty", "insert-missing", "overwrite"],
        typer.Option(
            help="`empty`: into a database that has none of the tables; `insert-missing`: rows whose key a database "
            "in use does not have; `overwrite`: also rows that differ."
        ),
    ] = "empty",
    apply: Annotated[
        bool, typer.Option("--apply", help="Really write into a database in use; without it nothing changes.")
    ] = False,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Restore only this table; can be given again.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            help="Only these rows: table:1,2,3, parts of a key joined by / (subscriber_lists:7/3); "
            "can be given again.",
        ),
    ] = None,
    subscriber: Annotated[
        list[int] | None,
        typer.Option("--subscriber", help="Only this person's rows, by id; can be given again."),
    ] = None,
    differences: Annotated[
        str,
        typer.Option(
            help="A new folder for every differing row, as Parquet (personal data); below the plan's state if absent."
        ),
    ] = "",
    unproven: Annotated[bool, typer.Option(help="Restore a snapshot that is not valid.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a snapshot into an empty database, or rows of it into one in use.

    Into an empty one it is kept only if every table reads back exactly as it was saved. In one in use it says row by
    row what differs, and changes nothing without `--apply`; rows that only the database has are left alone, and of two
    consents the stricter one stays. Campaigns come back paused or as drafts: a restore never sends.
    """
    with _flows(quiet=json_):
        from flows.restore import restore as run

        result = run(
            plan=plan,
            source=source,
            into=into,
            snapshot=snapshot,
            mode=mode,
            apply=apply,
            tables=table or [],
            keys=key or [],
            subscribers=subscriber or [],
            differences=differences,
            unproven=unproven,
        )
    if json_:
        show.as_json(result)
    else:
        show.restored(result) if mode == "empty" else show.merged(result)


@app.command(epilog=EPILOGUE)
def rehearse(
    plan: PlanOption = "plan.yaml",
    source: Annotated[str, typer.Option(help="One source of the plan, or `all`.")] = "all",
    into: Annotated[
        str, typer.Option(help="An empty database to use; a temporary SQLite file if absent.")
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Restore the newest valid snapshots for the test: compared, timed, held against the plan.

    Exit code 1 if a snapshot does not come back.
    """
    with _flows(quiet=json_):
        from flows.rehearse import rehearse as run

        result = run(plan=plan, source=source, into=into)
    show.as_json({"rehearsed": result}) if json_ else show.rehearsed(result)
    if any(one.problem for one in result):
        raise typer.Exit(1)


@app.command()
def prune(
    plan: PlanOption = "plan.yaml",
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Really remove; without it nothing changes.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Say which snapshots retention keeps and why; with `--confirm` remove the others.

    Their objects are marked, and deleted by a prune after the grace of the plan. Held snapshots and the newest valid
    one of every source always stay.
    """
    with _flows(quiet=json_):
        from flows.prune import prune as run

        result = run(plan=plan, confirm=confirm)
    show.as_json(result) if json_ else show.pruned(result)


@app.command(epilog=EPILOGUE)
def export(
    snapshot: Annotated[
        str, typer.Argument(help="A snapshot's id, or the name of a source for its newest valid snapshot.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to write: new or empty; nothing is overwritten.")],
    plan: PlanOption = "plan.yaml",
    form: Annotated[
        Literal["csv", "delta"],
        typer.Option("--format", help="`csv`: one file a table; `delta`: one Delta Lake table each."),
    ] = "csv",
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Export only this table; can be given again.")
    ] = None,
    unproven: Annotated[bool, typer.Option(help="Export a snapshot that is not valid.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a snapshot's tables as CSV or Delta Lake for BI tools; all of it appears at once, or nothing."""
    from tasks.plan import load_plan
    from tasks.snapshots import export as run
    from tasks.snapshots.steps import open_plan_store

    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    chosen = snapshot if "/" in snapshot else store.newest_valid(snapshot).snapshot_id
    source = loaded.plan.sources.get(chosen.partition("/")[0])
    report_progress_to(show.Bars(quiet=json_))
    result = run(
        store,
        chosen,
        to,
        form=form,
        mapping=source.mapping if source else None,
        tables=table or [],
        unproven=unproven,
        progress=current_progress(),
    )
    show.as_json(result) if json_ else show.exported(result)


AddressArgument = Annotated[
    str, typer.Argument(help="The person's address, or `-` to read it from standard input.")
]


def _person(plan: str, address: str) -> str:
    from tasks.snapshots.steps import person_hash

    if address == "-":
        address = typer.prompt("Address", err=True) if sys.stdin.isatty() else sys.stdin.readline()
    return person_hash(plan, address)


@app.command(epilog=EPILOGUE)
def erase(
    address: AddressArgument,
    name: NameOption,
    ground: Annotated[Ground, typer.Option(help="Why, by GDPR Article 17(1), a to f.")],
    plan: PlanOption = "plan.yaml",
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="Replace every object that holds the person, and delete the old."),
    ] = False,
    override_holds: Annotated[
        bool, typer.Option("--override-holds", help="With --rewrite: replace held snapshots too.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Really do it; without it nothing changes.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Erase a person: no restore brings them back, and their address counts as opted out.

    Delete them in the sources first. The address is hashed with a key before anything is written or logged. Without
    `--rewrite` the objects hold the person until retention removes them; the command says until when.
    """
    person = _person(plan, address)
    with _flows(quiet=json_):
        from flows.erase import erase as run

        result = run(
            plan=plan,
            person=person,
            name=name,
            ground=ground,
            rewrite=rewrite,
            override_holds=override_holds,
            confirm=confirm,
        )
    show.as_json(result) if json_ else show.erased(result, rewrite=rewrite)
    if result.held and not result.dry:
        raise typer.Exit(HELD)


@app.command()
def readmit(
    address: AddressArgument, name: NameOption, plan: PlanOption = "plan.yaml", json_: JsonOption = False
) -> None:
    """Record that an erased person came back of their own will: later snapshots keep them, and they may be mailed."""
    from tasks.snapshots.steps import readmit_person

    entry = readmit_person(plan, _person(plan, address), name)
    if json_:
        show.as_json(entry)
    else:
        show.out.print(f"Readmitted: entry {entry.number} of the ledger")


def _open_store(plan: str) -> tuple[Any, Any]:
    from tasks.plan import load_plan
    from tasks.snapshots import Store

    loaded = load_plan(plan)
    return loaded, Store.open(loaded.store_url(), public_key=loaded.plan.store.public_key)


@snapshots.command("list")
def snapshots_list(
    plan: PlanOption = "plan.yaml",
    source: Annotated[str, typer.Option(help="One source of the plan; all if absent.")] = "",
    json_: JsonOption = False,
) -> None:
    """List the snapshots of the store: when, what, whether proven and what holds them."""
    _, store = _open_store(plan)
    found = store.list(source or None)
    rotten = {name: str(error) for name, error in store.unreadable(source or None).items()}
    if json_:
        show.as_json({"snapshots": found, "unreadable": rotten})
    else:
        show.snapshot_list(found, rotten)


@snapshots.command("give-up", epilog=EPILOGUE)
def snapshots_give_up(
    snapshot: Annotated[str, typer.Argument(help="The id of a snapshot whose manifest cannot be read.")],
    name: NameOption,
    confirm: Annotated[bool, typer.Option("--confirm", help="Really give it up.")] = False,
    plan: PlanOption = "plan.yaml",
) -> None:
    """Give up a snapshot whose manifest is damaged and in no copy of the store: a signed tombstone takes its place.

    Retention and erasure wait until then, for its objects may still be needed. Without --confirm nothing is changed.
    """
    from tasks.plan import load_plan
    from tasks.snapshots import give_up
    from tasks.snapshots.steps import open_plan_store

    loaded = load_plan(plan)
    stone = give_up(
        open_plan_store(loaded), snapshot, clock=open_clock(loaded.clock_spec()), by=name, dry=not confirm
    )
    if confirm:
        show.out.print(f"{snapshot} is given up ({stone.unreadable})")
    else:
        show.out.print(
            f"{snapshot} would be given up ({stone.unreadable}). Nothing was changed: add --confirm"
        )


@snapshots.command("show")
def snapshots_show(
    snapshot: Annotated[str, typer.Argument(help="A snapshot's id, as `snapshots list` prints it.")],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Show one snapshot: its consistency point, what each table holds, what it cost and why, and when it was read."""
    from tasks.snapshots import costs, last_read

    _, store = _open_store(plan)
    manifest, cost = store.manifest(snapshot), costs(store, snapshot)
    read, release = last_read(store, manifest.objects), store.info(snapshot).release
    if json_:
        show.as_json({**show.plain(manifest), "costs": cost, "last_read": read, "release": release})
    else:
        show.snapshot(manifest, cost, read)
        if release is not None:
            show.released(snapshot, release)


@snapshots.command("diff")
def snapshots_diff(
    older: Annotated[str, typer.Argument(help="A snapshot's id, such as shop/00000001.")],
    newer: Annotated[str, typer.Argument(help="A later snapshot of the same source.")],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Say what differs between two snapshots: rows added, removed and changed by table, and in which columns."""
    from tasks.snapshots import diff

    _, store = _open_store(plan)
    found = diff(store, older, newer)
    show.as_json({"tables": found}) if json_ else show.differences(found)


@snapshots.command("query")
def snapshots_query(
    sql: Annotated[
        str,
        typer.Argument(help="DuckDB SQL; tables are named source.table: SELECT count(*) FROM shop.orders"),
    ],
    snapshot: Annotated[
        list[str] | None,
        typer.Option(
            "--snapshot",
            help="A snapshot's id, or alias=id to give it another name; can be given again. "
            "The newest valid one of every source if absent.",
        ),
    ] = None,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Ask snapshots with SQL; every object is hashed before it is read. Reads only, and no file but the snapshots'."""
    from tasks.snapshots import query

    loaded, store = _open_store(plan)
    named: dict[str, str] = {}
    for one in snapshot or []:
        alias, _, name = one.rpartition("=")
        named[alias or name.partition("/")[0]] = name
    if not named:
        newest = {source: store.latest(source, state="valid") for source in loaded.plan.sources}
        named = {source: info.snapshot_id for source, info in newest.items() if info is not None}
    columns, rows = query(store, named, sql)
    if json_:
        show.as_json({"snapshots": named, "columns": columns, "rows": rows})
    else:
        show.table(columns, rows)


def _prove_by_restore(loaded: Any, store: Any, snapshot: str, *, json_: bool) -> None:
    from tasks.snapshots import prove_by_restore, scratch, split_name

    source = loaded.plan.sources.get(split_name(snapshot)[0])
    report_progress_to(show.Bars(quiet=json_))
    with scratch() as target:
        restored = prove_by_restore(
            store,
            snapshot,
            target,
            mapping=source.mapping if source else None,
            clock=open_clock(loaded.clock_spec()),
            by="snapshots verify",
            progress=current_progress(),
        )
    show.as_json(restored) if json_ else show.restored(restored)


@snapshots.command("verify", epilog=EPILOGUE)
def snapshots_verify(
    snapshot: Annotated[str, typer.Argument(help="A snapshot's id; all of the store if absent.")] = "",
    plan: PlanOption = "plan.yaml",
    level: Annotated[
        Literal["structure", "content", "restore"],
        typer.Option(
            help="`structure`: manifests, chain, objects and sizes; `content`: every byte hashed too; `restore`: the "
            "snapshot that is named brought back into a scratch database and compared."
        ),
    ] = "content",
    part: Annotated[
        str,
        typer.Option(
            help="Read only this part of the objects: 3/7 is the third of seven, next/7 the one that waited longest."
        ),
    ] = "",
    older_than: Annotated[
        int | None,
        typer.Option(
            min=1, help="Days after which an object not read in full is named; the plan's if absent."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Verify that snapshots are whole; every damage is named with its object, table and snapshot (exit code 1).

    With the signing key in the environment the readings are kept per object, and a damaged object quarantines every
    snapshot that holds it. Without it nothing is written.
    """
    from tasks.plan import load_plan
    from tasks.snapshots import choose_part, overdue, verify, verify_and_record
    from tasks.snapshots.steps import open_plan_store

    if part and (snapshot or level != "content"):
        raise UsageError("A part is of the whole store, and read to the last byte", fix="give --part alone")
    if level == "restore" and not snapshot:
        raise UsageError(
            "Only a snapshot that is named can be brought back",
            fix="name one; `mailstay rehearse` takes the newest valid one of every source",
        )
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    if level == "restore":
        _prove_by_restore(loaded, store, snapshot, json_=json_)
        return
    now, within = (
        open_clock(loaded.clock_spec()).now(),
        timedelta(days=older_than or loaded.plan.store.reread_days),
    )
    anchors = loaded.plan.store.anchors
    report_progress_to(show.Bars(quiet=json_))
    progress = current_progress()
    if level == "content" and (part or store.can_sign):
        report = verify_and_record(
            store,
            snapshot or None,
            part=choose_part(store, part) if part else None,
            at=now,
            by="snapshots verify",
            within=within,
            anchors=anchors,
            progress=progress,
        )
    else:
        report = verify(store, snapshot or None, level=level, anchors=anchors, progress=progress)
    late = overdue(store, within=within, now=now)
    if json_:
        show.as_json({**show.plain(report), "overdue": late})
    else:
        show.verification(report, late, within.days)
    if not report.ok:
        raise typer.Exit(1)


@checks.command("propose")
def checks_propose(
    source: Annotated[str, typer.Argument(help="A source of the plan.")],
    into: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write into; that of the source's `contracts` in the plan if absent."
        ),
    ] = None,
    snapshot: Annotated[str, typer.Option(help="A snapshot's id, or `latest`.")] = "latest",
    force: Annotated[bool, typer.Option("--force", help="Replace contracts that are there.")] = False,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Look at a snapshot and write a first contract of every table, as commented YAML for you to edit.

    What is guessed (personal data, uniqueness, allowed values) says so. Replaces nothing without --force.
    """
    from tasks.checks import contracts_folder, newest_snapshot, propose_contracts, write_contracts

    loaded, store = _open_store(plan)
    beside = contracts_folder(loaded, source)
    folder = into or beside
    chosen = newest_snapshot(store, source) if snapshot == "latest" else snapshot
    result = write_contracts(
        store,
        chosen,
        propose_contracts(store, chosen),
        folder,
        force=force,
        clock=open_clock(loaded.clock_spec()),
    )
    show.as_json(result) if json_ else show.proposed(
        result, named=loaded.resolve(loaded.plan.sources[source].contracts or "") == folder.resolve()
    )


@checks.command("lint")
def checks_lint(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of contracts; those of the plan's sources if absent.")
    ] = None,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Say what is wrong with contracts: file, line, key and mend (exit code 1 if anything)."""
    from tasks.checks import lint_contracts, linted_folders
    from tasks.plan import load_plan

    problems = [
        problem for one in folders or linted_folders(load_plan(plan)) for problem in lint_contracts(one)
    ]
    show.as_json({"problems": problems}) if json_ else show.contract_problems(problems)
    if problems:
        raise typer.Exit(1)


@checks.command("list")
def checks_list(
    source: Annotated[str, typer.Argument(help="A source of the plan.")],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """List every rule that a source's snapshots are held against, with its severity."""
    from tasks.checks import contracts_of, rules_in_words
    from tasks.plan import load_plan

    loaded = load_plan(plan)
    rules = rules_in_words(contracts_of(loaded, source), open_clock(loaded.clock_spec()).now())
    show.as_json({"rules": rules}) if json_ else show.rules(rules)


@checks.command("schema")
def checks_schema() -> None:
    """Print the JSON Schema of a contract, for editors."""
    from tasks.checks import contract_schema

    typer.echo(contract_schema())


@checks.command("show", epilog=EPILOGUE)
def checks_show(
    snapshot: Annotated[
        str, typer.Argument(help="A snapshot's id; the newest checked one of every source if absent.")
    ] = "",
    plan: PlanOption = "plan.yaml",
    rule: Annotated[str, typer.Option(help="Only this rule, by its name.")] = "",
    rows: Annotated[
        int, typer.Option(min=0, help="With --rule: also show so many of the real rows (personal data).")
    ] = 0,
    name: Annotated[str, typer.Option("--name", help="With --rows: your name, for the record.")] = "",
    json_: JsonOption = False,
) -> None:
    """Show what the checks found in a snapshot, with the keys of some rows.

    With `--rows` the rows themselves are read from the snapshot and printed, for somebody who may see them: they are
    kept nowhere, and the journal keeps who asked for which.
    """
    from tasks.checks import gather
    from tasks.checks.steps import checks_folder, rows_behind

    loaded, store = _open_store(plan)
    folder = checks_folder(loaded)
    names = (
        [snapshot]
        if snapshot
        else [one for source in store.sources() for one in _newest_checked(store, source)]
    )
    if rows and not (rule and len(names) == 1):
        raise UsageError(
            "Rows are those of one rule in one snapshot", fix="name the snapshot, and the rule with --rule"
        )
    told = [show.told_checks(gather(store, one, folder, loaded.plan.name), folder, rule) for one in names]
    if rows:
        columns, found = rows_behind(loaded, store, names[0], rule, rows, name)
        if json_:
            show.as_json({**told[0], "columns": columns, "rows": found})
        else:
            show.err.print(
                f"Personal data of {loaded.plan.name}; the journal keeps that {name} asked.", markup=False
            )
            show.table(columns, found)
        return
    show.as_json({"snapshots": told}) if json_ else show.checks_of(told)


@checks.command("release")
def checks_release(
    snapshot: Annotated[str, typer.Argument(help="The id of a snapshot that checks have quarantined.")],
    by: Annotated[str, typer.Option("--by", help="Your name, for the record.")],
    because: Annotated[str, typer.Option("--because", help="Why the data is right as it is.")],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Say that what the checks found is how the data is: the snapshot becomes valid, signed with your name and reason.

    Look at the rows first (`checks show`). Needs the store's signing key. Damage cannot be released. A later `validate`
    quarantines the snapshot again only if it finds what you did not look at.
    """
    from tasks.checks.steps import release_quarantine
    from tasks.plan import load_plan

    found = release_quarantine(load_plan(plan), snapshot, by, because)
    show.as_json({"snapshot": snapshot, "release": found}) if json_ else show.released(snapshot, found)


@checks.command("history")
def checks_history(
    plan: PlanOption = "plan.yaml",
    rule: Annotated[str, typer.Option(help="One rule, snapshot by snapshot.")] = "",
    source: Annotated[str, typer.Option(help="One source of the plan; all if absent.")] = "",
    json_: JsonOption = False,
) -> None:
    """Say since when each rule fails that fails in the newest snapshot; with `--rule` how one rule went."""
    from tasks.checks import read_history, standing
    from tasks.checks.steps import checks_folder
    from tasks.plan import load_plan

    folder = checks_folder(load_plan(plan)) / "history"
    if rule:
        found = read_history(folder, source=source or None, rule=rule).to_pylist()
        if not found:
            raise UsageError(f"No check of a rule {rule!r} is known", where=str(folder))
        show.as_json({"checks": found}) if json_ else show.rule_history(found)
    else:
        stands = standing(folder, source or None)
        show.as_json({"standing": stands}) if json_ else show.standing(stands)


def _newest_checked(store: Any, source: str) -> list[str]:
    checked = (one for one in reversed(store.snapshot_ids(source)) if store.state(one) != "committed")
    return [one for one in [next(checked, "")] if one]


def _open_journal(plan: str) -> tuple[Any, Any]:
    from tasks.incidents import open_journal
    from tasks.plan import load_plan

    loaded = load_plan(plan)
    return loaded, open_journal(loaded)


@incidents.command("list")
def incidents_list(plan: PlanOption = "plan.yaml", json_: JsonOption = False) -> None:
    """List all incidents, the newest first."""
    _, journal = _open_journal(plan)
    found = list(reversed(journal.incidents()))
    show.as_json({"incidents": found}) if json_ else show.incident_list(found)


@incidents.command("show")
def incidents_show(
    incident: Annotated[str, typer.Argument(help="An incident's id, as `incidents list` prints it.")],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Show one incident: state, timestamps, actions, approvals, timeline and metrics."""
    _, journal = _open_journal(plan)
    content = {
        "incident": journal.incident(incident),
        "timestamps": journal.timestamps(incident),
        "metrics": journal.metrics(incident),
        "approvals": journal.approvals(incident),
        "actions": journal.actions(incident),
        "communications": journal.communications(incident),
        "timeline": journal.timeline(incident),
    }
    show.as_json(content) if json_ else show.incident(content)


@incidents.command("declare")
def incidents_declare(
    provider: Annotated[str, typer.Argument(help="A provider of the plan.")],
    name: NameOption,
    seen: Annotated[str, typer.Option(help="What was seen, in one sentence.")],
    cause: Annotated[Cause, typer.Option(help="The class of the cause, as far as known.")] = "unknown",
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Declare an incident, or join the open one of that provider. Changes nothing at the provider."""
    loaded, journal = _open_journal(plan)
    loaded.provider(provider)
    declared = journal.declare(
        provider,
        cause_class=cause,
        summary=seen,
        detected_at=journal.clock.now(),
        declared_by=name,
        state="investigating",
    )
    show.as_json(declared) if json_ else show.out.print(f"{declared.id} {declared.state} ({provider})")


@incidents.command("cause")
def incidents_cause(
    incident: Annotated[str, typer.Argument(help="An incident's id.")],
    cause: Annotated[Cause, typer.Argument(help="The class of the cause, as you have found it.")],
    name: NameOption,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Name the class of the cause; what `monitor` suggests, with its evidence, stands in `incidents show`.

    The last one named counts. A suggestion alone never does.
    """
    _, journal = _open_journal(plan)
    found = journal.name_cause(incident, cause, name)
    show.as_json(found) if json_ else show.out.print(f"{found.id} {found.cause_class}")


@incidents.command("approve")
def incidents_approve(
    incident: Annotated[str, typer.Argument(help="An incident's id.")],
    name: NameOption,
    approval: Annotated[int, typer.Option(help="The number of the approval; needed where several wait.")] = 0,
    reject: Annotated[bool, typer.Option("--reject", help="Refuse instead.")] = False,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Answer the approval that a run of `respond` or `recover` waits for; the run goes on within seconds.

    `incidents show` lists what each would allow. The name is what you type: the record says that no login vouches
    for it.
    """
    _, journal = _open_journal(plan)
    waiting = [one for one in journal.approvals(incident) if one.status == "awaiting"]
    if not waiting:
        raise UsageError(
            "No approval waits for an answer", where=incident, fix="run `mailstay incidents show` on it"
        )
    chosen = [one for one in waiting if approval in (0, one.id)]
    if len(chosen) != 1:
        raise UsageError(
            "Several approvals wait" if chosen else f"Approval {approval} does not wait for an answer",
            where=f"{incident}: " + "; ".join(f"{one.id} ({one.subject})" for one in waiting),
            fix="name one of them with --approval",
        )
    decision: Literal["approved", "rejected"] = "rejected" if reject else "approved"
    answered = journal.answer_approval(chosen[0].id, decision, name, False, "cli")
    if json_:
        show.as_json({"answered": [answered]})
        return
    show.out.print(f"{answered.subject}: {answered.status} by {name}", markup=False)


@app.command(epilog=EPILOGUE)
def respond(
    provider: Annotated[str, typer.Argument(help="A provider of the plan.")],
    name: NameOption,
    plan: PlanOption = "plan.yaml",
    seen: Annotated[str, typer.Option(help="What was seen, in one sentence.")] = "",
    cause: Annotated[Cause, typer.Option(help="The class of the cause, as far as known.")] = "unknown",
    impact_started_at: Annotated[
        str, typer.Option(help="When impact started (ISO 8601), only if known.")
    ] = "",
    mode: Annotated[
        Literal["plan", "act"], typer.Option(help="`plan` changes nothing at the provider; `act` pauses.")
    ] = "plan",
    approval: Annotated[
        Literal["ask", "policy"],
        typer.Option(help="`policy` approves reversible actions that the plan lists."),
    ] = "ask",
    wait_minutes: Annotated[
        int, typer.Option(min=0, max=1440, help="How long to wait for an answer before holding.")
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Respond to an outage: declare, hold the last good snapshot, plan, and with `--mode act` pause campaigns."""
    from tasks.plan import load_plan

    currency = load_plan(plan).plan.report.currency
    with _flows(quiet=json_):
        from flows.respond import respond as run

        result = run(
            plan=plan,
            provider=provider,
            cause_class=cause,
            seen=seen,
            impact_started_at=impact_started_at,
            mode=mode,
            approval=approval,
            name=name,
            wait_minutes=wait_minutes,
        )
    show.as_json(result) if json_ else show.response(result, currency)
    if result.held:
        raise typer.Exit(HELD)


@app.command(epilog=EPILOGUE)
def abort(
    name: NameOption,
    incident: Annotated[str, typer.Argument(help="An incident's id; the open one if absent.")] = "",
    plan: PlanOption = "plan.yaml",
    mode: Annotated[
        Literal["plan", "act"],
        typer.Option(help="`plan` changes nothing at the provider; `act` puts back what was stopped."),
    ] = "plan",
    approval: Annotated[
        Literal["ask", "policy"],
        typer.Option(help="`policy` approves what restores exactly what was and the plan lists."),
    ] = "ask",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "false alarm",
    wait_minutes: Annotated[
        int, typer.Option(min=0, max=1440, help="How long to wait for an answer before holding.")
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Abort a response to a false alarm: put back what it stopped as it was, compare, close the incident, tell people.

    With `--mode act` campaigns can send again, at the times they had. What cannot be brought back as it was, or whose
    time is past, is held for a decision, and never sent late or twice.
    """
    with _flows(quiet=json_):
        from flows.abort import abort as run

        result = run(
            plan=plan,
            incident=incident,
            mode=mode,
            approval=approval,
            reason=reason,
            name=name,
            wait_minutes=wait_minutes,
        )
    show.as_json(result) if json_ else show.aborted(result)
    if result.state == "held":
        raise typer.Exit(HELD)


@app.command(epilog=EPILOGUE)
def recover(
    name: NameOption,
    plan: PlanOption = "plan.yaml",
    incident: Annotated[str, typer.Option(help="An incident's id; the open one if absent.")] = "",
    approval: Annotated[
        Literal["ask", "policy"], typer.Option(help="`policy` approves what the plan lists.")
    ] = "ask",
    json_: JsonOption = False,
) -> None:
    """Recover: measure restoration, apply opt-outs, decide per campaign, and mail exactly who is still due."""
    with _flows(quiet=json_):
        from flows.recover import recover as run

        result = run(plan=plan, incident=incident, approval=approval, name=name)
    show.as_json(result) if json_ else show.recovery(result)
    if result.state == "held":
        raise typer.Exit(HELD)


@app.command(epilog=EPILOGUE)
def apologise(
    incident: Annotated[str, typer.Argument(help="An incident's id, as `incidents list` prints it.")],
    name: NameOption,
    to: Annotated[
        Literal["none", "fix_in_place", "affected_only", "all"],
        typer.Option(help="Who is told; `affected_only` is the ledger's set."),
    ],
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Decide on an apology: draft it, ask for a yes to exactly these people and words, record it. Sends nothing."""
    with _flows(quiet=json_):
        from flows.apologise import apologise as run

        result = run(incident=incident, plan=plan, to=to, name=name)
    show.as_json(result) if json_ else show.apology(result)
    if result.state == "held":
        raise typer.Exit(HELD)


@app.command(epilog=EPILOGUE)
def review(
    plan: PlanOption = "plan.yaml",
    incident: Annotated[str, typer.Option(help="An incident's id; the latest resolved one if absent.")] = "",
    json_: JsonOption = False,
) -> None:
    """Review an incident: what it cost, what the plan missed, what changes.

    Writes a report and its action items, and tells the stakeholders who get executive reports; changes nothing at the
    provider.
    """
    with _flows(quiet=json_):
        from flows.review import review as run

        result = run(plan=plan, incident=incident)
    show.as_json(result) if json_ else show.reviewed(result)


@app.command(epilog=EPILOGUE)
def settle(plan: PlanOption = "plan.yaml", json_: JsonOption = False) -> None:
    """Re-issue provisional reports whose late data are in, and remind people of open action items."""
    with _flows(quiet=json_):
        from flows.settle import settle as run

        result = run(plan=plan)
    show.as_json(result) if json_ else show.settled(result)


@app.command(epilog=EPILOGUE)
def monitor(
    plan: PlanOption = "plan.yaml",
    provider: Annotated[str, typer.Option(help="A provider of the plan, or `all`.")] = "all",
    json_: JsonOption = False,
) -> None:
    """Look once at the status page, the API and the counts; the state between passes is in the journal."""
    with _flows(quiet=json_):
        from flows.monitor import monitor as run

        result = run(plan=plan, provider=provider)
    show.as_json(result) if json_ else show.monitored(result)


@plan.command("check")
def plan_check(plan: PlanOption = "plan.yaml", json_: JsonOption = False) -> None:
    """Say what the plan lacks against the checklist of a disaster recovery plan (exit code 1 if anything)."""
    from tasks.plan import lint, load_plan

    findings = lint(load_plan(plan).plan)
    show.as_json({"findings": findings}) if json_ else show.plan_findings(findings)
    if findings:
        raise typer.Exit(1)


@plan.command("schema")
def plan_schema_command() -> None:
    """Print the JSON Schema of the plan, for editors."""
    from tasks.plan import plan_schema

    typer.echo(plan_schema())


@providers.command("list")
def providers_list(json_: JsonOption = False) -> None:
    """List the kinds of provider that Mailstay can talk to, and how well each can be stopped."""
    from tasks.providers import PROVIDERS

    found = [PROVIDERS[kind] for kind in sorted(PROVIDERS)]
    show.as_json({"providers": found}) if json_ else show.provider_list(found)


@providers.command("show")
def providers_show(
    name: Annotated[str, typer.Argument(help="A kind of provider, as `providers list` prints it.")],
    json_: JsonOption = False,
) -> None:
    """Show what can be done to a campaign in each state: how it is undone, until when, at what rate, and the traps."""
    from tasks.providers import capabilities_of

    found = capabilities_of(name)
    show.as_json(found) if json_ else show.provider(found)
