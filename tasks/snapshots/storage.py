"""Where bytes live: a local folder or an object store, with the two writes that a snapshot store is built on.

`put_new` fails if the name is taken (it is the commit), `put_file` stores an object named by its hash. On a local
folder both are durable when they return: the bytes, and the folder that names them, are on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core import crash_point
from tasks.snapshots.errors import AlreadyCommitted, NoStore, StoreError

Paths = list[str]  # `Storage.list` hides the built-in inside the class

SPOOL = ".spool"  # of a local store: files that are not named yet
_CHUNK = 8 * 2**20


class Storage:
    """The files of a store by their path below its root.

    Args:
        url: a folder, or the URL of an object store that obstore knows (`s3://`, `gs://`, `az://`, `memory://`).
    """

    def __init__(self, url: str, *, create: bool = False) -> None:
        from obstore.store import LocalStore, MemoryStore, from_url

        self.url = url
        self.root: Path | None = None
        if url.startswith("memory:"):
            self._store: Any = MemoryStore()
        elif "://" in url and not url.startswith("file://"):
            try:
                self._store = from_url(url)
            except Exception as error:
                raise StoreError(f"The store's URL cannot be used: {error}", where=url) from None
        else:
            self.root = Path(url.removeprefix("file://")).expanduser().resolve()
            if create:
                with self._heard("write", "its folder"), contextlib.suppress(FileExistsError):
                    _make_folder(self.root)
            if not self.root.is_dir():
                raise NoStore("There is no store", where=str(self.root), fix="run a backup to create it")
            self._store = LocalStore(prefix=self.root)

    def get(self, path: str) -> bytes:
        """Return the bytes at `path`.

        Raises:
            FileNotFoundError: there is nothing.
        """
        with self._heard("get", path):
            return bytes(self._call("get", path).bytes())

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes at `path` piece by piece.

        Raises:
            FileNotFoundError: there is nothing.
        """
        if self.root is not None:
            with self._heard("read", path), (self.root / path).open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece
            return
        with self._heard("get", path):
            for piece in self._call("get", path).stream(min_chunk_size=_CHUNK):
                yield bytes(piece)

    def hash(self, path: str) -> tuple[str, int]:
        """Return the SHA-256 (hex) and the size of what lies at `path`, reading all of it.

        Raises:
            FileNotFoundError: there is nothing.
        """
        digest, size = hashlib.sha256(), 0
        for piece in self.chunks(path):
            digest.update(piece)
            size += len(piece)
        return digest.hexdigest(), size

    def size(self, path: str) -> int | None:
        """Return the size of what lies at `path`, None if there is nothing."""
        try:
            return int(self._call("head", path)["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Paths:
        """Return every path below the folder `prefix`, sorted."""
        with self._heard("list", prefix):
            found = self._call("list", prefix)
            return sorted(str(entry["path"]) for page in found for entry in page)

    def found(self, path: str) -> bytes | None:
        """Return the bytes at `path`, None if there is nothing or it cannot be read."""
        with contextlib.suppress(FileNotFoundError, StoreError):
            return self.get(path)
        return None

    def put_new(self, path: str, content: bytes) -> None:
        """Store `content` at `path`, which nobody has written before.

        Raises:
            AlreadyCommitted: there is something else already, which stays as it is.
        """
        try:
            self._create(path, content)
        except (FileExistsError, StoreError) as refused:
            # It may have been done and only the answer been lost, or asked for twice: what lies there decides.
            if self.found(path) != content:
                if isinstance(refused, StoreError):
                    raise
                raise AlreadyCommitted("The name is taken", where=path) from None
        self.settle(path)

    def put(self, path: str, content: bytes) -> None:
        """Store `content` at `path`, in place of what is there."""
        if self.root is None:
            self._call("put", path, content)
            return
        with self._heard("write", path):
            target = self._place(path)
            with self._staged(content) as staged:
                crash_point("storage.put_staged")
                staged.replace(target)
                crash_point("storage.put_replaced")
        self.settle(path)

    def put_file(self, path: str, file: Path) -> None:
        """Store the local `file` at `path`; on a local store the file is moved there if it can be."""
        if self.root is None:
            self._call("put", path, file)
            return
        with self._heard("write", path):
            target = self._place(path)
            sync_path(file)
            crash_point("storage.file_synced")
            file.replace(target)
            crash_point("storage.file_moved")
        self.settle(path)

    def settle(self, path: str) -> None:
        """Make the name `path`, which may be of another process, durable: every folder up to the store's own."""
        if self.root is None:
            return
        with self._heard("sync", path):
            for folder in (self.root / path).parents:
                sync_path(folder)
                if folder == self.root:
                    break

    def delete(self, path: str) -> None:
        """Remove what lies at `path`; nothing there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._call("delete", path)
            crash_point("storage.deleted")
            if self.root is not None:
                with self._heard("sync", path):
                    sync_path((self.root / path).parent)

    def _create(self, path: str, content: bytes) -> None:
        """Write a file that must not be there yet; FileExistsError if it is."""
        if self.root is None:
            self._call("put", path, content, mode="create")
            return
        with self._heard("write", path):
            target = self._place(path)
            with self._staged(content) as staged:
                crash_point("storage.staged")
                os.link(staged, target)  # atomic, and refuses a name that is taken
                crash_point("storage.linked")

    @contextlib.contextmanager
    def _staged(self, content: bytes) -> Iterator[Path]:
        """Yield a file in the store's spool that holds `content`, durable, and locked while this process lives."""
        assert self.root is not None
        staged = self.root / SPOOL / uuid.uuid4().hex
        staged.parent.mkdir(mode=0o700, exist_ok=True)
        with staged.open("xb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                yield staged
            finally:
                staged.unlink(missing_ok=True)

    def _place(self, path: str) -> Path:
        """Return the local path, its folders made and recorded on the disk."""
        assert self.root is not None
        target = self.root / path
        _make_folder(target.parent)
        return target

    def _call(self, verb: str, path: str, *rest: Any, **options: Any) -> Any:
        import obstore

        with self._heard(verb, path):
            return getattr(obstore, verb)(self._store, path, *rest, **options)

    @contextlib.contextmanager
    def _heard(self, verb: str, path: str) -> Iterator[None]:
        """Turn what the store or the disk says into our own errors, also while an answer is still being read."""
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

        try:
            yield
        except (NotFoundError, FileNotFoundError):
            if verb in ("put", "write", "sync"):
                raise StoreError(
                    f"There is no place to {verb} to: a folder or bucket is missing",
                    where=f"{self.url}: {path}",
                ) from None
            raise FileNotFoundError(path) from None
        except (AlreadyExistsError, PreconditionError):
            raise FileExistsError(path) from None
        except BaseError as error:
            said = str(error).partition("\n")[0]  # a dump for programmers follows
            raise StoreError(f"The store refused to {verb}: {said}", where=f"{self.url}: {path}") from None
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(
                f"The disk refused to {verb}: {error.strerror}", where=f"{self.url}: {path}"
            ) from None


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each recorded in the one above on the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Return once the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
