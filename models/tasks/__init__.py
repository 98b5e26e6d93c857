"""The tasks of this program, one file each; :mod:`models.task` says what a task is."""

from __future__ import annotations

from typing import Final

from models.task import Task
from models.tasks.churn import Churn
from models.tasks.redemption import Redemption

TASKS: Final[tuple[Task, ...]] = (Churn(), Redemption())
