"""What can go wrong with a snapshot or its store."""

from __future__ import annotations

from tasks.core import MailstayError


class SnapshotError(MailstayError):
    """A snapshot cannot be taken, found, read or marked. Base of every error of this package."""


class StoreError(SnapshotError):
    """The store is not there, is not ours, or may not be written to."""


class NoStore(StoreError):
    """There is no store at all: no backup has ever been run."""


class NoSnapshot(SnapshotError):
    """There is no snapshot of that name, or no longer."""


class AlreadyCommitted(SnapshotError):
    """Another writer has committed this sequence number: the create-only write of the manifest was refused."""


class NotGivenBack(SnapshotError):
    """A database does not give back what was written to it: it cannot hold a value of the snapshot, or changed it."""


class Damaged(SnapshotError):
    """An object or a manifest in the store is not what was written: missing, cut, changed or badly signed."""
