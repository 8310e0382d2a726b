"""What a problem must offer to be learnt, and a way to try that out."""

from eggroll.task.check import check_task, validate
from eggroll.task.export import Export
from eggroll.task.protocol import Task, first_row, rows


__all__ = ["Export", "Task", "check_task", "first_row", "rows", "validate"]
