"""What a result was measured on."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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


def unused_gpu(root: Path = Path("/")) -> str | None:
    """Says that there is an NVIDIA GPU which JAX does not use, why, and what to install.

    Args:
        root: the folder that holds `dev` and `proc`.

    Returns:
        Two lines; None if JAX has an accelerator, or there is no such GPU.
    """
    if any(device.platform != "cpu" for device in jax.devices()):
        return None
    name = _nvidia(root)
    if name is None:
        return None
    plugins = [one for one in ("jax-cuda13-plugin", "jax-cuda12-plugin") if _installed(one)]
    if sys.platform == "win32":
        why, repair = "JAX has no GPU packages for Windows", "use it from WSL2"
    elif not plugins:
        why, repair = "jaxlib is CPU-only here", 'pip install -U "jax[cuda13]"'
    elif jax.config.jax_platforms:  # pyright: ignore[reportAttributeAccessIssue]
        why, repair = "JAX was told not to", "unset JAX_PLATFORMS"
    else:
        why = f"{plugins[0]} {version(plugins[0])} is installed, but found no GPU"
        repair = (
            "it must have jaxlib's version, and the driver must be recent enough; "
            'pip install -U "jax[cuda13]"'
        )
    return f"{name}: not used, {why}\n{repair}"


def _nvidia(root: Path) -> str | None:
    """The name of a GPU; None if there is none."""
    if command := shutil.which("nvidia-smi"):
        try:
            told = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            pass
        else:
            if told.returncode == 0 and told.stdout.startswith("GPU"):
                return told.stdout.splitlines()[0].partition(" (UUID")[0]
    found = [*root.glob("proc/driver/nvidia/gpus/*"), *root.glob("dev/nvidia[0-9]*")]
    return f"NVIDIA GPU at {found[0]}" if found else None


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
