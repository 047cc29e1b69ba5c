"""``python -m fastiqa``: the ``fastiqa`` command."""

from __future__ import annotations

from fastiqa.cli import main

if __name__ == "__main__":
    main()
