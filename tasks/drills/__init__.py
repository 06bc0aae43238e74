"""Drills: the sample shop, an ESP that fails on command, the mailbox that judges, and the truth of each outage.

Nothing here touches production: every server listens on loopback, every database is the drill's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.drills.errors import DrillError
    from tasks.drills.esp.faults import FAULTS
    from tasks.drills.esp.process import SimulatedEsp
    from tasks.drills.scenario import SCENARIOS, Step
    from tasks.drills.shop import ShopFacts, build_shop
    from tasks.drills.sink import Mail, Sink
    from tasks.drills.staging import DemoResult, prepare_folder
    from tasks.drills.truth import Truth
    from tasks.drills.vendors.brevo import SimulatedBrevo
    from tasks.drills.vendors.klaviyo import SimulatedKlaviyo
    from tasks.drills.vendors.mailchimp import SimulatedMailchimp
    from tasks.drills.vendors.sendgrid import SimulatedSendGrid
    from tasks.drills.world import World

_HOMES = {
    "DemoResult": "tasks.drills.staging",
    "DrillError": "tasks.drills.errors",
    "FAULTS": "tasks.drills.esp.faults",
    "Mail": "tasks.drills.sink",
    "SCENARIOS": "tasks.drills.scenario",
    "ShopFacts": "tasks.drills.shop",
    "SimulatedBrevo": "tasks.drills.vendors.brevo",
    "SimulatedEsp": "tasks.drills.esp.process",
    "SimulatedKlaviyo": "tasks.drills.vendors.klaviyo",
    "SimulatedMailchimp": "tasks.drills.vendors.mailchimp",
    "SimulatedSendGrid": "tasks.drills.vendors.sendgrid",
    "Sink": "tasks.drills.sink",
    "Step": "tasks.drills.scenario",
    "Truth": "tasks.drills.truth",
    "World": "tasks.drills.world",
    "build_shop": "tasks.drills.shop",
    "prepare_folder": "tasks.drills.staging",
}

__all__ = [
    "FAULTS",
    "SCENARIOS",
    "DemoResult",
    "DrillError",
    "Mail",
    "ShopFacts",
    "SimulatedBrevo",
    "SimulatedEsp",
    "SimulatedKlaviyo",
    "SimulatedMailchimp",
    "SimulatedSendGrid",
    "Sink",
    "Step",
    "Truth",
    "World",
    "build_shop",
    "prepare_folder",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the simulated servers start without what they do not need."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
