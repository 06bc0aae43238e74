"""The funnel between the engine and everything that is told: what passes holds counts and names, no value of any row.

Every result of Great Expectations goes through `redact` before anybody reads or shows it, whatever format it was asked
for: which keys a result may have depends here on a list of what may pass, not on what an option leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Number
from typing import Any

from tasks.core import mask_addresses

META = "mailstay"
"""The key of an expectation's meta under which ours lies."""

_COUNTS = (
    "element_count",
    "missing_count",
    "missing_percent",
    "unexpected_count",
    "unexpected_percent",
    "unexpected_percent_nonmissing",
    "unexpected_percent_total",
)
_OF_NAMES = ("expect_table_columns_to_match_set", "expect_table_columns_to_match_ordered_list")
_SILENT = {
    "raised_exception": True,
    "exception_message": "The rule could not be asked; the finding says why.",
    "exception_traceback": "",
}


def redact(outcome: Any, *, errors: bool = True) -> Any:
    """Take every value of a row out of a suite's result, in place, and return it.

    What stays are counts, names of columns, and a number that the expectation observed; the number goes too where the
    column holds personal data (the largest of them is somebody's), and where the expectation does not say so.

    Args:
        outcome: the result, as a ValidationDefinition returns it.
        errors: also take out what a failing query said: databases quote the value they could not use.
    """
    for one in outcome.results:
        config = one.expectation_config
        config.kwargs = masked(dict(config.kwargs))
        personal = (config.meta or {}).get(META, {}).get("personal", True)
        one.result = _passing(one.result or {}, names=config.type in _OF_NAMES, personal=personal)
        one.rendered_content = None
        config.rendered_content = None
        if errors and raised(one.exception_info):
            one.exception_info = dict(_SILENT)
    return outcome


def observes(kwargs: Mapping[str, Any], columns: set[str]) -> bool:
    """Return whether an expectation with these arguments looks at the values of one of `columns`."""
    named = [value for name, value in kwargs.items() if name.startswith("column")]
    return any(columns & ({one} if isinstance(one, str) else set(one)) for one in named)


def raised(info: Any) -> bool:
    """Return whether exception info (of either of its two shapes) tells of an exception."""
    if not isinstance(info, Mapping):
        return False
    return bool(info.get("raised_exception")) or any(raised(value) for value in info.values())


def scrub(error: str, known: set[str]) -> str:
    """Return the first line of `error` with quoted texts, numbers and addresses left out.

    Args:
        error: what a database said; it quotes the value it could not use.
        known: names of tables and columns, which may stay.
    """

    def keep(found: re.Match[str]) -> str:
        return found[0] if found[0][1:-1] in known else "<value>"

    line = next((line for line in error.splitlines() if line.strip()), "no reason given")
    line = re.sub(r"^\([\w.]+\) ", "", line)
    line = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", keep, line)
    line = re.sub(r"['\"].*", "<value>", line) if line.count("'") % 2 or line.count('"') % 2 else line
    line = mask_addresses(line)  # before the numbers: %40 is an @
    return re.sub(r"(?<![\w<])-?\d[\d.,:\-]*", "<number>", line)[:300]


def _passing(result: Mapping[str, Any], *, names: bool, personal: bool) -> dict[str, Any]:
    passed = {name: result[name] for name in _COUNTS if isinstance(result.get(name), Number)}
    observed = result.get("observed_value")
    if names:
        passed["observed_value"] = masked(observed)
        passed["details"] = masked(result.get("details") or {})
    elif isinstance(observed, Number) and not personal:
        passed["observed_value"] = observed
    return passed


def masked(value: Any) -> Any:
    """Return `value` with the addresses masked in every text of it."""
    if isinstance(value, str):
        return mask_addresses(value)
    if isinstance(value, Mapping):
        return {masked(name): masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [masked(one) for one in value]
    return value
