"""Training the embedded model: a stock Llama on stories that are never repeated.

Next-token prediction over the whole story, with the answer tokens weighted: a story has one or two of them among about
forty tokens, and they are the only ones whose prediction needs binding. Two-person stories are asked about both persons.
The second question must not see the first one's answer, since the other person then simply feels the other emotion: both
are appended to one reading of the story and kept apart by the attention mask, so each is the story with a single question.
The curriculum starts with one sentence form, four names and no neutral sentences: every name is then seen often and
always at the same distance. Trials that began so bound persons to events between steps 300 and 400 and kept it as the rest
was added; trials that began with everything were still at chance after 700 steps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.prompts.stories import Kind, Story, compose
from circuits.prompts.stories.world import FRAMES, NAMES

__all__ = ["Progress", "Recipe", "build_model", "train"]

_BATCHES_PER_POOL = 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights, beside the generator and the software."""

    steps: int = 3000
    seed: int = 0
    batch: int = 64
    learning_rate: float = 2e-3
    muon_rate: float = 3e-3
    warm_up: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    answer_weight: float = 40.0
    fillers: float = 0.35
    curriculum: float = 0.5
    """Share of the steps after which every frame and name is in use and neutral sentences are as frequent as ``fillers``."""
    one_frame: float = 0.4
    """Share of the curriculum spent with a single frame, ``first_names`` names and no neutral sentences."""
    first_names: int = 4
    ask_both: float = 1.0
    shares: Mapping[Kind, float] = field(
        default_factory=lambda: {Kind.PLAIN: 0.08, Kind.TWO_PERSON: 0.7, Kind.REVERSAL: 0.07, Kind.NEGATION: 0.15}
    )
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int = 384
    initial_spread: float = 0.08


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known after a step."""

    step: int
    steps: int
    tokens: int
    loss: float
    answer_loss: float
    seconds: float


def build_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """An untrained model of the recipe's shape."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        initializer_range=recipe.initial_spread,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens ``[story, token]`` with what attention and loss need to know of their branches."""

    rows: Tensor
    positions: Tensor
    attention: Tensor
    """``[story, 1, query, key]``: causal, and the second question does not see the first one."""
    scored: Tensor
    """Which tokens are predicted: neither padding nor the first token of a second question."""


@dataclass(frozen=True, slots=True)
class Row:
    """A story with one or two questions: tokens, and where each question begins."""

    tokens: list[int]
    first: int
    second: int
    """Equal to the length if there is one question only."""


def _stories(recipe: Recipe, rng: random.Random, step: int) -> Iterator[Story]:
    """One pool of training stories, as far as the curriculum has come."""
    done = min(1.0, step / max(1.0, recipe.curriculum * recipe.steps))
    grown = max(0.0, (done - recipe.one_frame) / (1 - recipe.one_frame))
    fillers, frames = recipe.fillers * grown, 1 + int((len(FRAMES) - 1) * grown)
    names = recipe.first_names + int((len(NAMES) - recipe.first_names) * grown)
    kinds, shares = list(recipe.shares), list(recipe.shares.values())
    for kind in rng.choices(kinds, shares, k=recipe.batch * _BATCHES_PER_POOL):
        yield compose(rng, kind, fillers=fillers, ask_both=recipe.ask_both, frames=frames, names=names)


def _rows(
    tokenizer: PreTrainedTokenizerFast,
    stories: Sequence[Story],
    answers: Mapping[str, Sequence[str]],
    rng: random.Random,
) -> list[Row]:
    """Tokens of the stories, questions appended one after the other."""
    bodies = tokenizer([story.body for story in stories])["input_ids"]
    asked = [
        [f" {story.closing} {ask.name} felt {rng.choice(answers[ask.emotion])}." for ask in story.questions]
        for story in stories
    ]
    flat = iter(tokenizer([text for texts in asked for text in texts], add_special_tokens=False)["input_ids"])
    rows = []
    for body, texts in zip(bodies, asked, strict=True):
        branches = [[*next(flat), tokenizer.eos_token_id] for _ in texts]
        tokens = body + [token for branch in branches for token in branch]
        rows.append(Row(tokens, len(body), len(body) + len(branches[0])))
    return rows


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad rows on the right; a second question gets the positions and the view it would have if the first were not there."""
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [pad] * (longest - len(row.tokens)) for row in rows])
    first, second = (torch.tensor([[getattr(row, name)] for row in rows]) for name in ("first", "second"))
    place = torch.arange(longest)[None]
    later = place >= second
    between = (place >= first) & ~later
    hidden = later[:, :, None] & between[:, None, :]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return Batch(
        rows=tokens,
        positions=place - later * (second - first),
        attention=(causal & ~hidden)[:, None],
        scored=(tokens != pad) & (place != second),
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, answers: Mapping[str, Sequence[str]]
) -> Iterator[Batch]:
    """Batches for ever.

    Stories are drawn in pools, sorted by length and dealt into batches of nearly equal length, so little is spent on
    padding.
    """
    rng = random.Random(recipe.seed)
    step = 0
    while True:
        rows = _rows(tokenizer, list(_stories(recipe, rng, step)), answers, rng)
        rows.sort(key=lambda row: len(row.tokens))
        starts = list(range(0, len(rows), recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            yield collate(rows[start : start + recipe.batch], tokenizer.pad_token_id)
        step += len(starts)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    answers: Mapping[str, Sequence[str]],
    watch: Callable[[Progress], None],
) -> Progress:
    """Train in place; ``watch`` is called after every step."""
    optimizers = build_optimizers(model, recipe)
    ids = [
        [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words] for words in answers.values()
    ]
    synonyms = synonym_table(len(tokenizer), [[token for [token] in words] for words in ids])
    is_answer = (synonyms != torch.arange(len(tokenizer))[:, None]).any(1)
    model.train()
    stream = batches(tokenizer, recipe, answers)
    tokens, started = 0, time.monotonic()
    progress = Progress(0, recipe.steps, 0, float("nan"), float("nan"), 0.0)
    for step in range(1, recipe.steps + 1):
        batch = next(stream)
        targets, scored = batch.rows[:, 1:].flatten(), batch.scored[:, 1:].flatten()
        logits = model(
            input_ids=batch.rows[:, :-1],
            attention_mask=batch.attention[:, :, :-1, :-1],
            position_ids=batch.positions[:, :-1],
            use_cache=False,
        ).logits.flatten(0, 1)
        # The answer is a fair draw of three synonyms: averaging over them is the same loss with less noise.
        losses = -torch.log_softmax(logits, -1).gather(1, synonyms[targets]).mean(1)
        answer = is_answer[targets]
        weights = scored.float() * torch.where(answer, recipe.answer_weight, 1.0)
        loss = (losses * weights).sum() / weights.sum()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = rate(step, recipe)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
        tokens += int(batch.scored.sum())
        progress = Progress(
            step, recipe.steps, tokens, loss.item(), losses[answer].mean().item(), time.monotonic() - started
        )
        watch(progress)
    model.eval()
    return progress


def synonym_table(vocabulary: int, groups: Sequence[Sequence[int]]) -> Tensor:
    """For every token its synonyms ``[token, 3]``: the answer words of an emotion share theirs, all else stands for itself."""
    table = torch.arange(vocabulary)[:, None].repeat(1, max(len(group) for group in groups))
    for group in groups:
        table[list(group)] = torch.tensor(list(group))
    return table


def rate(step: int, recipe: Recipe) -> float:
    """Warm up linearly, then decay as a cosine to a fiftieth."""
    if step < recipe.warm_up:
        return step / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, read-out and norm gains.

    Muon orthogonalises each step, so that rare directions of a matrix (here: who did what) move as fast as frequent
    ones.
    """
    blocks = [p for p in model.model.layers.parameters() if p.ndim == 2]
    tables = [model.model.embed_tokens.weight, model.lm_head.weight]
    gains = [p for p in model.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW([*tables, *gains], lr=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0)
    muon = torch.optim.Muon(
        blocks, lr=recipe.muon_rate, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adam]
