"""Contracts of tables, the checks compiled from them, and the gate that makes a snapshot valid or quarantined."""

from tasks.checks.checking import last_good_before, mark_snapshot, run_checks
from tasks.checks.contracts import Column, Contract
from tasks.checks.errors import ChecksError, ContractError
from tasks.checks.findings import CheckFinding, CheckReport, Outcome, RuleResult, Severity, Status
from tasks.checks.history import history_schema, read_history, remember, standing
from tasks.checks.loading import (
    ContractProblem,
    contract_schema,
    default_contracts,
    lint_contract,
    lint_contracts,
    load_contracts,
)
from tasks.checks.planned import (
    contracts_folder,
    contracts_of,
    linted_folders,
    newest_snapshot,
    rules_in_words,
)
from tasks.checks.proposing import propose_contracts
from tasks.checks.releasing import release_snapshot
from tasks.checks.result_page import gather, page_path
from tasks.checks.writing import Proposed, write_contracts

__all__ = [
    "CheckFinding",
    "CheckReport",
    "ChecksError",
    "Column",
    "Contract",
    "ContractError",
    "ContractProblem",
    "Outcome",
    "Proposed",
    "RuleResult",
    "Severity",
    "Status",
    "contract_schema",
    "contracts_folder",
    "contracts_of",
    "default_contracts",
    "gather",
    "history_schema",
    "last_good_before",
    "lint_contract",
    "lint_contracts",
    "linted_folders",
    "load_contracts",
    "mark_snapshot",
    "newest_snapshot",
    "page_path",
    "propose_contracts",
    "read_history",
    "release_snapshot",
    "remember",
    "rules_in_words",
    "run_checks",
    "standing",
    "write_contracts",
]
