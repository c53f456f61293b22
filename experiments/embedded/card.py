"""The model card, written from the measured numbers."""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from circuits.prompts.emotions import EMOTIONS
from circuits.prompts.stories import Kind, Part, compose
from circuits.prompts.stories.heldout import events_of
from circuits.prompts.stories.world import CUES, FRAMES, NAMES, NEUTRAL_CUES, OBJECTS, PLACES
from embedded.training import Recipe

__all__ = ["write_card"]

_HEADER = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---

# Embedded model: whose emotion follows from which event?

A very small language model that reads very short stories and completes "… Tom felt" with one of 18 emotion words,
three for each of Ekman's six emotions. It exists to have circuits taken out of it: it loads in a second, runs on any
processor, and its training text is known completely. Everything here is made by `python
experiments/embedded_model.py`.
"""

_LIMITS = """## What it is not

* Not a model of human emotion, and no evidence about people. Which event goes with which emotion was decided by its
  authors; real events bring mixed, other or no emotions, and differ between persons and cultures.
* Not a general language model. It knows this micro-world, its {words} words and its sentence forms; other words are
  spelt in bytes that were never trained. Texts begin with an opener such as "One day" or a neutral sentence: a name
  as the very first token is unknown to it. In every sentence the person is named after the event, and a text holds one
  question: other orders were never trained. It is not to be used to judge, sort or monitor anybody.
* Not a test of reading in its *plain* kind: counting words solves that. What the other kinds need is seen beside the
  bag of words, and only there.
* A cue that was never trained is not understood; the held-out sets hold out combinations, not cues.

## Licence

Apache-2.0, model and texts.
"""


def write_card(
    path: Path, config: Any, recipe: Recipe, measured: Mapping[str, Any], answers: Mapping[str, Sequence[str]]
) -> None:
    """Write the card to ``path``."""
    sections = [
        _HEADER,
        _architecture(config, recipe, measured),
        _text(recipe, answers),
        _accuracy(measured),
        _confusion(measured),
        _LIMITS.format(words=config.vocab_size - 259),
    ]
    path.write_text("\n".join(sections), encoding="utf-8")


def _architecture(config: Any, recipe: Recipe, measured: Mapping[str, Any]) -> str:
    spent = measured["training"]
    return f"""## Model and training

* `LlamaForCausalLM`, unmodified: {config.num_hidden_layers} layers, width {config.hidden_size},
  {config.num_attention_heads} heads (RoPE), gated MLP {config.intermediate_size}, untied embeddings,
  {config.vocab_size} tokens, {measured["parameters"]:,} parameters, float32.
* Tokenizer: every word of the micro-world is one token (with its leading space), all other text is spelt in bytes, so
  every text survives encoding and decoding. A beginning token is prepended automatically, in training too.
* {spent["steps"]:,} steps of {recipe.batch} stories, each story fresh from the generator: {spent["tokens"] / 1e6:.1f}
  M tokens. Seed {spent["seed"]}.
* Muon (rate {recipe.muon_rate}, momentum 0.95) for the matrices of the blocks, AdamW (rate {recipe.learning_rate},
  betas {recipe.betas}) for embeddings, read-out and gains; weight decay {recipe.weight_decay} on the matrices;
  initial spread {recipe.initial_spread}; {recipe.warm_up} warm-up steps, then cosine; gradient norm clipped at 1.
* Loss: next token everywhere, the answer counted {recipe.answer_weight:g} times and averaged over the emotion's three words.
  {recipe.ask_both:.0%} of the two-person stories are asked about both persons: the story is read once, and the second
  question neither sees the first nor its answer (with the answer in sight, "the other one" would need no binding).
* Curriculum over the first {recipe.curriculum:.0%} of the steps: one frame, {recipe.first_names} names and no neutral
  sentences for {recipe.one_frame:.0%} of it, then frames grow to all {len(FRAMES)}, names to all {len(NAMES)} and neutral
  sentences to {recipe.fillers:.0%} of the gaps.
* {spent["wall_s"] / 60:.1f} minutes ({spent["processor_s"] / 60:.1f} processor minutes) on {spent["threads"]} threads
  of a two-core processor ({platform.machine()}), no accelerator; torch {torch.__version__}, transformers
  {transformers.__version__}. Same machine and versions, same weights.
* sha256 of `model.safetensors`: `{measured["sha256"]}`
"""


def _text(recipe: Recipe, answers: Mapping[str, Sequence[str]]) -> str:
    rng = random.Random(7)
    examples = "\n".join(
        f"| {kind} | {recipe.shares[kind]:.0%} | {compose(rng, kind).told(rng, answers)} |" for kind in Kind
    )
    counts = {part: len(events_of(EMOTIONS[0], part)) for part in Part}
    words = "\n".join(
        f"| {emotion} | {', '.join(answers[emotion])} | {', '.join(CUES[emotion][:4])}, … |" for emotion in EMOTIONS
    )
    return f"""## Training text

An event is cue + frame + object; only the cue carries an emotion, and names ({len(NAMES)}), objects ({len(OBJECTS)}),
places ({len(PLACES)}) and frames ({len(FRAMES)}) are shared by all six. Each emotion has {len(CUES[EMOTIONS[0]])}
cues of three words and {sum(counts.values()):,} events: {counts[Part.TRAIN]:,} are trained, {counts[Part.EVENT]:,}
are *held-out events* (combination never seen) and {counts[Part.PAIR]:,} belong to {counts[Part.PAIR] // len(FRAMES)}
*held-out pairs* (this cue and this object never seen together, in any frame). There are {len(NEUTRAL_CUES)} neutral
cues. No text names a feeling before the answer.

| kind | share | example |
|---|---|---|
{examples}

In *negation* the unreal event comes first or second, with equal shares.

| emotion | answers (drawn uniformly) | cues |
|---|---|---|
{words}
"""


def _accuracy(measured: Mapping[str, Any]) -> str:
    rows = []
    for name, row in measured["accuracy"].items():
        low, high = row["interval"]
        worst = min(row["per_emotion"], key=row["per_emotion"].get)
        rows.append(
            f"| {name} | {row['accuracy']:.3f} [{low:.3f}, {high:.3f}] | {worst} {row['per_emotion'][worst]:.3f} "
            f"| {row['bag_of_words']:.3f} | {row['n']:,} |"
        )
    return f"""## Accuracy on text it never saw

Six-way: the emotion whose three words have the highest mean logit at the read-out; 95% Wilson intervals; chance is
0.167. The bag of words is a logistic regression on word counts, trained on 6,000 training stories of the same kind.
Where two events are told, a guesser who knows both but not which counts is at 0.5. The recipe was chosen by watching
other stories of held-out events; held-out pairs had no part in choosing it. One model, one seed.

| kind, part | accuracy | weakest emotion | bag of words | n |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def _confusion(measured: Mapping[str, Any]) -> str:
    names = measured["emotions"]
    matrix = measured["accuracy"][f"{Kind.TWO_PERSON}, {Part.EVENT}"]["confusion"]
    body = "\n".join(f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(names, matrix, strict=True))
    return f"""### Two persons, held-out events: who is taken for what (rows: truth)

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{body}
"""
