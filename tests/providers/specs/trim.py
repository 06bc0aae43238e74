"""Cut vendors' API descriptions down to the calls that the connectors make, so that Prism starts in seconds.

    python tests/providers/specs/trim.py sendgrid tsg_*.json
    python tests/providers/specs/trim.py brevo swagger_definition.yml
    python tests/providers/specs/trim.py klaviyo campaigns.json lists.json metrics.json profiles.json reporting.json \
        segments.json

Mailchimp's is cut by the test itself: nobody may pass it on.

Paths and schemas are taken as they are; what no kept call refers to, examples and prose are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CALLS = {
    "sendgrid": [
        ("/v3/marketing/singlesends", "get post"),
        ("/v3/marketing/singlesends/{id}", "get patch"),
        ("/v3/marketing/singlesends/{id}/schedule", "put delete"),
        ("/v3/marketing/stats/singlesends", "get"),
        ("/v3/marketing/stats/singlesends/{id}", "get"),
        ("/v3/marketing/lists", "get post"),
        ("/v3/marketing/lists/{id}", "delete"),
        ("/v3/marketing/lists/{id}/contacts", "delete"),
        ("/v3/marketing/contacts", "put"),
        ("/v3/marketing/contacts/imports/{id}", "get"),
        ("/v3/marketing/contacts/exports", "post"),
        ("/v3/marketing/contacts/exports/{id}", "get"),
        ("/v3/suppression/unsubscribes", "get"),
        ("/v3/suppression/bounces", "get"),
        ("/v3/suppression/spam_reports", "get"),
        ("/v3/suppression/invalid_emails", "get"),
        ("/v3/suppression/blocks", "get"),
        ("/v3/asm/suppressions", "get"),
        ("/v3/asm/groups", "get"),
        ("/v3/designs", "get"),
        ("/v3/templates", "get"),
        ("/v3/templates/{template_id}", "get"),
        ("/v3/asm/suppressions/global", "post"),
        ("/v3/user/scheduled_sends", "get post"),
        ("/v3/user/scheduled_sends/{batch_id}", "patch delete"),
    ],
    "brevo": [
        ("/emailCampaigns", "get post"),
        ("/emailCampaigns/{campaignId}", "get put"),
        ("/emailCampaigns/{campaignId}/status", "put"),
        ("/emailCampaigns/{campaignId}/sendNow", "post"),
        ("/contacts", "get"),
        ("/contacts/batch", "post"),
        ("/contacts/lists", "get post"),
        ("/contacts/lists/{listId}", "delete"),
        ("/contacts/lists/{listId}/contacts/add", "post"),
        ("/contacts/lists/{listId}/contacts/remove", "post"),
        ("/contacts/folders", "get post"),
        ("/smtp/blockedContacts", "get"),
        ("/smtp/templates", "get"),
        ("/smtp/statistics/events", "get"),
    ],
    "klaviyo": [
        ("/api/campaigns", "get"),
        ("/api/campaigns/{id}", "get patch"),
        ("/api/campaign-clone", "post"),
        ("/api/campaign-send-jobs", "post"),
        ("/api/campaign-send-jobs/{id}", "patch"),
        ("/api/campaign-recipient-estimations/{id}", "get"),
        ("/api/campaign-values-reports", "post"),
        ("/api/metrics", "get"),
        ("/api/lists", "get post"),
        ("/api/lists/{id}", "delete"),
        ("/api/lists/{id}/profiles", "get"),
        ("/api/lists/{id}/relationships/profiles", "post delete"),
        ("/api/segments/{id}/profiles", "get"),
        ("/api/profiles", "get"),
        ("/api/profile-suppression-bulk-create-jobs", "post"),
        ("/api/profile-suppression-bulk-create-jobs/{job_id}", "get"),
    ],
    "mailchimp": [
        ("/campaigns", "get post"),
        ("/campaigns/{campaign_id}", "get patch"),
        ("/campaigns/{campaign_id}/content", "get put"),
        ("/campaigns/{campaign_id}/actions/schedule", "post"),
        ("/campaigns/{campaign_id}/actions/unschedule", "post"),
        ("/campaigns/{campaign_id}/actions/send", "post"),
        ("/campaigns/{campaign_id}/actions/cancel-send", "post"),
        ("/campaigns/{campaign_id}/actions/pause", "post"),
        ("/campaigns/{campaign_id}/actions/resume", "post"),
        ("/reports/{campaign_id}", "get"),
        ("/reports/{campaign_id}/sent-to", "get"),
        ("/lists", "get"),
        ("/lists/{list_id}", "post"),
        ("/lists/{list_id}/members", "get"),
        ("/lists/{list_id}/abuse-reports", "get"),
        ("/lists/{list_id}/segments", "get post"),
        ("/lists/{list_id}/segments/{segment_id}", "post delete"),
        ("/lists/{list_id}/segments/{segment_id}/members", "get"),
    ],
}
_PROSE = {
    "description",
    "example",
    "examples",
    "externalDocs",
    "x-codeSamples",
    "x-twilio",
    "tags",
    "summary",
}


def trimmed(kind: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one description with the calls of `CALLS[kind]`, out of several that share no path."""
    kept: dict[str, Any] = {"paths": {}, "components": {}}
    for number, document in enumerate(documents):
        kept |= {key: document[key] for key in ("openapi", "info", "servers", "security") if key in document}
        wanted: list[str] = []
        for path, methods in CALLS[kind]:
            if path not in document["paths"]:
                continue
            found = document["paths"][path]
            keys = [key for key in found if key in methods.split() or key == "parameters"]
            kept["paths"][path] = _renamed(_bare({key: found[key] for key in keys}), number, wanted)
        while wanted:
            _, section, name = wanted.pop().rsplit("/", 2)
            new = f"{name}_{number}"
            if new not in kept["components"].setdefault(section, {}):
                part = _bare(document["components"][section][name])
                kept["components"][section][new] = _renamed(part, number, wanted)
        kept["components"]["securitySchemes"] = document["components"]["securitySchemes"]
    missing = [path for path, _ in CALLS[kind] if path not in kept["paths"]]
    if missing:
        raise SystemExit(f"no file describes {', '.join(missing)}")
    kept["info"] = {key: kept["info"][key] for key in ("title", "version", "license") if key in kept["info"]}
    return kept


def _bare(node: Any, *, names: bool = False) -> Any:
    """Return `node` without prose; `names` says that its keys are names, not words of the format."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        str(key): _bare(value, names=key in ("properties", "responses", "headers") and not names)
        for key, value in node.items()
        if names or key not in _PROSE
    } | ({"description": ""} if "content" in node and not names and "required" not in node else {})


def _renamed(node: Any, number: int, wanted: list[str]) -> Any:
    if isinstance(node, list):
        return [_renamed(one, number, wanted) for one in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        wanted.append(node["$ref"])
        return {"$ref": f"{node['$ref']}_{number}"}
    return {key: _renamed(value, number, wanted) for key, value in node.items()}


if __name__ == "__main__":
    kind, *files = sys.argv[1:]
    texts = [yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in files]
    out = HERE / f"{kind}.json"
    out.write_text(json.dumps(trimmed(kind, texts), indent=1) + "\n", encoding="utf-8")
    print(out, f"{out.stat().st_size:,} bytes")
