"""The whole walk on planted models: every node and edge that is there, and none that is not.

What is seen on the small size with default settings: ``chain`` and ``shared_head`` are recovered exactly for every emotion
and seed tried.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import circuits
from circuits.model.planted import planted
from circuits.prompts.emotions import EMOTIONS
from circuits.settings import Settings

QUICK = Settings(random_circuits=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_every_node_and_edge_is_found_and_no_other(kind, seed, tmp_path: Path):
    made = planted(kind, seed=seed)
    run = circuits.discover(made.model, made.prompts, QUICK, tmp_path / "run")
    for e in EMOTIONS:
        circuit, truth = run.circuit(e), made.by_emotion[e]
        assert circuit.names == truth.nodes, e
        assert set(circuit.to_networkx().edges) == truth.edges, e
        assert circuit.judgement["reached"] is True
        assert circuit.judgement["accuracy"] == 1
        assert all(node.verified for node in circuit.nodes)
        # Its own effect is far above any shadow of the others (1/25 of it) and of noise.
        assert min(node.low for node in circuit.nodes) > 2
        assert circuit.judgement["faithfulness"] > 0.75
        assert max(circuit.judgement["random"]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_nothing_is_found_where_nothing_is(seed, tmp_path: Path):
    made = planted("null", seed=seed)
    run = circuits.discover(made.model, made.prompts, QUICK, tmp_path / "run")
    for e in EMOTIONS:
        circuit = run.circuit(e)
        assert circuit.names == frozenset(), (e, circuit.names)
        assert circuit.edges == ()
        assert circuit.judgement["undefined"]
    table = run.effects.table
    total = table[table.method.isin(["exact", "gradient"])]
    print(seed, {k: ((x.q < 0.05).mean(), (x.p < 0.05).mean()) for k, x in total.groupby(["method", "kind"])})
    heads = total[total.kind.isin(["head", "attn", "mlp"])]
    assert (heads.q < 0.05).mean() < 0.02
