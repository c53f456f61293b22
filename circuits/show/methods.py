"""How a run was made: methods, exact settings, versions, and the command line that makes it again; as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from circuits.show.page import datum
from circuits.show.repeat import command, requirements
from circuits.show.words import duration, screened

__all__ = ["methods"]

_MEANINGS = {
    "ablation": "what an ablated activation is replaced by",
    "positions": "where it is replaced",
    "verify": "neurons measured exactly, an emotion, at least",
    "audit": "further neurons measured exactly, to bound how many were missed",
    "target": "faithfulness on select a circuit must reach",
    "alpha": "largest q-value of a component that may join a circuit",
    "method": "how circuits are found",
    "patience": "length of the search, in multiples of measuring what is tried once; None, a few seconds an emotion",
    "random_circuits": "matched random circuits beside each circuit",
    "thorough": "completeness, minimality and all random circuits as well",
    "edge_share": "smallest edge kept, as a share of the strongest into the same node",
    "seed": "of the random circuits",
}


def methods(manifest: Mapping[str, Any]) -> str:
    """The section as HTML."""
    seconds = manifest["seconds"]
    settings = {k: f"{v}: {_MEANINGS[k]}" if k in _MEANINGS else v for k, v in manifest["settings"].items()}
    key = manifest.get("key")
    same = f" A run made again has the key {datum(key)}." if key else ""
    return (
        "<p>Directions come from the fit split, circuits are chosen on select, every number above is from test. Heads and "
        "half-layers are measured exactly. A circuit's faithfulness is (m(C) − m(∅)) / (m(M) − m(∅)), m the mean logit "
        "difference of the emotion over its texts, everything outside C ablated. Edges are measured exactly, by path "
        f"patching: what the receiver alone makes of the change. {datum(screened(manifest['screen']), 1000)}</p>"
        "<h3 id=repeat>How to repeat it</h3>"
        f"<pre>{escape(requirements(manifest))}</pre><pre>{escape(command(manifest))}</pre>"
        "<p class=note>A model given by a path is looked for there again. Prompts that are no shipped set lie in the run's "
        "directory, where the command is then to be run. The key is the hash of model, prompts, settings, versions and this "
        f"package's source.{same} Another processor may differ in the last digits.</p>"
        f"<h3>Settings</h3>{_listed(settings)}"
        f"<h3>Versions</h3>{_listed({**manifest['versions'], **manifest.get('machine', {})})}"
        f"<h3>Model</h3>{_listed(manifest['model'])}<h3>Prompts</h3>{_listed(manifest['prompts'])}"
        f"<h3>Answer tokens</h3>{_listed(manifest['answers'])}"
        f"<h3>Arithmetic</h3>{_listed(manifest['engine'])}"
        f"<h3>Time</h3><p>{duration(sum(seconds.values()))} in all.</p>"
        f"{_listed({k: f'{v:.3g} s' for k, v in seconds.items()})}"
    )


def _listed(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{datum(k)}</dt><dd>{datum(_value(v), 400)}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
