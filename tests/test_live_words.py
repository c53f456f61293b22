"""Logit lenses, texts and their limits, and what belongs together: a run, its model, its prompts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS, make_model_directory
from test_live import KINDS, few_stories, of, run_of

import circuits
from circuits.errors import ComponentError, MeasurementError, PromptError, RunError, SettingsError
from circuits.live import LONGEST, Live
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.sites import parse
from circuits.model.vocabulary import Vocabulary
from circuits.prompts.datasets import Prompts, Split, read_prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run

ModelOf = Callable[[str], Model]


@pytest.fixture(scope="module")
def tiny() -> Prompts:
    return Prompts.of(tiny_rows(15), name="tiny", answers=ANSWERS)


@pytest.fixture(scope="module")
def embedded() -> Live:
    return of(circuits.load("embedded", device="cpu"), few_stories())


# -- the logit lens ----------------------------------------------------------------------------------------------------


def seen_at_the_end(model: Model, prompts: Prompts, *places: str) -> list[list[torch.Tensor]]:
    """Activations at the last token of each text, one text at a time."""
    found: list[list[torch.Tensor]] = [[] for _ in places]
    for text in prompts.texts:
        with torch.no_grad():
            cache = model.bridge.run_with_cache(torch.tensor([model.token_ids(text)]))[1]
        for values, place in zip(found, places, strict=True):
            values.append(cache[place][0, -1].double())
    return found


def through_the_norm(model: Model, write: torch.Tensor, finals: list[torch.Tensor]) -> np.ndarray:
    """Centre, the norm's weight, the mean of its scales, the unembedding, less the mean word: by the definition."""
    ln = model.bridge.ln_final.original_component
    weight = ln.weight.detach().double() + (1 if "Gemma" in type(ln).__name__ else 0)
    centred = "LayerNorm" in type(ln).__name__
    eps = getattr(ln, "variance_epsilon", getattr(ln, "eps", None))

    def centre(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean() if centred else x

    scale = float(np.mean([1 / float((centre(x).pow(2).mean() + eps) ** 0.5) for x in finals]))
    logits = (centre(write) * weight * scale) @ model.bridge.original_model.lm_head.weight.detach().double().T \
        if hasattr(model.bridge.original_model, "lm_head") \
        else (centre(write) * weight * scale) @ model.bridge.unembed.W_U.detach().double()  # fmt: skip
    result: np.ndarray = (logits - logits.mean()).numpy()
    return result


@pytest.mark.parametrize("family", KINDS)
def test_the_lens_is_the_naive_one(model_of: ModelOf, tiny: Prompts, family: str) -> None:
    model = model_of(family)
    live, test = of(model, tiny), tiny.split(Split.TEST)
    last = model.n_layers - 1
    post_norms = model.capabilities.post_norms
    places = ["blocks.1.attn.hook_z", f"blocks.{last}.hook_resid_post"]
    if post_norms:
        places += [f"blocks.1.{norm}.hook_{what}" for norm in ("ln1_post", "ln2_post") for what in ("in", "out")]
    z, finals, *norms = seen_at_the_end(model, test, *places)
    factors = [[out / came for came, out in zip(*pair, strict=True)] for pair in (norms[:2], norms[2:]) if pair]
    writes = [mix[2] @ model.W_O(1)[2].double() for mix in z]
    if post_norms:
        writes = [w * f for w, f in zip(writes, factors[0], strict=True)]
    means = [
        torch.stack([w for w, r in zip(writes, test.rows, strict=True) if r.emotion is e]).mean(0) for e in EMOTIONS
    ]
    e = Emotion.FEAR
    others = torch.stack([m for m, other in zip(means, EMOTIONS, strict=True) if other is not e]).mean(0)
    row = model.W_out(1)[3].double()
    wanted = {
        "L1H2": through_the_norm(model, means[e.column] - others, finals),
        "L1N3": through_the_norm(model, row * torch.stack(factors[1]).mean(0) if post_norms else row, finals),
    }
    for name, logits in wanted.items():
        found = live.lens(name, e, top=5)
        tolerance = 1e-4 * float(np.abs(logits).max())
        assert found.emotion is (e if name == "L1H2" else None)
        assert [w.logit for w in found.promoted] == pytest.approx(np.sort(logits)[::-1][:5].tolist(), abs=tolerance)
        assert [w.logit for w in found.suppressed] == pytest.approx(np.sort(logits)[:5].tolist(), abs=tolerance)
        for word in (*found.promoted, *found.suppressed):
            assert word.logit == pytest.approx(logits[word.id], abs=tolerance)
            # The unembedding has more rows than the tokenizer has words.
            assert word.word.strip() == (model.tokenizer.convert_ids_to_tokens(word.id) or f"[{word.id}]")
    head, neuron = live.lens("L1H2", e), live.lens("L1N3")
    assert all(w.low < w.logit < w.high for w in head.promoted)
    assert all(np.isnan(w.low) and w.as_dict()["high"] is None for w in neuron.promoted)
    assert (head.n, neuron.seconds > 0) == (test.n_scenarios, True)
    json.dumps(neuron.as_dict(), allow_nan=False)


def test_the_interval_of_a_heads_word_is_a_bootstrap_over_scenarios(model_of: ModelOf, tiny: Prompts) -> None:
    """As the general bootstrap has it, of one difference a scenario: scenarios here are complete."""
    from circuits.effects.statistics import bootstrap

    live, e = of(model_of("gpt2"), tiny), Emotion.ANGER
    found, kept = live.lens("L0H1", e, top=4), live._written
    logits = kept.vocabulary.promoted(kept.of_head(parse("L0H1")), kept.scale).double().numpy()
    ids = [w.id for w in (*found.promoted, *found.suppressed)]
    differences = []
    for scenario in np.unique(kept.scenarios):
        mine = kept.scenarios == scenario
        own = logits[mine & (kept.emotions == e.column)].mean(0)
        differences.append((own - logits[mine & (kept.emotions != e.column)].mean(0))[ids])
    low, high = bootstrap(np.array(differences))
    shown = (*found.promoted, *found.suppressed)
    assert [w.low for w in shown] == pytest.approx(low.tolist(), abs=1e-5)
    assert [w.high for w in shown] == pytest.approx(high.tolist(), abs=1e-5)


def test_writes_add_up_to_the_logits_of_the_model(embedded: Live) -> None:
    """All that is written, at the scale of one text, is that text's logits but for constants."""
    model = embedded.model
    vocabulary = Vocabulary(model)
    with torch.no_grad():
        logits, cache = model.bridge.run_with_cache(torch.tensor([model.token_ids(embedded.prompts.texts[0])]))
    final = cache[f"blocks.{model.n_layers - 1}.hook_resid_post"][0, -1]
    found = vocabulary.promoted(final, float(vocabulary.scale(final)))
    constant = vocabulary.logits(torch.zeros_like(final))
    wanted = logits[0, -1] - constant
    torch.testing.assert_close(found, wanted - wanted.mean(), atol=1e-4, rtol=1e-4)


def test_tokens_are_told_as_people_read_them(embedded: Live) -> None:
    words = Vocabulary(embedded.model)
    assert words.words(embedded.model.token_ids("Yesterday the radio")) == ["<|begin|>", "Yesterday", " the", " radio"]
    assert words.word(len(embedded.model.tokenizer)) == f"[{len(embedded.model.tokenizer)}]"
    assert all(words.words(range(len(words))))


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        ("Nora felt ", "ends in white space"),
        ("Nora \ud800 felt", "half a surrogate"),
        ("the " * LONGEST + "end", r"the text has \d+ tokens; expected 1 to \d+ .*shorten it"),
        ("x" * 10**6, "the text has 1000000 letters; expected at most 512 tokens"),
        (-1, "there is no row -1; expected 0 to 107"),
        (108, "there is no row 108"),
        (True, "True is no text"),
    ],
)
def test_texts_that_cannot_be_used_are_refused_by_name(embedded: Live, text: str | int, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        embedded.what_if(text, {"L0H0": 0.0})
    with pytest.raises(PromptError, match=message):
        embedded.look(text, "L0H0")


def test_the_context_bounds_a_text_where_it_is_shorter(model_of: ModelOf, tiny: Prompts) -> None:
    live = of(model_of("gpt2"), tiny)
    fits = " ".join(["the"] * (live.model.n_ctx - 1))
    assert len(live.look(fits, "L0H0").tokens) == live.model.n_ctx
    with pytest.raises(PromptError, match=r"the text has 33 tokens; expected 1 to 32 \(the context of .*\)"):
        live.look(f"{fits} the", "L0H0")
    bare = of(live.model, replace(tiny, rows=tuple(replace(r, text="felt") for r in tiny.rows)))
    with pytest.raises(MeasurementError, match="no text of 'tiny' has a token in the middle"):
        bare.what_if("the a ran", {"L0H0": 0.0})


def test_unknown_words_are_listed(embedded: Live, model_of: ModelOf, tiny: Prompts) -> None:
    assert embedded.what_if("Yesterday Zelda grumbled", {}).unknown == ("Zelda", "grumbled")
    assert embedded.what_if(0, {}).unknown == ()
    assert of(model_of("gpt2"), tiny).what_if("the zebra ran", {"L0H0": 0.0}).unknown == ("zebra",)


def test_unknown_pieces_of_other_tokenizers_are_listed(tmp_path: Path) -> None:
    """Where words are taken apart into pieces, the mark for the unknown tells."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from circuits.model.words import lost_words

    backend = Tokenizer(Unigram([("<unk>", 0.0), ("the", -1.0), ("ra", -2.0), ("n", -2.0)], unk_id=0))
    backend.pre_tokenizer = WhitespaceSplit()
    model = load(make_model_directory(tmp_path, "gpt2"), device="cpu")
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert not model.whole_words
    assert lost_words(model, "the ran") == ()
    assert lost_words(model, "the zzz ran \u2603") == ("zzz", "\u2603")


@pytest.mark.parametrize("name", ["L9H0", "L0H99", "L0N99999", "nothing", "", "L0H0<q>"])
def test_unknown_components_are_refused(embedded: Live, name: str) -> None:
    for ask in (
        lambda: embedded.what_if(0, {name: 0.0}),
        lambda: embedded.look(0, name),
        lambda: embedded.lens(name),
        lambda: embedded.selection("fear", [name]),
    ):
        with pytest.raises(ComponentError, match="component"):
            ask()


def test_half_layers_have_no_pattern_and_no_lens(embedded: Live) -> None:
    for ask in (lambda: embedded.look(0, "L0.attn"), lambda: embedded.lens("L0.mlp")):
        with pytest.raises(ComponentError, match="is a half-layer; expected a head"):
            ask()
    with pytest.raises(MeasurementError, match=r"L0\.mlp is a half-layer"):
        embedded.selection("fear", ["L0.mlp"])


def test_numbers_out_of_range_are_refused(embedded: Live) -> None:
    for factor in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(SettingsError, match=r"factor of L0H0 is .*; expected a finite number"):
            embedded.what_if(0, {"L0H0": factor})
    with pytest.raises(MeasurementError, match="NaN or infinite numbers with these factors"):
        embedded.what_if(0, {"L0.mlp": 1e38, "L1.mlp": 1e38})
    for top in (0, 10**6):
        with pytest.raises(SettingsError, match="number of next words"):
            embedded.what_if(0, {}, top=top)
        with pytest.raises(SettingsError, match="number of words"):
            embedded.lens("L0N0", top=top)
    for count in (0, 1001):
        with pytest.raises(SettingsError, match="number of random selections"):
            embedded.selection("fear", ["L0H0"], count=count)
    with pytest.raises(PromptError, match="unknown emotion 'joy'"):
        embedded.selection("joy", ["L0H0"])
    with pytest.raises(PromptError, match="unknown emotion 'joy'"):
        embedded.lens("L0H0", "joy")
    for names, message in (([], "empty"), (["L0H0", "L0H0"], "listed twice")):
        with pytest.raises(ComponentError, match=message):
            embedded.selection("fear", names)


# -- what belongs together ---------------------------------------------------------------------------------------------


def test_the_embedded_model_and_a_shipped_set_need_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = circuits.load("embedded", device="cpu"), read_prompts("microstories")
    (tmp_path / "microstories").write_text("not this file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    live = Live.of(run_of(model, prompts), device="cpu")
    assert live.model.name == "embedded"
    assert live.prompts.fingerprint == prompts.fingerprint


def altered(run: Run, part: str, **changes: object) -> Run:
    return Run(run.directory, {**run.manifest, part: {**run.manifest[part], **changes}})


def test_nothing_a_stranger_names_is_fetched(embedded: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("circuits.live.load", never)
    monkeypatch.setattr("circuits.live.read_prompts", never)
    for name in ("gpt2", "/etc", "../model", "Embedded", ""):
        with pytest.raises(RunError, match=r"not fetched by itself; name it: circuits explore RUN --model NAME"):
            Live.of(altered(embedded.run, "model", name=name))
    for name in ("mine", "/etc/passwd", "../microstories", ""):
        with pytest.raises(RunError, match=r"do not come with this package; name their file: .*--prompts FILE"):
            Live.of(altered(embedded.run, "prompts", name=name), embedded.model)


def test_another_model_or_other_prompts_are_refused(embedded: Live, model_of: ModelOf, tiny: Prompts) -> None:
    with pytest.raises(RunError, match=r"the model .* differ from those of the run .*--model NAME"):
        Live.of(embedded.run, model_of("gpt2"), embedded.prompts)
    with pytest.raises(RunError, match=r"the prompts 'tiny' .* differ from those of the run .*--prompts FILE"):
        Live.of(embedded.run, embedded.model, tiny)
    with pytest.raises(RunError, match="the prompts 'microstories'"):  # the whole set, of which the run has a part
        Live.of(embedded.run, embedded.model)
    with pytest.raises(RunError, match="the model 'embedded'"):
        Live.of(altered(embedded.run, "model", fingerprint=None), embedded.model)
    for setting, value in (("ablation", "nothing"), ("positions", None), ("ablation", ["mean"])):
        with pytest.raises(RunError, match=setting):
            Live.of(altered(embedded.run, "settings", **{setting: value}), embedded.model, embedded.prompts)
    with pytest.raises(RunError, match=r"expected torch\.float32 or float64"):
        Live.of(altered(embedded.run, "model", dtype="object"))


def test_many_threads_may_ask_at_once(embedded: Live) -> None:
    """Every answer is what it is alone; the model is left without a hook."""
    asked = [(row, name) for row in (0, 9) for name in ("L0H1", "L3N85")]
    alone = [embedded.what_if(row, {name: 0.0}).after for row, name in asked]
    looks = [embedded.look(row, name).as_dict() for row, name in asked]
    start = threading.Barrier(4)

    def ask(number: int) -> None:
        start.wait()
        for i in (*range(number, len(asked)), *range(number)):
            row, name = asked[i]
            assert embedded.what_if(row, {name: 0.0}).after == alone[i]
            assert {**embedded.look(row, name).as_dict(), "seconds": 0} == {**looks[i], "seconds": 0}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


def test_what_is_made_once_is_made_once(embedded: Live) -> None:
    embedded.warm()
    assert embedded.warm() < 0.05
    found = embedded.what_if("Yesterday the radio had been vandalised as Nora felt", {"L0H1": 0.0, "L1N3": 2.0})
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["factors"] == {"L0H1": 0.0, "L1N3": 2.0}
