"""The tasks of this program, one file each; :mod:`models.task` says what a task is."""

from __future__ import annotations

from typing import Final

from models.task import Task
from models.tasks.behaviour import BehaviourTask
from models.tasks.churn import ChurnTask
from models.tasks.clicked import ClickTask
from models.tasks.next_items import NextItemsTask
from models.tasks.opened import OpenTask
from models.tasks.redemption import RedemptionTask
from models.tasks.send_time import SendTimeTask

TASKS: Final[tuple[Task, ...]] = (
    ChurnTask(),
    RedemptionTask(),
    OpenTask(),
    ClickTask(),
    SendTimeTask(),
    BehaviourTask(),
    NextItemsTask(),
)
