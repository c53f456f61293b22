"""Claims about directions: where emotion is decodable, which emotions lie close, which half-layer turns a direction."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from circuits.circuit.estimates import Estimate, estimate
from circuits.compare.claims import Claim, claim, undecided
from circuits.compare.contexts import Deviations
from circuits.compare.halves import HalfLayers
from circuits.directions.decoding import Decodability, across, within
from circuits.prompts.emotions import EMOTIONS, emotion
from ledger.study import Study

__all__ = ["decodable", "geometry", "turning"]

WANG = "Wang et al. 2025 (arXiv 2510.11328)"
CLOSE = (("anger", "disgust"), ("sadness", "fear"))
APART = ("happiness", "surprise")


def decodable(study: Study) -> list[Claim]:
    """Emotion is decodable at layer 0: where its words are said, from there to where they are not, and where they are not."""
    here, there = study.readings(study.prompts), None
    explicit = study.matched("explicit")
    conditions = [
        ("absent", "the emotion's words are absent", lambda: within(here, study.model.states, permutations=200))
    ]
    if explicit is not None:
        there = study.readings(explicit)
        said = there
        conditions = [
            ("within", "within one set that says the emotion's words", lambda: within(said, study.model.states)),
            (
                "across",
                "from a set that says the words to one that does not",
                lambda: across(said, here, study.model.states),
            ),
            *conditions,
        ]
    records = []
    for key, words, run in conditions:
        found = run()
        one, null = weakest(found, 1)
        records.append(claim(
            f"layer-0-{key}", f"emotion is decodable at layer 0 ({words})", WANG, model=study.model.name,
            prompts=study.prompts.name, found=one, bar=null, unit="AUROC",
            statistic=f"held-out AUROC at {study.model.states[1]} of the emotion that is decoded worst, one against the rest",
            null=f"95th percentile of the largest AUROC over states when emotions are permuted in scenarios: {null:.2f}",
            experiment="claims", figure="claims.html",
        ))  # fmt: skip
    if explicit is None:
        text = "emotion is decodable at layer 0 where its words are said"
        why = f"there is no set with the emotion's words matched to {study.prompts.name} that the model can read"
        records += [
            undecided(f"layer-0-{key}", text, WANG, model=study.model.name, prompts=study.prompts.name,
                      statistic="held-out AUROC", reason=why, experiment="claims")
            for key in ("within", "across")
        ]  # fmt: skip
    return records


def weakest(found: Decodability, state: int) -> tuple[Estimate, float]:
    """The emotion furthest below its null's threshold (or least above), and that threshold."""
    worst = int((found.auroc[:, state] - found.threshold).argmin())
    values = (float(one[worst, state]) for one in (found.auroc, found.low, found.high))
    return Estimate(*values, found.n), float(found.threshold[worst])


def geometry(study: Study) -> list[Claim]:
    """Which emotions' directions lie close at mid-depth."""
    place = study.middle
    six = np.stack([Deviations.of(study.readings(study.prompts), e).values[:, place] for e in EMOTIONS])
    # Means of scenarios of all six vectors at once: [emotion, d_model, scenario].
    flat = np.moveaxis(six, 1, -1).reshape(-1, six.shape[1])
    shape = (len(EMOTIONS), six.shape[2])

    def cosines(means: np.ndarray) -> np.ndarray:
        vectors = means.reshape(-1, *shape)
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        result: np.ndarray = vectors @ vectors.transpose(0, 2, 1)
        return result

    pairs = list(combinations(range(len(EMOTIONS)), 2))
    close = [tuple(sorted((emotion(a).column, emotion(b).column))) for a, b in CLOSE]
    alone = {emotion(name).column for name in APART}

    def nearer(means: np.ndarray) -> np.ndarray:
        found = cosines(means)
        own = np.mean([found[:, a, b] for a, b in close], axis=0)
        rest: np.ndarray = own - np.max([found[:, a, b] for a, b in pairs if (a, b) not in close], axis=0)
        return rest

    def lonely(means: np.ndarray) -> np.ndarray:
        found = cosines(means)
        own = np.mean([found[:, a, b] for a, b in pairs if {a, b} & alone], axis=0)
        result: np.ndarray = own - np.mean([found[:, a, b] for a, b in pairs if not {a, b} & alone], axis=0)
        return result

    state = study.model.states[place]
    common = {"model": study.model.name, "prompts": study.prompts.name, "unit": "cosine", "experiment": "claims",
              "figure": "claims.html", "bar": 0.0,
              "null": "six centred directions have a mean cosine of -0.2 whatever they are; differences have 0"}  # fmt: skip
    return [
        claim(
            "closest-pairs", "anger–disgust and sadness–fear are the closest pairs of directions by mid-depth", WANG,
            statistic=f"mean cosine of the two pairs minus the largest of the other 13, at {state}",
            found=_boot(flat, nearer), **common,
        ),
        claim(
            "apart", "happiness and surprise stand apart by mid-depth", WANG, above=False,
            statistic=f"mean cosine of pairs with happiness or surprise minus mean of the other six pairs, at {state}",
            found=_boot(flat, lonely), **common,
        ),
    ]  # fmt: skip


def _boot(flat: np.ndarray, statistic: object) -> Estimate:
    return estimate(flat, statistic)  # type: ignore[arg-type]


def turning(study: Study, halves: HalfLayers) -> list[Claim]:
    """From mid-depth on attention hardly turns the direction and the MLP does."""
    table = halves.table
    late = table[(table["quantity"] == "rotation") & (table["layer"] >= study.model.n_layers // 2)]
    parts = {half: late[late["half"] == half] for half in ("attn", "mlp")}
    text = "from mid-depth on attention hardly turns the direction and the MLP does"
    common = {"model": study.model.name, "prompts": f"{study.prompts.name}, test", "experiment": "claims"}
    firm = {half: rows[["value", "low", "high"]].dropna() for half, rows in parts.items()}
    if any(rows.empty for rows in firm.values()):
        why = "no half-layer's angle is told from noise; more scenarios, or a later half, would be"
        return [undecided("turning", text, WANG, statistic="angle by half-layer", reason=why, **common)]
    attn, mlp = (firm[half].mean() for half in ("attn", "mlp"))
    # The intervals of rows are of one sample: their mean ends are those of a mean that varies as one, the widest there is.
    found = Estimate(
        mlp["value"] - attn["value"], mlp["low"] - attn["high"], mlp["high"] - attn["low"], int(late["n"].min())
    )
    virtual = (
        "" if halves.sequential else "in parallel blocks the state between the halves is virtual: no such order exists"
    )
    return [claim(
        "turning", text, WANG, found=found, bar=0.0, unit="degrees", doubt=virtual,
        statistic=f"mean angle by the MLP ({mlp['value']:.1f}°) minus that by attention ({attn['value']:.1f}°), "
        f"layers {study.model.n_layers // 2} and later, six emotions, corrected for noise; interval as if all varied as one",
        figure="claims.html", **common,
    )]  # fmt: skip
