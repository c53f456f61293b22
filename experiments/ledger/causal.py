"""Claims about circuits: how many neurons carry an emotion, whether circuits explain directions, one mechanism or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.circuit.estimates import Estimate, estimate
from circuits.circuit.evaluation import Bench
from circuits.compare.claims import Claim, Standing, claim, undecided
from circuits.compare.mechanisms import Mechanisms, Verdict, several_mechanisms
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.effects.measure import measure
from circuits.effects.table import Effects
from circuits.errors import CircuitsError, MeasurementError
from circuits.model.sites import Component, Kind, parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run
from ledger.study import Study

__all__ = ["explained", "few_neurons", "holding", "one_mechanism", "shared"]

WANG = "Wang et al. 2025 (arXiv 2510.11328)"
HERE = "this project"
PER_LAYER = 4


def few_neurons(study: Study) -> list[Claim]:
    """A few neurons per layer carry most of the effect."""
    model, run = study.model, study.run
    ablation = Ablation(run.manifest["settings"]["ablation"])
    benches = Bench.every(Plan.of(model, study.prompts.split("test"), ablation))
    everything = frozenset((*model.heads, *model.neurons))
    rng = np.random.default_rng(0)
    worst: tuple[Estimate, str, float] | None = None
    unclear = []
    for e, bench in benches.items():
        top = top_neurons(study, e)
        chance = [_random_like(top, model.d_mlp, rng) for _ in range(20)]
        found = bench.metrics(
            [everything - top, everything - frozenset(model.neurons), *(everything - c for c in chance)]
        )
        lost = bench.whole - found
        if not estimate(lost[1]).sign > 0:
            unclear.append(str(e))  # a share of nothing, or of a gain, says nothing
            continue
        share = estimate(lost[:2], lambda means: means[:, 0] / means[:, 1])
        null = float(np.mean(lost[2:].mean(1)) / lost[1].mean())
        if worst is None or share.value < worst[0].value:
            worst = share, str(e), null
    text = f"a few neurons per layer (2-{PER_LAYER}) carry most of the neurons' effect"
    common: dict[str, Any] = {"model": model.name, "prompts": f"{study.prompts.name}, test", "experiment": "claims"}
    statistic = (
        f"loss without the {PER_LAYER} strongest neurons of every layer (chosen on select) over loss without any neuron"
    )
    if worst is None:
        reason = (
            "no emotion clearly loses anything without neurons; a model that tells emotions apart by them would decide"
        )
        return [undecided("few-neurons", text, WANG, statistic=statistic, reason=reason, **common)]
    return [claim(
        "few-neurons", text, WANG, found=worst[0], bar=0.5, unit="share",
        statistic=f"{statistic}, for the emotion it is least for ({worst[1]}{_left_out(unclear)})",
        null=f"{PER_LAYER} random neurons a layer: {worst[2]:.0%}", figure="claims.html", **common,
    )]  # fmt: skip


def _left_out(emotions: list[str]) -> str:
    return f"; left out, as nothing clear is lost there: {', '.join(emotions)}" if emotions else ""


def holding(run: Run) -> list[str]:
    """The emotions whose circuit keeps something of them on ``test``, by the whole interval of its faithfulness.

    Of an emotion without a circuit nothing is written or mediated by it, which says nothing about circuits.
    """
    found = []
    for e in EMOTIONS:
        circuit = run.circuit(e)
        low = circuit.judgement.get("faithfulness_low")
        if circuit.nodes and low is not None and low > 0:
            found.append(str(e))
    return found


def top_neurons(study: Study, e: Emotion) -> frozenset[Component]:
    """The strongest neurons of every layer by their mean effect on the emotion's own texts of ``select``."""
    stored = study.run.effects
    place = {name: i for i, name in enumerate(stored.prompt_ids)}
    rows = [place[r.id] for r in study.prompts.rows if r.emotion is e and r.split == "select" and r.id in place]
    mean = stored.values[:, rows, e.column].mean(1)
    by_layer: dict[int, list[tuple[float, Component]]] = {}
    for name, value in zip(stored.components, mean, strict=True):
        component = parse(name)
        if component.kind is Kind.NEURON:
            by_layer.setdefault(component.layer, []).append((float(value), component))
    return frozenset(c for some in by_layer.values() for _, c in sorted(some, key=lambda x: -x[0])[:PER_LAYER])


def _random_like(top: frozenset[Component], width: int, rng: np.random.Generator) -> frozenset[Component]:
    layers = {c.layer for c in top}
    return frozenset(
        Component(layer, Kind.NEURON, int(i)) for layer in layers for i in rng.choice(width, PER_LAYER, replace=False)
    )


def explained(study: Study) -> list[Claim]:
    """Circuits explain the direction, and ablating either does the same."""
    run, model = study.run, study.model
    common: dict[str, Any] = {"model": model.name, "prompts": f"{study.prompts.name}, test", "experiment": "claims"}
    last = model.states[-1].name
    parts = run.comparison.table
    here = parts[(parts["state"] == last) & (parts["role"] == "part")]
    held = holding(run)
    written = here[(here["item"] == "circuit") & here["emotion"].isin(held)].dropna(subset=["share"])
    texts = (
        "circuits write most of their emotion's direction",
        "ablating the circuit and taking the direction out from mid-depth on do the same",
    )
    if written.empty:
        reason = (
            "no emotion has a direction at the last state and a circuit that holds on test; one that has would decide"
        )
        return [
            undecided(key, text, HERE, statistic="share", reason=reason, **common)
            for key, text in zip(("written-share", "same-effect"), texts, strict=True)
        ]
    row = written.loc[written["share"].idxmin()]
    null = here[(here["item"] == "random circuits") & (here["emotion"] == row["emotion"])]["share"]
    records = [claim(
        "written-share", texts[0], HERE, found=Estimate(row["share"], row["low"], row["high"], int(row["n"])), bar=0.5,
        unit="share", statistic=f"share of the centred projection at {last} that the circuit writes, for the emotion it is "
        f"least for ({row['emotion']}; {len(held)} of six have a circuit that holds on test)",
        null=f"matched random circuits: {float(null.iloc[0]):.0%}" if len(null) else "", figure="../report.html", **common,
    )]  # fmt: skip
    effects = run.same_effect.table
    middle = model.states[study.middle].name
    both = effects[(effects["what"] == "mediated") & (effects["state"] == middle) & effects["onward"]]
    both = both[(both["out"] == "levelled") & both["emotion"].isin(held)].dropna(subset=["share"])
    if both.empty:
        reason = f"no emotion has both effects from {middle} on"
        return [*records, undecided("same-effect", texts[1], HERE, statistic="mediated share", reason=reason, **common)]
    row = both.loc[both["share"].idxmin()]
    rest = effects[(effects["emotion"] == row["emotion"]) & (effects["state"] == middle) & effects["onward"]]
    rest = rest[rest["out"] == "levelled"].set_index("what")["share"]
    return [*records, claim(
        "same-effect", texts[1], HERE, bar=0.8,
        found=Estimate(row["share"], row["share_low"], row["share_high"], int(row["n"])),
        unit="share", statistic=f"mediated share (a + b - c) / a from {middle} on, for the emotion it is least for "
        f"({row['emotion']}; {len(held)} of six have a circuit that holds on test)",
        null=f"random directions take {rest['random direction']:.0%} of a, random circuits {rest['random circuits']:.0%}",
        figure="../report.html", **common,
    )]  # fmt: skip


def one_mechanism(
    study: Study, key: str, text: str, source: str, a: Prompts | None, b: Prompts | None, names: tuple[str, str]
) -> list[Claim]:
    """One direction and one circuit in two sets of contexts, for every emotion."""
    common: dict[str, Any] = {"model": study.model.name, "prompts": " and ".join(names), "experiment": "claims"}
    statistic = f"emotions of six with the verdict {Verdict.SAME_CIRCUIT!s}"
    if a is None or b is None:
        why = "; ".join(study.unreadable.get(name, "") for name in names if name in study.unreadable)
        reason = f"{study.model.name} cannot read the texts ({why}); a model of open vocabulary would decide"
        return [undecided(key, text, source, statistic=statistic, reason=reason, **common)]
    found: dict[str, Mechanisms | str] = {}
    known: list[Effects] = []
    for e in EMOTIONS:
        study.watch(f"{names[0]} against {names[1]}", e.column, len(EMOTIONS))
        try:
            if not known:  # measured once for all six
                everything = (*study.model.heads, *study.model.neurons)
                known = [measure(study.model, some.split("select"), everything) for some in (a, b)]
            found[str(e)] = several_mechanisms(study.model, a, b, e, effects=(known[0], known[1]))
        except MeasurementError as error:
            found[str(e)] = str(error)
    return [of_verdicts(key, text, source, found, statistic, common)]


def of_verdicts(
    key: str, text: str, source: str, found: Mapping[str, Mechanisms | str], statistic: str, common: dict[str, Any]
) -> Claim:
    """The claim that one mechanism serves two sets of contexts, from the verdicts on the emotions."""
    verdicts = {e: one.verdict if isinstance(one, Mechanisms) else Verdict.NOT_DECIDABLE for e, one in found.items()}
    same = sum(v is Verdict.SAME_CIRCUIT for v in verdicts.values())
    other = [e for e, v in verdicts.items() if v not in (Verdict.SAME_CIRCUIT, Verdict.NOT_DECIDABLE)]
    standing, reasons = Standing.UNDECIDED, []
    # Verdicts are made to be wrong in at most 5%. One of six may well be by chance (26% of models, were they independent); two
    # hardly (3%), if not as rarely as that, since the six are of one model.
    if len(other) > 1:
        standing = Standing.CONTRADICTED
    elif other:
        reasons = [
            f"{other[0]} alone has evidence against it, and if each of six verdicts is wrong in 5%, one of them is in about "
            "a quarter of all models; evidence on a second emotion would decide"
        ]
    elif same == len(verdicts):
        standing = Standing.SUPPORTED
    reasons += [f"{e}: {v} ({one.reason if isinstance(one, Mechanisms) else one})"
               for (e, v), one in zip(verdicts.items(), found.values(), strict=True)]  # fmt: skip
    n = min((len(one.matching) for one in found.values() if isinstance(one, Mechanisms) and one.matching), default=0)
    return Claim(
        key, text, source, common["model"], common["prompts"], statistic, same / len(verdicts), None, None, "of six", n, None,
        "",
        "contexts split at random have one circuit: make verdicts", standing, "; ".join(reasons), "claims.html",
        common["experiment"],
    )  # fmt: skip


def shared(study: Study, results: Mapping[str, Any]) -> list[Claim]:
    """What make overlap found."""
    common: dict[str, Any] = {"model": study.model.name, "prompts": study.prompts.name, "experiment": "overlap"}
    text = "heads are shared between emotions more than neurons"
    if "heads_minus_neurons" not in results:
        return [undecided(
            "shared-heads", text, WANG, statistic="normalised likeness of heads minus that of neurons",
            reason="one of the two kinds could not be compared: circuits with heads and neurons would decide", **common,
        )]  # fmt: skip
    one = results["heads_minus_neurons"]
    return [claim(
        "shared-heads", text, WANG, found=Estimate(one["value"], one["low"], one["high"], one["n"]), bar=0.0, unit="share",
        statistic="likeness of two emotions' heads across halves of the scenarios, between chance (0) and split-half ceiling "
        "(1), minus the same of neurons",
        null="0 where both are shared alike", figure="overlap.html", **common,
    )]  # fmt: skip


def tried(what: str, run: Any, study: Study) -> list[Claim]:
    """Records, or one that says why there are none: a claim that cannot be tested must not hide the others."""
    try:
        result: list[Claim] = run()
    except CircuitsError as error:
        return [undecided(
            what, f"claims about {what}", HERE, model=study.model.name, prompts=study.prompts.name, statistic="none",
            reason=str(error), experiment="claims",
        )]  # fmt: skip
    return result
