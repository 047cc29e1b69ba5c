"""What a network can be trained for, a file for each task."""

from fastiqa.training.tasks.comparison import COMPARISON
from fastiqa.training.tasks.contrastive import CONTRASTIVE
from fastiqa.training.tasks.quality import QUALITY
from fastiqa.training.tasks.task import ItemLayout, Task

__all__ = ["TASKS", "ItemLayout", "Task"]

# By the names that recipes use.
TASKS: dict[str, Task] = {"comparison": COMPARISON, "quality": QUALITY, "contrastive": CONTRASTIVE}
