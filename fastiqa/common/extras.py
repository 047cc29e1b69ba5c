"""The distribution's name and its extras: `pip install fastiqa-kernels` provides the package `fastiqa`."""

from __future__ import annotations

DISTRIBUTION = "fastiqa-kernels"  # on PyPI `fastiqa` is an old project of other people


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of pyproject.toml.

    Example:
        >>> install_command("cli")
        "pip install 'fastiqa-kernels[cli]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"
