"""Data Docs: the HTML pages of Great Expectations for one snapshot, on disk, without a value of any row."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tasks.checks.errors import ChecksError


def write_docs(context: Any, folder: Path) -> str:
    """Write the pages of every suite and result in `context` into `folder` and return its absolute path.

    What a failing query said is left out of the pages first: databases quote the value they could not use.
    An older version of the folder is replaced as a whole.
    """
    _silence_exceptions(context)
    folder = folder.resolve()
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    context.add_data_docs_site(
        "mailstay",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(fresh)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "show_cta_footer": False},
        },
    )
    context.build_data_docs(site_names=["mailstay"])
    wanted = len(context.validation_results_store.list_keys())
    written = len(list((fresh / "validations").rglob("*.html")))
    if written != wanted:  # a page that cannot be rendered is only logged by Great Expectations
        raise ChecksError(
            f"{wanted - written} of {wanted} Data Docs pages were not written", where=str(folder)
        )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    return str(folder)


def _silence_exceptions(context: Any) -> None:
    store = context.validation_results_store
    for key in store.list_keys():
        outcome = store.get(key)
        changed = False
        for result in outcome.results:
            if _raised(result.exception_info):
                result.exception_info = {
                    "raised_exception": True,
                    "exception_message": "The rule could not be asked; the finding says why.",
                    "exception_traceback": "",
                }
                changed = True
        if changed:
            store.set(key, outcome)


def _raised(info: Any) -> bool:
    if not isinstance(info, dict):
        return False
    return bool(info.get("raised_exception")) or any(_raised(value) for value in info.values())
