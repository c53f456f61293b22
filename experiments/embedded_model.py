"""Question: can a language model small enough to be shipped learn whose emotion follows from which event?

Makes ``data/embedded`` (model, tokenizer, evaluation, card) and the three prompt sets of matched stories:

    python experiments/embedded_model.py                  # everything; processor only, fixed seed
    python experiments/embedded_model.py --prompts-only   # only data/microstories*.jsonl
    python experiments/embedded_model.py --steps 60 --out /tmp/trial

The same machine and versions give the same weights; their sha256 is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

# Waiting threads must not spin: two of them on a busy machine otherwise take many times as long as one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from embedded.card import write_card  # noqa: E402
from embedded.evaluation import evaluate  # noqa: E402
from embedded.saving import save_model  # noqa: E402
from embedded.tokenizer import build_tokenizer  # noqa: E402
from embedded.training import Progress, Recipe, build_model, train  # noqa: E402

from circuits.prompts.stories import lexicon_texts  # noqa: E402
from circuits.prompts.stories.microstories import (  # noqa: E402
    explicit_microstories,
    plain_microstories,
    two_person_microstories,
)


def main() -> None:
    """Write the prompt sets, train, evaluate, and write the card from what was measured."""
    arguments = _arguments()
    write_rows(ROOT / "data" / "microstories.jsonl", two_person_microstories())
    write_rows(ROOT / "data" / "microstories_plain.jsonl", plain_microstories())
    write_rows(ROOT / "data" / "microstories_explicit.jsonl", explicit_microstories())
    if arguments.prompts_only:
        return
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    recipe = replace(Recipe(), steps=arguments.steps or Recipe().steps, seed=arguments.seed)
    answers = json.loads((ROOT / "data" / "answers.json").read_text(encoding="utf-8"))
    tokenizer = build_tokenizer(lexicon_texts(), answers)
    model = build_model(tokenizer, recipe)
    processor = time.process_time()
    last = train(model, tokenizer, recipe, answers, report)
    cost = {"wall_s": round(last.seconds), "processor_s": round(time.process_time() - processor), "tokens": last.tokens}
    digest = save_model(model, tokenizer, arguments.out)
    print(f"sha256 of the weights: {digest}")
    measured = evaluate(model, tokenizer, recipe, answers, per_emotion=arguments.test_prompts)
    measured |= {"training": cost | {"threads": arguments.threads, "seed": recipe.seed, "steps": recipe.steps}}
    measured |= {"sha256": digest, "parameters": sum(p.numel() for p in model.parameters())}
    (arguments.out / "evaluation.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    write_card(arguments.out / "MODEL_CARD.md", model.config, recipe, measured, answers)
    for name, row in measured["accuracy"].items():
        print(f"{name:32} {row['accuracy']:.3f}  bag of words {row['bag_of_words']:.3f}  (n = {row['n']})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="for trials; default: the recipe's")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test-prompts", type=int, default=200, help="test prompts per emotion and kind")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "embedded")
    parser.add_argument("--prompts-only", action="store_true", help="write data/microstories*.jsonl and stop")
    return parser.parse_args()


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """One JSON object per line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def report(progress: Progress) -> None:
    """A line every hundred steps, with the time that is left."""
    if progress.step % 100 == 0 or progress.step == progress.steps:
        left = progress.seconds / progress.step * (progress.steps - progress.step)
        print(
            f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  answers {progress.answer_loss:.3f}  "
            f"{progress.tokens / progress.seconds:,.0f} tokens/s  {left / 60:.1f} min left",
            flush=True,
        )


if __name__ == "__main__":
    main()
