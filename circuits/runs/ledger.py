"""Records of claims beside the run they were tested on, one file an experiment; read together they are the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from circuits.compare.claims import Claim
from circuits.errors import RunError
from circuits.runs.files import read_json, write_json

__all__ = ["keep_claims", "read_claims"]

FORMAT = "emotion-circuits-claims/1"


def keep_claims(directory: Path, experiment: str, claims: Sequence[Claim]) -> Path:
    """Write an experiment's records to ``<directory>/<experiment>.claims.json``, in the place of those it wrote before."""
    path = directory / f"{experiment}.claims.json"
    write_json(path, {"format": FORMAT, "claims": [one.as_dict() for one in claims]})
    return path


def read_claims(directory: Path) -> list[Claim]:
    """All records of a directory, by experiment and as they were written.

    Raises:
        RunError: a file is no ledger, a record is malformed, or two have one key.
    """
    found: list[Claim] = []
    for path in sorted(directory.glob("*.claims.json")):
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("claims"), list):
            raise RunError(
                f"{path} is no file of claims (expected format {FORMAT}); remove it or run the experiment again"
            )
        try:
            found += [Claim.of_dict(one) for one in value["claims"]]
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
    keys = [one.key for one in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise RunError(f"the claim {twice[0]!r} is in {directory} twice; remove the older file")
    return found
