"""Contracts of tables, the checks compiled from them, and the gate that makes a snapshot valid or quarantined."""

from tasks.checks.checking import last_good_before, mark_snapshot, run_checks
from tasks.checks.contracts import Column, Contract
from tasks.checks.errors import ChecksError, ContractError
from tasks.checks.findings import CheckFinding, CheckReport, Outcome, Severity
from tasks.checks.loading import (
    ContractProblem,
    contract_schema,
    default_contracts,
    lint_contract,
    load_contracts,
)

__all__ = [
    "CheckFinding",
    "CheckReport",
    "ChecksError",
    "Column",
    "Contract",
    "ContractError",
    "ContractProblem",
    "Outcome",
    "Severity",
    "contract_schema",
    "default_contracts",
    "last_good_before",
    "lint_contract",
    "load_contracts",
    "mark_snapshot",
    "run_checks",
]
