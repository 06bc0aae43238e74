"""One change at the provider, written to the journal before it, after it, or as unknown, and read back.

Whoever is killed between any two lines leaves a journal from which the next run goes on: it never repeats a change
without having looked whether it happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.catchup.errors import CatchupError
from tasks.core import crash_point
from tasks.incidents import Action, Journal
from tasks.providers import ProviderRefused, ProviderUnavailable

Evidence = dict[str, Any]


class OutcomeUnknown(CatchupError):
    """A change was asked for and nothing tells whether it happened; the next run reads it back."""


@dataclass(frozen=True)
class Change:
    """A change to make once.

    Attributes:
        key: names it within the incident, for ever.
        kind: what is done, as the plan's `policy_actions` name it where they do.
        target: what it is done to, such as `campaign/12`.
        call: asks the provider; sent at most once before it is read back.
        read_back: returns what shows that the change is in place, None if it is not.
        payload: what is asked for; the same key must always carry the same.
        previous_state: how the target was before.
        undo: how it is taken back; empty if it cannot be.
        flow: the runbook that makes it: begins the names of its crash points.
        confirm: asked in place of `read_back` once the provider has said yes, where looks are scarce; whoever gives
            one looks at the whole afterwards.
    """

    key: str
    kind: str
    target: str
    call: Callable[[], object]
    read_back: Callable[[], Evidence | None]
    payload: Mapping[str, Any]
    previous_state: Mapping[str, Any]
    undo: Mapping[str, Any]
    flow: str = "recover"
    confirm: Callable[[], Evidence | None] | None = None


def make(journal: Journal, incident_id: str, change: Change, *, token: int | None) -> Evidence:
    """Make `change` unless it is made already, and return what shows that it is.

    Raises:
        OutcomeUnknown: it was asked for, and neither the answer nor a look tells whether it happened.
        ProviderRefused: the provider said no (recorded as failed).
        ProviderUnavailable: nothing was changed (recorded as failed).
        StaleToken: another run has taken over; nothing was done.
    """
    action = journal.intend(
        incident_id,
        change.key,
        kind=change.kind,
        target=change.target,
        payload=change.payload,
        previous_state=change.previous_state,
        undo=change.undo,
        token=token,
    )
    crash_point(f"{change.flow}.{change.kind}:intended")
    if action.status == "done":
        return dict(action.result or action.evidence)
    again = not action.is_new
    if again:
        found = _settle(journal, action, change, token)
        if found is not None:
            return found
        # From here on the call may be out: a run that is killed now must not leave the journal saying `not_done`.
        journal.unknown(action.id, "asked again", token=token)
    outcome = _Outcome(journal, action, again, token)
    try:
        change.call()
    except ProviderRefused as error:
        # It may be refused because it is so already.
        found = change.read_back()
        if found is None:
            outcome.nothing_happened(error.what)
            raise
        outcome.done(found)
        return found
    except ProviderUnavailable as error:
        if not error.outcome_unknown:
            outcome.nothing_happened(error.what)
            raise
        journal.unknown(action.id, error.what, token=token)
        return _look_once(journal, action, change, token, error)
    crash_point(f"{change.flow}.{change.kind}:called")
    found = (change.confirm or change.read_back)()
    if found is None:
        journal.unknown(action.id, "the provider said yes, but it does not read back", token=token)
        raise OutcomeUnknown(
            f"{change.kind} of {change.target} was accepted but does not show",
            where=incident_id,
            fix=f"run {change.flow} again: it reads back before it does anything",
        )
    outcome.done(found)
    crash_point(f"{change.flow}.{change.kind}:done")
    return found


@dataclass(frozen=True)
class _Outcome:
    """Writes down how a call ended: straight for a first call, as the settling of an unknown for a repeated one."""

    journal: Journal
    action: Action
    again: bool
    token: int | None

    def done(self, found: Evidence) -> None:
        if self.again:
            self.journal.resolve_unknown(self.action.id, "done", found, token=self.token)
        else:
            self.journal.complete(self.action.id, found, token=self.token)

    def nothing_happened(self, error: str) -> None:
        if self.again:
            self.journal.resolve_unknown(self.action.id, "not_done", {"error": error}, token=self.token)
        else:
            self.journal.fail(self.action.id, error, token=self.token)


def _settle(journal: Journal, action: Action, change: Change, token: int | None) -> Evidence | None:
    """Look whether an earlier run's change happened; return the evidence if it did."""
    found = change.read_back()
    if action.status == "intended":
        journal.unknown(action.id, "a run ended between intent and outcome", token=token)
    if action.status in ("intended", "unknown"):
        if found is not None:
            journal.resolve_unknown(action.id, "done", found, token=token)
        else:
            journal.resolve_unknown(action.id, "not_done", {"read_back": "not in place"}, token=token)
    elif found is not None:
        journal.complete(action.id, found, token=token)
    return found


def _look_once(
    journal: Journal, action: Action, change: Change, token: int | None, error: ProviderUnavailable
) -> Evidence:
    """Read back after a lost answer. What does not show yet may still come: it stays unknown for the next run."""
    try:
        found = change.read_back()
    except (ProviderUnavailable, ProviderRefused):
        found = None
    if found is None:
        raise OutcomeUnknown(
            f"{change.kind} of {change.target}: {error.what}",
            where=action.incident_id,
            fix=f"run {change.flow} again: it reads back before it does anything",
        ) from None
    journal.resolve_unknown(action.id, "done", found, token=token)
    return found
