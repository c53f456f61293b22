"""Pictures of a run for a README or a paper: each emotion's circuit and the faithfulness figure, as SVG.

Needs Chrome or Chromium on the machine (plotly's picture export drives it).

Example: python experiments/pictures.py runs/embedded-microstories-1a2b3c4d docs
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import circuits
from circuits.cli import script
from circuits.runs.files import write_bytes


def main(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")] = Path("docs"),
) -> None:
    """Write <out>/circuit-<emotion>.svg and <out>/faithfulness.svg."""
    opened = circuits.open_run(run)
    found = {e: opened.circuit(e) for e in circuits.EMOTIONS}
    layers = int(opened.manifest["model"]["layers"])
    pictures = {f"circuit-{e}": circuits.figures.circuit_graph(c, layers) for e, c in found.items()}
    pictures["faithfulness"] = circuits.figures.faithfulness(found)
    for name, figure in pictures.items():
        write_bytes(out / f"{name}.svg", figure.to_image("svg", width=900))
        print(out / f"{name}.svg")


if __name__ == "__main__":
    script(main)
