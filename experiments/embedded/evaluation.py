"""How well a model names the asked person's emotion, kind by kind, beside a bag of words.

Six-way: the emotion whose answer words have the highest mean logit at the read-out token. The kinds are never pooled:
*plain* is solved by the words alone, and only the distance to the bag of words in the other three says that a model
reads stories.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.prompts.emotions import EMOTIONS
from circuits.prompts.stories import Kind, Part, Story, compose
from embedded.training import Recipe

__all__ = ["evaluate", "heldout_stories", "predictions", "wilson"]

_BAG_STORIES = 6000
_SEED = 101


def evaluate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    answers: Mapping[str, Sequence[str]],
    *,
    per_emotion: int = 200,
) -> dict[str, Any]:
    """Accuracy with 95% intervals, per emotion, and confusion, for each kind and each held-out part."""
    table: dict[str, Any] = {}
    for kind in Kind:
        bag = bag_of_words(kind, recipe)
        for part in (Part.EVENT, Part.PAIR):
            stories = heldout_stories(kind, part, per_emotion, _SEED)
            prompts = [story.prompt for story in stories]
            table[f"{kind}, {part}"] = _score(
                stories, predictions(model, tokenizer, prompts, answers), bag.predict(prompts)
            )
    return {"emotions": [str(emotion) for emotion in EMOTIONS], "accuracy": table}


def _score(stories: Sequence[Story], guessed: NDArray[np.int64], bag_guessed: NDArray[np.int64]) -> dict[str, Any]:
    truth = np.array([EMOTIONS.index(story.emotion) for story in stories])
    right = guessed == truth
    confusion = np.zeros((len(EMOTIONS), len(EMOTIONS)), dtype=np.int64)
    np.add.at(confusion, (truth, guessed), 1)
    return {
        "n": len(stories),
        "accuracy": round(float(right.mean()), 4),
        "interval": wilson(int(right.sum()), len(stories)),
        "per_emotion": {str(e): round(float(right[truth == i].mean()), 4) for i, e in enumerate(EMOTIONS)},
        "bag_of_words": round(float((bag_guessed == truth).mean()), 4),
        "confusion": confusion.tolist(),
    }


def heldout_stories(kind: Kind, part: Part, per_emotion: int, seed: int) -> list[Story]:
    """Stories of one kind out of one part, as many for each emotion, with one question each."""
    rng = random.Random(f"{kind}/{part}/{seed}")
    return [compose(rng, kind, part, emotion=emotion) for emotion in EMOTIONS for _ in range(per_emotion)]


def bag_of_words(kind: Kind, recipe: Recipe) -> Pipeline:
    """Logistic regression on word counts, trained on training stories of the same kind."""
    rng = random.Random(f"bag/{kind}/{recipe.seed}")
    stories = [compose(rng, kind, fillers=recipe.fillers) for _ in range(_BAG_STORIES)]
    bag = make_pipeline(CountVectorizer(lowercase=False), LogisticRegression(max_iter=1000))
    return bag.fit([story.prompt for story in stories], [EMOTIONS.index(story.emotion) for story in stories])


def answer_tokens(tokenizer: PreTrainedTokenizerFast, answers: Mapping[str, Sequence[str]]) -> Tensor:
    """Token ids ``[emotion, word]`` of the answer words with their leading space."""
    ids = [[tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in answers[e]] for e in EMOTIONS]
    return torch.tensor(ids).squeeze(-1)


@torch.no_grad()
def predictions(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    answers: Mapping[str, Sequence[str]],
) -> NDArray[np.int64]:
    """For each prompt the index of the emotion with the highest mean answer logit at the last token."""
    words = answer_tokens(tokenizer, answers)
    guessed = np.empty(len(prompts), dtype=np.int64)
    rows = tokenizer(list(prompts))["input_ids"]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), 128):
        chosen = order[start : start + 128]
        longest = max(len(rows[row]) for row in chosen)
        batch = torch.tensor([rows[row] + [tokenizer.pad_token_id] * (longest - len(rows[row])) for row in chosen])
        last = torch.tensor([len(rows[row]) - 1 for row in chosen])
        logits = model(input_ids=batch, use_cache=False).logits[torch.arange(len(chosen)), last]
        guessed[chosen] = logits[:, words].mean(-1).argmax(-1).numpy()
    return guessed


def wilson(right: int, n: int) -> list[float]:
    """Wilson's 95% interval of a proportion (Wilson 1927): stays sensible near 1, where models mostly are."""
    z = 1.959964
    centre = (right + z * z / 2) / (n + z * z)
    half = z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    return [round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)]
