"""Data Docs: the HTML pages of Great Expectations for one snapshot, without a value of any row, and without a request.

Stock pages load fifteen files from five public servers, without which they are an empty shell, and a picture that tells
its owner who looks when. Ours load what lies in `assets/` beside them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.checks.errors import ChecksError
from tasks.checks.privacy import redact
from tasks.core import replace_file

_KEPT = Path(__file__).parent / "assets"
_STYLES = [
    "bootstrap-table.min.css",
    "bootstrap.min.css",
    "bootstrap-table-filter-control.min.css",
    "icons.css",
]
_SCRIPTS = [  # each needs those before it
    "jquery.min.js",
    "popper.min.js",
    "bootstrap.min.js",
    "bootstrap-table.min.js",
    "bootstrap-table-filter-control.min.js",
]
# `'self'` is a server's, `file:` a folder's: the pages work from both.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'self' file:; style-src 'unsafe-inline' 'self' file:; "
    "img-src data:; form-action 'none'; base-uri 'none'"
)
_ELSEWHERE = """<body>
<p class="alert alert-info m-0">What is held against the source and against earlier snapshots (checksums, changes of the
schema, the spread of values, consents that are gone) is no rule of Great Expectations:
<a href="../result.html">the page of this snapshot</a> has it, with every severity.</p>"""
_OUTSIDE = r"""(?:https?:)?//[^"')]*"""
_DROPPED = re.compile(
    rf"""<script[^>]*\bsrc=["']{_OUTSIDE}["'][^>]*>\s*</script>|<link[^>]*>|<img[^>]*\bsrc=["']{_OUTSIDE}["'][^>]*>"""
    rf"""|<footer\b.*?</footer>|url\(["']?{_OUTSIDE}["']?\)""",
    re.DOTALL,
)
_LINK_OUT = re.compile(rf"""<a\b[^>]*\bhref=["']{_OUTSIDE}["'][^>]*>(.*?)</a>""", re.DOTALL)
_LOADS = re.compile(
    rf"""<[^>]*\b(?:src|href|action|poster|data)=["']{_OUTSIDE}["']|@import|url\(["']?(?:https?:)?//"""
)


def write_docs(context: Any, folder: Path, assets: Path | None = None) -> str:
    """Write the pages of every suite and result in `context` into `folder` and return its absolute path.

    What a failing query said is left out of the pages first: databases quote the value they could not use.
    An older version of the folder is replaced as a whole.

    Args:
        context: the context of Great Expectations whose suites and results are shown.
        folder: where to, beside the `result.html` of the snapshot.
        assets: the folder for what all pages load, which several `folder`s may share; `assets` in `folder` if absent.

    Raises:
        ChecksError: a page was not written, or would still load something from elsewhere.
    """
    folder = folder.resolve()
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _build(context, fresh)
    shutil.rmtree(fresh / "static", ignore_errors=True)  # 4 MB that no page shows
    assets = assets.resolve() if assets is not None else None
    for page in fresh.rglob("*.html"):
        final = folder / page.relative_to(fresh)
        up = os.path.relpath(assets or folder / "assets", final.parent)
        page.write_text(_at_home(page.read_text(encoding="utf-8"), up, str(final)), encoding="utf-8")
    index = fresh / "index.html"
    index.write_text(index.read_text(encoding="utf-8").replace("<body>", _ELSEWHERE, 1), encoding="utf-8")
    _put_assets(assets or fresh / "assets")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    return str(folder)


def _build(context: Any, fresh: Path) -> None:
    store = context.validation_results_store
    keys = store.list_keys()
    for key in keys:
        store.set(key, redact(store.get(key)))
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
    written = len(list((fresh / "validations").rglob("*.html")))
    if written != len(keys):  # a page that cannot be rendered is only logged by Great Expectations
        raise ChecksError(
            f"{len(keys) - written} of {len(keys)} Data Docs pages were not written", where=str(fresh)
        )


def _at_home(page: str, up: str, where: str) -> str:
    """Return a page that loads what lies in `up`, and nothing else; links of the text to elsewhere become text."""
    page = _LINK_OUT.sub(r"\1", _DROPPED.sub("", page))
    # A calendar to choose the one day of a snapshot is not worth what it loads.
    page = page.replace("'filterControl': 'datepicker'", "'filterControl': 'input'")
    page = page.replace("<head>", "<head>\n" + "\n".join(_head(up)), 1)
    if left := _LOADS.search(page):
        raise ChecksError(f"A page of Data Docs would load from elsewhere: {left[0][:80]}", where=where)
    return page


def _head(up: str) -> Iterator[str]:
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield from (f'<link rel="stylesheet" href="{up}/{name}">' for name in _STYLES)
    yield from (f'<script src="{up}/{name}"></script>' for name in _SCRIPTS)


def _put_assets(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*_STYLES, *_SCRIPTS, "LICENSES.md"]:
        content = (_KEPT / name).read_bytes()
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            replace_file(folder / name, content)
