"""A deterministic generator of very short stories in which somebody feels one of the six emotions for a reason."""

from __future__ import annotations

from circuits.prompts.stories.grammar import Kind, Story, compose, lexicon_texts
from circuits.prompts.stories.heldout import Part, part_of

__all__ = ["Kind", "Part", "Story", "compose", "lexicon_texts", "part_of"]
