"""One worker to a folder.

RocksDB locks each partition's database, so two workers on one folder would get on until the first rebalance gives one
of them a partition whose database the other has not closed yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from schemas.errors import ConfigError, DiskFailed

LOCK_FILE: Final = ".lock"


class FolderLock:
    """A folder held until :meth:`release`, or until the process ends, however it ends: the kernel drops the lock.

    Args:
        folder: created where absent.

    Raises:
        ConfigError: somebody holds it.
        DiskFailed: the folder cannot be made, written or locked.
    """

    def __init__(self, folder: Path) -> None:
        # A lock that is only a file would outlive a worker that is killed.
        self._lock = FileLock(folder / LOCK_FILE, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"the state folder {folder} is in use by another worker: give this one its own"
            ) from error
        except OSError as error:
            raise DiskFailed(f"the state folder {folder} cannot be created or locked: {error.strerror}") from error

    def release(self) -> None:
        """Safe to repeat."""
        self._lock.release()
