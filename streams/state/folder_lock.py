"""One worker to a folder.

RocksDB locks each partition's database, so two workers on one folder would get on until the first rebalance gives one
of them a partition whose database the other has not closed yet.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError, DiskFailed

LOCK_FILE: Final = ".lock"


class FolderLock:
    """A folder held until :meth:`release`, or until the process ends, however it ends: the kernel drops the lock.

    Args:
        folder: created where absent.

    Raises:
        ConfigError: somebody holds it.
        DiskFailed: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DiskFailed(f"the state folder {folder} cannot be created: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise ConfigError(
                f"the state folder {folder} is in use by another worker: give this one its own"
            ) from error
        except OSError as error:
            self.release()
            raise DiskFailed(f"the state folder {folder} cannot be locked: {error.strerror}") from error

    def release(self) -> None:
        """Safe to repeat. The file stays: removing it would let two workers lock two files of one name."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
