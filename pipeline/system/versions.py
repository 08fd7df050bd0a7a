"""What a run is made with: the versions of the packages that decide its numbers."""

from __future__ import annotations

from importlib.metadata import version

PACKAGES = ("neuralese", "torch", "transformers", "trl", "accelerate", "peft")


def versions() -> dict[str, str]:
    """Version of each package, by its name."""
    return {name: version(name) for name in PACKAGES}
