"""Ed25519 signatures over canonical JSON: who wrote a record, and that nobody changed it since."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tasks.core import UsageError, canonical_json
from tasks.snapshots.errors import Damaged

SigningKey = Ed25519PrivateKey


def generate_key() -> Ed25519PrivateKey:
    """Return a new signing key."""
    return Ed25519PrivateKey.generate()


def load_key(value: str, *, where: str = "the signing key") -> Ed25519PrivateKey:
    """Return the signing key in `value`: a PEM text, or the path of a PEM file.

    Raises:
        UsageError: it is neither, or not an Ed25519 private key. The message never holds the value.
    """
    if "-----BEGIN" in value:
        pem = value.replace("\\n", "\n").encode()
    else:
        try:
            pem = Path(value).expanduser().read_bytes()
        except (OSError, ValueError):
            raise UsageError(
                "The signing key cannot be read", where=where, fix="give a PEM text or the path of a PEM file"
            ) from None
    key = None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            "The signing key is not an unencrypted Ed25519 private key in PEM",
            where=where,
            fix="make one with `openssl genpkey -algorithm ed25519`",
        )
    return key


def load_or_create_key(path: Path | str) -> Ed25519PrivateKey:
    """Return the signing key in the PEM file `path`, made on first use and readable by its owner only."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        staged.touch(mode=0o600)
        staged.write_bytes(key_pem(generate_key()))
        with contextlib.suppress(FileExistsError):  # another process was first: use its key
            os.link(staged, path)
        staged.unlink()
    return load_key(str(path), where=str(path))


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the private key as unencrypted PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half of `key` as 64 hex digits."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def derived_secret(key: Ed25519PrivateKey, store_id: str, purpose: str) -> bytes:
    """Return 32 secret bytes for one purpose in one store, which only the holder of `key` can make (HKDF, RFC 5869)."""
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return HKDF(SHA256(), 32, salt=store_id.encode(), info=purpose.encode()).derive(private)


def sealed(body: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """Return the file that holds `body` and its signature.

    It is canonical JSON on one line, so that every byte of it is either signed or fixed by the form.
    """
    signature = key.sign(canonical_json(body)).hex()
    return canonical_json({"body": body, "signature": signature}) + b"\n"


def unsealed(content: bytes, public_key: str, *, where: str) -> dict[str, Any]:
    """Return the body of a sealed file.

    Raises:
        Damaged: it is not in canonical form, or its signature is not by the store's key.
    """
    try:
        envelope = json.loads(content)
        body, signature = envelope["body"], bytes.fromhex(envelope["signature"])
        exact = canonical_json(envelope) + b"\n" == content and set(envelope) == {"body", "signature"}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("The record cannot be read: it was changed or cut", where=where) from None
    if not exact or not isinstance(body, dict):
        raise Damaged("The record is not in the form it was written in: it was changed", where=where)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, canonical_json(body))
    except (InvalidSignature, ValueError):
        raise Damaged(
            "The signature is not the store's: the record was changed, or signed with another key",
            where=where,
        ) from None
    return body
