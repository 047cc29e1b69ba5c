"""The tasks that a network can be trained for, one file each: its data kinds, module, losses and validation."""

from fastiqa.training.tasks.comparison import COMPARISON
from fastiqa.training.tasks.contrastive import CONTRASTIVE
from fastiqa.training.tasks.quality import QUALITY
from fastiqa.training.tasks.task import ItemLayout, Items, Task, blocks_of

__all__ = ["TASKS", "ItemLayout", "Items", "Task", "blocks_of"]

# By the names that recipes use.
TASKS: dict[str, Task] = {"comparison": COMPARISON, "quality": QUALITY, "contrastive": CONTRASTIVE}
