"""How to make a run again: the command line with every setting, and what to install for the same numbers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from circuits import shipped
from circuits.show.words import visible

__all__ = ["command", "requirements"]


def command(manifest: Mapping[str, Any]) -> str:
    """The command line that makes the run again, nothing left to defaults.

    Prompts that are no shipped set are read from the run's own ``prompts.jsonl`` and ``answers.json``: run it in the run's
    directory. A run of an earlier version does not say whether its prompts were a shipped set; their name then decides.
    """
    model, prompts, settings = manifest["model"], manifest["prompts"], manifest["settings"]
    shipped_set = prompts.get("shipped", prompts["name"] in shipped.PROMPT_SETS)
    words = ["circuits", "discover", "--model", model["name"]]
    words += (
        ["--prompts", prompts["name"]] if shipped_set else ["--prompts", "prompts.jsonl", "--answers", "answers.json"]
    )
    words += [
        "--device",
        model.get("device", "auto"),
        "--dtype",
        str(model.get("dtype", "float32")).removeprefix("torch."),
    ]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            words += [option, str(value)]
    return " ".join(shlex.quote(visible(word)) for word in (*words, "--out", "again"))


def requirements(manifest: Mapping[str, Any]) -> str:
    """What to install: this package's version from a checkout, and the libraries the numbers depend on.

    A local version (``+cpu``) names a build that no index offers under that name; it is left out.
    """
    found = {name: str(version).split("+")[0] for name, version in manifest["versions"].items()}
    own = found.pop("emotion-circuits", "")
    pins = " ".join(shlex.quote(visible(f"{name}=={version}")) for name, version in found.items())
    return f"# in a checkout of emotion-circuits {visible(own)}\npip install . {pins}"
