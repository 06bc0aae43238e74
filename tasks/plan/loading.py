"""Reading a plan: safe YAML, then the models; every mistake is told with its file, line, field and mend."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.core import UsageError, digest_of
from tasks.plan.models import Plan, SourcePlan


class PlanError(UsageError):
    """The plan cannot be used as it stands."""


@dataclass(frozen=True)
class LoadedPlan:
    """A plan with where it was read from; relative paths in it are relative to its file."""

    plan: Plan
    path: Path
    digest: str

    @property
    def folder(self) -> Path:
        """The folder that relative paths of the plan start from."""
        return self.path.parent

    def resolve(self, path: Path | str) -> Path:
        """Return `path` of the plan as an absolute path."""
        return (self.folder / Path(path).expanduser()).resolve()

    def journal_url(self) -> str:
        """Return the journal's SQLAlchemy URL."""
        return self._url(self.plan.journal, self.plan.journal_env, "journal")

    def source(self, name: str) -> SourcePlan:
        """Return the plan's source `name`.

        Raises:
            PlanError: there is none.
        """
        source = self.plan.sources.get(name)
        if source is None:
            known = ", ".join(self.plan.sources)
            raise PlanError(
                f"The plan has no source {name!r}", where=str(self.path), fix=f"use one of: {known}"
            )
        return source

    def source_url(self, name: str) -> str:
        """Return the SQLAlchemy URL of source `name`.

        Raises:
            PlanError: the plan has no such source, its environment variable is not set, or it is the export of a
                provider, which has no database.
        """
        source = self.source(name)
        if source.provider is not None:
            raise PlanError(
                f"The source {name!r} is the export of the provider {source.provider!r}, not a database",
                where=f"{self.path}: sources.{name}",
                fix="name a database to restore into; nothing is written back to a provider",
            )
        return self._url(source.url, source.url_env, f"sources.{name}")

    def store_url(self) -> str:
        """Return the store's URL: absolute where it is a folder."""
        url = self.plan.store.url
        return url if "://" in url else str(self.resolve(url))

    def clock_spec(self) -> str:
        """Return the clock for `tasks.core.open_clock`, its path absolute."""
        kind, _, path = self.plan.clock.partition(":")
        return f"{kind}:{self.resolve(path)}" if path else kind

    def provider(self, name: str) -> Any:
        """Return the plan's provider `name`.

        Raises:
            PlanError: there is none.
        """
        found = self.plan.providers.get(name)
        if found is None:
            known = ", ".join(self.plan.providers)
            raise PlanError(
                f"The plan has no provider {name!r}", where=str(self.path), fix=f"use one of: {known}"
            )
        return found

    def _url(self, literal: str | None, variable: str | None, field: str) -> str:
        if literal is not None:
            return _absolute_sqlite(literal, self.folder)
        return _absolute_sqlite(secret(variable or "", f"{self.path}: {field}"), self.folder)


def secret(variable: str, used_by: str) -> str:
    """Return the environment variable `variable`.

    Raises:
        PlanError: it is not set; the message names the variable and who needs it, never a value.
    """
    value = os.environ.get(variable)
    if not value:
        raise PlanError(
            f"The environment variable {variable} is not set", where=used_by, fix=f"export {variable}=…"
        )
    return value


def load_plan(path: Path | str) -> LoadedPlan:
    """Read the plan in the YAML file `path`.

    Raises:
        PlanError: the file is missing, is not YAML, or does not fit the models.
    """
    path = Path(path).resolve()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PlanError(
            "There is no plan", where=str(path), fix="copy data/plan.example.yaml and edit it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"The plan cannot be read: {error}", where=str(path)) from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise PlanError(f"The plan is not valid YAML: {problem}", where=line) from None
    if not isinstance(content, Mapping):
        raise PlanError("The plan is empty", where=str(path), fix="copy data/plan.example.yaml and edit it")
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        raise PlanError(
            _explain(error, path, text), fix="`mailstay plan schema` describes every key"
        ) from None
    return LoadedPlan(plan=plan, path=path, digest=digest_of(plan.model_dump(mode="json")))


def plan_schema() -> str:
    """Return the JSON Schema of the plan, for editors."""
    schema = Plan.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, ensure_ascii=False)


def _explain(error: ValidationError, path: Path, text: str) -> str:
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = []
    for problem in error.errors():
        where = [part for part in problem["loc"] if part != "[key]"]
        field = ".".join(str(part) for part in where) or "the plan"
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{path}:{_line_of(tree, where)}: {field}: {message}")
    return "The plan does not fit:\n  " + "\n  ".join(lines)


def _line_of(node: yaml.Node | None, where: list[Any]) -> int:
    line = node.start_mark.line + 1 if node is not None else 1
    for part in where:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            return line
        node = found
    return line


def _absolute_sqlite(url: str, folder: Path) -> str:
    for scheme in ("sqlite:///", "sqlite+pysqlite:///"):
        if url.startswith(scheme) and not url.startswith(scheme + "/") and url != scheme + ":memory:":
            return scheme + str((folder / url.removeprefix(scheme)).resolve())
    return url
