"""Set functions that stand for models: what a circuit does is a formula, so the true circuit is known without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from conftest import tiny_rows
from families import ANSWERS

from circuits.circuit.discovery import Case, Measured
from circuits.circuit.evaluation import Bench
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.table import Effects
from circuits.model.sites import Component, head, neuron
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

Rule = Callable[[Callable[[str], bool]], float]
"""From "is it there?" to the metric."""


class Game(Bench):
    """A bench whose metric is a rule of what is kept, times the strength of each scenario, plus noise of single components."""

    operations = 1  # a run costs next to nothing

    def __init__(self, rule: Rule, components: Sequence[Component], *, n: int = 16, noise: float = 0.1, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.rule, self.components, self.emotion = rule, tuple(components), EMOTIONS[0]
        self.texts, self.asked = (), 0
        self.strength = rng.uniform(0.8, 1.2, n)
        self.pushes = {c: noise * rng.normal(size=n) for c in components}
        self.whole, self.empty = self._one(frozenset(components)), self._one(frozenset())

    def _one(self, kept) -> np.ndarray:
        names = {c.name for c in kept}
        noise = sum((self.pushes[c] for c in kept), np.zeros(len(self.strength)))
        return self.rule(names.__contains__) * self.strength + noise

    def metrics(self, kept) -> np.ndarray:
        self.asked += len(kept)
        return np.stack([self._one(frozenset(some)) for some in kept])


class Known(Measured):
    """Exact effects by the rule."""

    def __init__(self, game: Game) -> None:
        self.game, self.known = game, {}

    @property
    def components(self) -> tuple[Component, ...]:
        return self.game.components

    def of(self, method: Method) -> Effects:
        if method not in self.known:
            self.known[method] = self._made()
        return self.known[method]

    def _made(self) -> Effects:
        game, everything = self.game, frozenset(self.game.components)
        prompts = Prompts.of(tiny_rows(len(game.strength)), name="game", answers=ANSWERS)
        values = np.zeros((len(game.components), len(prompts), 6), dtype=np.float32)
        own = np.flatnonzero(prompts.emotions == game.emotion.column)
        for i, c in enumerate(game.components):
            values[i, own, game.emotion.column] = game.whole - game._one(everything - {c})
        clean = np.ones((len(prompts), 6), dtype=np.float32)
        return Effects(
            components=game.components, prompts=prompts, values=values, clean=clean,
            methods=(Method.EXACT,) * len(game.components), ablation=Ablation.MEAN_SCENARIO, positions=Positions.ALL,
            answers=dict.fromkeys(EMOTIONS, (0,)),
        )  # fmt: skip

    def forwards(self, method: Method) -> float:
        return float(len(self.game.components))


BOARD = (
    *(head(layer, i) for layer in range(3) for i in range(4)),
    *(neuron(layer, i) for layer in range(3) for i in range(8)),
)


def played(rule: Rule, *, seed: int = 0, noise: float = 0.1, n: int = 16) -> Case:
    """A case of one emotion for a rule on 12 heads and 24 neurons."""
    game = Game(rule, BOARD, n=n, noise=noise, seed=seed)
    return Case(game, Known(game))
