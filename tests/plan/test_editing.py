"""Changing single values of a plan: the rest stays byte for byte, and the diff is one that `patch` applies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.plan import Plan, PlanError, diff, edited

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "plan.example.yaml"


@pytest.mark.parametrize(
    ("text", "key", "value", "after"),
    [
        ("a: 1  # why\nb: 2\n", "a", 7, "a: 7  # why\nb: 2\n"),
        ("a: {b: 1, c: 2}\n", "a.c", 9, "a: {b: 1, c: 9}\n"),
        ("a: {b: 1}\n", "a.c", True, "a: {b: 1, c: true}\n"),
        ("a: {}\n", "a.b.c", 1, "a: {b: {c: 1}}\n"),
        ("a:\n  # first\n  b: 1\n", "a.c", "x y", "a:\n  # first\n  c: x y\n  b: 1\n"),
        ("a: 1\n", "b.c", 2, "b: {c: 2}\na: 1\n"),
        ('a: "21:00"\n', "a", "22:00", "a: '22:00'\n"),
        ("a: 1", "a", 2, "a: 2"),
    ],
)
def test_one_value_changes_and_nothing_else(text, key, value, after):
    assert edited(text, {key: value}) == after


def test_a_path_through_a_value_is_refused():
    with pytest.raises(PlanError, match="a has no keys"):
        edited("a: 1\n", {"a.b": 2})


def keys(value, path=()):
    if isinstance(value, dict):
        return [one for name, inner in value.items() for one in keys(inner, (*path, name))]
    return [".".join(path)] if not isinstance(value, list) else []


NUMBERS = [one for one in keys(yaml.safe_load(EXAMPLE.read_text())) if one.count(".") < 4]


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 99_999), min_size=1, max_size=4))
def test_any_values_of_the_example_change_and_every_comment_stays(changes):
    text = EXAMPLE.read_text()
    after = edited(text, changes)
    found, was = yaml.safe_load(after), yaml.safe_load(text)
    for key in NUMBERS:
        value, old = found, was
        for part in key.split("."):
            value, old = value[part], old[part]
        assert value == changes.get(key, old)
    comments = [line.partition(" #")[2] for line in text.splitlines()]
    assert [line.partition(" #")[2] for line in after.splitlines()] == comments


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs the command patch")
@pytest.mark.parametrize("context", [0, 2])
def test_the_diff_is_applied_by_patch(tmp_path, context):
    text = EXAMPLE.read_text()
    after = edited(text, {"sources.esp.backup_every": 30, "ramp.max_step": 1000})
    Plan.model_validate(yaml.safe_load(after))
    (tmp_path / "plan.yaml").write_text(text)
    patch = diff(text, after, "plan.yaml", context=context)
    subprocess.run(["patch", "-p0"], input=patch.encode(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "plan.yaml").read_text() == after


def test_no_change_is_no_diff():
    assert diff("a: 1\n", "a: 1\n", "plan.yaml") == ""
