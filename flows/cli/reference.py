"""The generated reference pages: what the command line, the plan and the canonical model say of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def command_line() -> str:
    """Return every command with its help and options, as Markdown (Typer's own generator)."""
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "typer",
            "flows.cli.app",
            "utils",
            "docs",
            "--name",
            "mailstay",
            "--title",
            "Commands",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    return result.stdout.strip()


def plan_keys() -> str:
    """Return every key of the plan with its type, default and meaning, as Markdown."""
    from tasks.plan import plan_schema

    return _keys("Plan", json.loads(plan_schema()))


def contract_keys() -> str:
    """Return every key of a contract with its type, default and meaning, as Markdown."""
    from tasks.checks import contract_schema

    return _keys("Contract", json.loads(contract_schema()))


def _keys(title: str, schema: dict[str, Any]) -> str:
    parts = {title: schema, **schema["$defs"]}
    lines: list[str] = []
    for name, part in parts.items():
        if "properties" not in part:
            continue
        lines += [
            f"## {name}",
            "",
            part.get("description", ""),
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        required = set(part.get("required", []))
        for key, value in part["properties"].items():
            default = (
                "required" if key in required else f"`{json.dumps(value.get('default'), ensure_ascii=False)}`"
            )
            cells = (
                f"`{key}`",
                _type(value),
                default if "default" in value or key in required else "",
                _meaning(value),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def canonical_tables() -> str:
    """Return the columns of the canonical model, as Markdown."""
    from tasks.snapshots import CANONICAL

    lines: list[str] = []
    for table, columns in CANONICAL.items():
        lines += [f"## {table}", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in columns]
        lines.append("")
    return "\n".join(lines)


def export_tables() -> str:
    """Return what each provider's export gives, as Markdown."""
    from tasks.providers import EXPORT_TABLES, PROVIDERS

    lines = []
    for kind, tables in EXPORT_TABLES.items():
        lines += [f"## {PROVIDERS[kind].title}", ""]
        for table in tables:
            key = ", ".join(f"`{name}`" for name in table.key) or "none"
            lines += [
                f"### `{table.name}`",
                "",
                f"{table.about} Key: {key}.",
                "",
                "| column | type |",
                "|---|---|",
            ]
            lines += [f"| `{one.name}` | {one.kind} |" for one in table.columns]
            lines += ["| `other` | json |", ""]
    return "\n".join(lines).rstrip()


def provider_tables() -> str:
    """Return what each kind of provider can do, its limits and its traps, as Markdown."""
    from flows.cli import show
    from tasks.providers import PROVIDERS

    lines: list[str] = []
    for one in PROVIDERS.values():
        lines += [f"## {one.title}", ""]
        for title, heads, rows in show.provider_tables(one):
            cells = [heads, ["---"] * len(heads), *rows]
            lines += [f"{title}:", ""] if title else []
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
            lines.append("")
        lines += [*(f"- {name}: {value}." for name, value in show.provider_facts(one)), ""]
    return "\n".join(lines)


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"name: {_type(value['additionalProperties'])}"
    return str(value.get("type", "any"))


def _meaning(value: dict[str, Any]) -> str:
    return " ".join(str(value.get("description", "")).split())
