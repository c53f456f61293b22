"""Memory at the peak of each sweep, in a process of its own: memory that was taken once is not given back."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from circuits.errors import MeasurementError

__all__ = ["peak_now", "peaks"]

_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_now() -> int:
    """The most memory [bytes] this process ever had.

    Not ``ru_maxrss`` where there is another way: on Linux a child inherits its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def peaks(script: str, shape: str, threads: int) -> dict[str, int]:
    """Peaks [bytes] of one shape: ``ready`` (model loaded, batch ready), then each sweep, in the order they are run."""
    words = [sys.executable, script, "--memory-of", shape, "--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"the memory of shape {shape} was not measured: {done.stderr[-500:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
