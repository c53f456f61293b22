"""The tour notebook runs from top to bottom with this very Python, and what it promises to show is there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import circuits

ROOT = Path(circuits.__file__).parents[1]
NOTEBOOK = ROOT / "experiments" / "tour.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    return [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_it_is_kept_without_outputs_and_names_no_machine() -> None:
    code = cells("code")
    assert [c for c in code if c["outputs"] or c["execution_count"] is not None] == []
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/root/" not in text


def test_it_explains_each_step() -> None:
    headings = [line for c in cells("markdown") for line in "".join(c["source"]).splitlines() if line.startswith("#")]
    assert len(headings) == 9
    assert all(len("".join(c["source"])) < 1000 for c in cells("markdown"))


@pytest.mark.slow
@pytest.mark.timeout(900)
# The kernel's own process is not this one; what its client's libraries warn of is not ours.
@pytest.mark.filterwarnings("ignore")
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    kernel = tmp_path / "kernels" / "tour"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "tour", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
    monkeypatch.delenv("CIRCUITS_RUN", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=800, kernel_name="tour", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert [out for out in outputs if out.output_type == "error"] == []
    shown = [out.data for out in outputs if out.output_type in ("display_data", "execute_result")]
    figures = [data for data in shown if "application/vnd.plotly.v1+json" in data]
    wanted = [c for c in cells("code") if "".join(c["source"]).startswith("figures.")]
    assert len(figures) == len(wanted) == 9
    assert all(data["application/vnd.plotly.v1+json"]["data"] for data in figures)
    tables = [data for data in shown if "<table" in data.get("text/html", "") and data not in figures]
    assert len(tables) == 3
    said = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    assert "same direction, different circuits" in said
    assert "DiGraph" in said
    assert (tmp_path / "runs" / "tour" / "report.html").is_file()
