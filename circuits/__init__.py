"""Find, prove and draw the circuits that carry emotion inside language models, at half-layer grain.

Names are imported when first used: reading a run or asking for help must not wait for the numerical stack.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Two spinning OpenMP threads on a busy machine are ten times slower than two waiting ones. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Ablation": "circuits.effects.kinds",
    "Circuit": "circuits.circuit.graph",
    "CircuitsError": "circuits.errors",
    "Component": "circuits.model.sites",
    "Directions": "circuits.directions.vectors",
    "EMOTIONS": "circuits.prompts.emotions",
    "Effects": "circuits.effects.table",
    "Emotion": "circuits.prompts.emotions",
    "Live": "circuits.live",
    "Method": "circuits.effects.kinds",
    "Model": "circuits.model.anatomy",
    "Planted": "circuits.model.planted",
    "Positions": "circuits.effects.kinds",
    "Prompts": "circuits.prompts.datasets",
    "Run": "circuits.runs.directory",
    "Settings": "circuits.settings",
    "Certified": "circuits.effects.certify",
    "Sweep": "circuits.runs.sweep",
    "capture": "circuits.model.reading",
    "certify": "circuits.effects.certify",
    "contrast": "circuits.directions.estimators",
    "discover": "circuits.walk",
    "explore": "circuits.exploring",
    "estimate_directions": "circuits.directions.estimators",
    "figures": "circuits.show.figures",
    "grand_mean": "circuits.directions.estimators",
    "load": "circuits.model.door",
    "measure": "circuits.effects.measure",
    "measure_positions": "circuits.effects.measure",
    "open_run": "circuits.runs.directory",
    "open_sweep": "circuits.runs.sweep",
    "planted": "circuits.model.planted",
    "probe": "circuits.directions.estimators",
    "read_circuit": "circuits.runs.sides",
    "read_prompts": "circuits.prompts.datasets",
    "allocate": "circuits.compare.wang.allocation",
    "dose_response": "circuits.compare.dose",
    "half_layers": "circuits.compare.halves",
    "head_importance": "circuits.compare.wang.contributions",
    "influence_slope": "circuits.compare.wang.influence",
    "neuron_contributions": "circuits.compare.wang.contributions",
    "same_effect": "circuits.compare.effect",
    "several_mechanisms": "circuits.compare.mechanisms",
    "sublayer_influence": "circuits.compare.wang.influence",
    "wang_circuit": "circuits.compare.wang.circuit",
    "sweep": "circuits.runs.sweep",
    "testing": "circuits.testing",
    "validate_prompts": "circuits.prompts.validation",
}

_MODULES = frozenset({"figures", "testing"})

__all__ = [
    "EMOTIONS",
    "Ablation",
    "Certified",
    "Circuit",
    "CircuitsError",
    "Component",
    "Directions",
    "Effects",
    "Emotion",
    "Live",
    "Method",
    "Model",
    "Planted",
    "Positions",
    "Prompts",
    "Run",
    "Settings",
    "Sweep",
    "__version__",
    "allocate",
    "capture",
    "certify",
    "contrast",
    "discover",
    "dose_response",
    "estimate_directions",
    "explore",
    "figures",
    "grand_mean",
    "half_layers",
    "head_importance",
    "influence_slope",
    "load",
    "measure",
    "measure_positions",
    "neuron_contributions",
    "open_run",
    "open_sweep",
    "planted",
    "probe",
    "read_circuit",
    "read_prompts",
    "same_effect",
    "several_mechanisms",
    "sublayer_influence",
    "sweep",
    "testing",
    "validate_prompts",
    "wang_circuit",
]

if TYPE_CHECKING:
    from circuits import testing
    from circuits.circuit.graph import Circuit
    from circuits.compare.dose import dose_response
    from circuits.compare.effect import same_effect
    from circuits.compare.halves import half_layers
    from circuits.compare.mechanisms import several_mechanisms
    from circuits.compare.wang.allocation import allocate
    from circuits.compare.wang.circuit import wang_circuit
    from circuits.compare.wang.contributions import head_importance, neuron_contributions
    from circuits.compare.wang.influence import influence_slope, sublayer_influence
    from circuits.directions.estimators import contrast, estimate_directions, grand_mean, probe
    from circuits.directions.vectors import Directions
    from circuits.effects.certify import Certified, certify
    from circuits.effects.kinds import Ablation, Method, Positions
    from circuits.effects.measure import measure, measure_positions
    from circuits.effects.table import Effects
    from circuits.errors import CircuitsError
    from circuits.exploring import explore
    from circuits.live import Live
    from circuits.model.anatomy import Model
    from circuits.model.door import load
    from circuits.model.planted import Planted, planted
    from circuits.model.reading import capture
    from circuits.model.sites import Component
    from circuits.prompts.datasets import Prompts, read_prompts
    from circuits.prompts.emotions import EMOTIONS, Emotion
    from circuits.prompts.validation import validate_prompts
    from circuits.runs.directory import Run, open_run
    from circuits.runs.sides import read_circuit
    from circuits.runs.sweep import Sweep, open_sweep, sweep
    from circuits.settings import Settings
    from circuits.show import figures
    from circuits.walk import discover


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(home)
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
