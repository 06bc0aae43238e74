"""Changing single values of a plan's text: everything else, comments and order included, stays as people wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import yaml

from tasks.plan.loading import PlanError


def edited(text: str, changes: Mapping[str, object]) -> str:
    """Return a plan's text with other values, each change as small as it can be.

    Args:
        text: the YAML of a plan.
        changes: the new value per key, as the path to it: `sources.shop.backup_every`. A key that is missing is added
            to its mapping, with the mapping if that is missing too.

    Raises:
        PlanError: a path leads through something that has no keys.
    """
    for path, value in changes.items():
        text = _with_value(text, path.split("."), value)
    return text


def diff(before: str, after: str, name: str, *, context: int = 2) -> str:
    """Return the change as a unified diff of the file `name`, for `patch -p0`; empty if there is none."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, name, n=context
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _with_value(text: str, path: list[str], value: object) -> str:
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, key in enumerate(path):
        if not isinstance(node, yaml.MappingNode):
            raise PlanError(f"{'.'.join(path[:depth]) or 'the plan'} has no keys of its own")
        found = next((one for name, one in node.value if name.value == key), None)
        if found is None:
            return _with_new(text, node, path[depth:], value)
        if isinstance(found, yaml.MappingNode) and not found.value and depth + 1 < len(path):
            return (
                text[: found.start_mark.index]
                + _nested(path[depth + 1 :], value)
                + text[found.end_mark.index :]
            )
        node = found
    assert node is not None
    return text[: node.start_mark.index] + _scalar(value) + text[node.end_mark.index :]


def _with_new(text: str, node: yaml.MappingNode, path: list[str], value: object) -> str:
    said = _nested(path[1:], value)
    if node.flow_style:
        end = node.end_mark.index - 1
        return f"{text[:end].rstrip()}{', ' if node.value else ''}{path[0]}: {said}{text[end:]}"
    first = node.value[0][0].start_mark
    at = first.index - first.column
    return f"{text[:at]}{' ' * first.column}{path[0]}: {said}\n{text[at:]}"


def _nested(path: list[str], value: object) -> str:
    said = _scalar(value)
    for key in reversed(path):
        said = f"{{{key}: {said}}}"
    return said


def _scalar(value: object) -> str:
    written: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")
