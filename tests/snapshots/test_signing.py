"""Signing keys: where they come from, and that they never show."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tasks.core import UsageError
from tasks.snapshots import generate_key, key_pem, load_key, load_or_create_key, open_store, public_key_hex


def test_a_key_comes_from_a_pem_text_or_a_pem_file(tmp_path: Path) -> None:
    key = generate_key()
    pem = key_pem(key).decode()
    (tmp_path / "key.pem").write_text(pem)
    for value in (pem, pem.replace("\n", "\\n"), str(tmp_path / "key.pem")):
        assert public_key_hex(load_key(value)) == public_key_hex(key)


def test_a_key_file_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "store.pem"
    first = public_key_hex(load_or_create_key(path))
    assert public_key_hex(load_or_create_key(path)) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["store.pem"]


@pytest.mark.parametrize(
    "value", ["/no/such/file", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"]
)
def test_a_key_that_cannot_be_used_is_an_error_that_does_not_show_it(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_key(value)
    assert value not in str(caught.value) and "c2VjcmV0" not in str(caught.value)


def test_a_store_opened_with_an_empty_key_can_only_be_read(tmp_path: Path) -> None:
    open_store(str(tmp_path / "s"), signing_key=key_pem(generate_key()).decode(), create=True)
    assert open_store(str(tmp_path / "s")).list() == []
