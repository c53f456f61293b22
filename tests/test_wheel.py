"""The package works installed, from any directory, with the embedded model and the prompts inside the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

USE = """
import circuits
from pathlib import Path
where = Path(circuits.__file__).resolve()
prompts = circuits.read_prompts("microstories")
for name in ("situations", "first_person", "third_person", "explicit"):
    assert len(circuits.read_prompts(name)) == 504
assert len(circuits.read_prompts("microstories_explicit")) == len(prompts)
model = circuits.load("embedded", device="cpu")
few = prompts.where(prompts.scenarios < 6)
effects = circuits.measure(model, few, ["L0H0"])
print(where)
print(effects.table.shape[0], model.n_layers)
"""


@pytest.mark.wheel
@pytest.mark.slow
def test_wheel_holds_model_and_prompts_and_runs_elsewhere(tmp_path: Path) -> None:
    built = tmp_path / "dist"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = built.glob("emotion_circuits-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    for needed in ("data/embedded/model.safetensors", "data/embedded/MODEL_CARD.md", "data/microstories.jsonl",
                   "data/situations.jsonl", "data/answers.json", "data/emotion_words.txt"):  # fmt: skip
        assert f"circuits/{needed}" in names
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    where, numbers = done.stdout.strip().splitlines()
    assert Path(where).is_relative_to(site)
    assert numbers == "6 4"
