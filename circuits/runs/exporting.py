"""A run's circuits in other formats, one file (or two tables) an emotion."""

from __future__ import annotations

from pathlib import Path

from circuits.circuit import formats, mib
from circuits.circuit.graph import Circuit
from circuits.errors import SettingsError
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.directory import Run
from circuits.runs.files import write_bytes

__all__ = ["FORMATS", "as_csv", "export", "keep_page"]

FORMATS = ("json", "graphml", "gexf", "mib", "csv")


def export(run: Run, kind: str, folder: Path) -> tuple[Path, ...]:
    """Write the six circuits into ``folder``; files of the same names are replaced.

    Raises:
        SettingsError: an unknown format.
        RunError: the folder cannot be written.
    """
    if kind not in FORMATS:
        raise SettingsError(f"format is {kind!r}; expected one of {', '.join(FORMATS)}")
    texts: dict[str, str] = {}
    for e in EMOTIONS:
        circuit = run.circuit(e)
        if kind == "csv":
            for name, text in as_csv(circuit).items():
                texts[f"{e}-{name}.csv"] = text
        elif kind == "mib":
            texts[f"{e}.mib.json"] = mib.to_mib(circuit, _cfg(run))
        else:
            write = {"json": formats.to_node_link, "graphml": formats.to_graphml, "gexf": formats.to_gexf}[kind]
            texts[f"{e}.{kind}"] = write(circuit)
    for name, text in texts.items():
        write_bytes(folder / name, text.encode("utf-8"))
    return tuple(folder / name for name in texts)


def as_csv(circuit: Circuit) -> dict[str, str]:
    """Both tables of a circuit as comma-separated text, ``nodes`` and ``edges``."""
    return {
        name: table.to_csv(None, index=False)
        for name, table in zip(("nodes", "edges"), formats.to_tables(circuit), strict=True)
    }


def keep_page(path: Path, html: str) -> None:
    """Keep a page under a name, whole or not at all."""
    write_bytes(path, html.encode("utf-8"))


def _cfg(run: Run) -> dict[str, object]:
    """The sizes MIB's tools build their graph from."""
    model = run.manifest["model"]
    cfg = {
        "n_layers": model["layers"],
        "n_heads": model["heads"],
        "parallel_attn_mlp": not model.get("sequential", True),
    }
    return cfg | ({"d_model": model["d_model"]} if "d_model" in model else {})
