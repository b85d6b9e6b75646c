"""What a result was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """Python, package versions, devices and cores of this process."""
    versions = {}
    for package in ("nestax", "jax", "jaxlib", "optax", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
