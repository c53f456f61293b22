"""A loaded model: its shapes, its weights by component, and what is known to hold of it.

:class:`Model` wraps a ``TransformerBridge`` (TransformerLens 4.3), which itself wraps the untouched Hugging Face
modules, and is the only handle other rooms get. Weights are read raw: nothing is folded or centred, because
zero-ablation changes with folding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits import jsontext
from circuits.errors import ComponentError, MeasurementError, UnsupportedModelError
from circuits.model.machine import Recent
from circuits.model.sites import Component, Half, Kind, State, head, neuron, parse, states, sublayer

__all__ = ["Capabilities", "Law", "Model", "Tokens"]

_TEXTS = 20_000
"""Texts whose tokens are remembered: every measurement encodes its prompts anew."""


@dataclass(frozen=True)
class Law:
    """One conservation law and how well it holds.

    ``error`` is the largest absolute deviation divided by the largest absolute value of the left-hand side.
    """

    name: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.error <= self.bound  # False for NaN as well


@dataclass(frozen=True)
class Capabilities:
    """What may be measured on this model, decided by checked laws rather than by family names."""

    sequential: bool
    """Attention writes before the MLP reads. False: parallel blocks; post-attention is *defined* as
    ``resid_pre + attn_out``, a state the model itself never computes."""
    post_norms: bool
    """A norm sits between a half-layer's sum and the stream (Gemma-2/3, OLMo-2); writes of heads and neurons are
    taken after it with its scale frozen to the clean run."""
    gated: bool
    """The MLP is gated: a neuron is the product of gate and value."""
    neurons: bool
    """Every MLP is one dense map of neurons. False: a mixture of experts, whose heads and half-layers can be measured."""
    laws: tuple[Law, ...]


@dataclass(frozen=True)
class Tokens:
    """Right-padded token ids of some texts.

    ``place`` classes every position: 0 the first token (an attention sink), 1 the rest, 2 the read-out token (the last
    real one), -1 padding. Replacement values live in these classes because texts of a scenario differ in length.
    """

    ids: Int[Tensor, "prompt pos"]
    mask: Int[Tensor, "prompt pos"]
    last: Int[Tensor, " prompt"]

    @cached_property
    def place(self) -> Int[Tensor, "prompt pos"]:
        place = torch.ones_like(self.ids)
        place[:, 0] = 0
        place[torch.arange(len(place), device=place.device), self.last] = 2
        return place.masked_fill(self.mask == 0, -1)

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def on(self, device: torch.device) -> Tokens:
        """The same on a device: layers of a large model may lie on several."""
        if self.ids.device == device:
            return self
        return Tokens(self.ids.to(device), self.mask.to(device), self.last.to(device))

    def at_readout(self, tensor: Tensor) -> Tensor:
        """``tensor`` [prompt, pos, ...] at each prompt's read-out position: [prompt, ...]."""
        # One index over both axes: several times faster than two.
        index = self._flat if self._flat.device == tensor.device else self._flat.to(tensor.device)
        return tensor.flatten(0, 1).index_select(0, index)

    @cached_property
    def _flat(self) -> Int[Tensor, " prompt"]:
        return torch.arange(len(self), device=self.last.device) * self.ids.shape[1] + self.last


class Model:
    """A decoder-only transformer, ready to be measured.

    Attributes:
        bridge: the ``TransformerBridge``; other rooms must not touch it.
        name: what the user asked for.
        capabilities: outcome of the laws checked at load.
    """

    def __init__(self, bridge: Any, name: str, capabilities: Capabilities) -> None:
        self.bridge = bridge
        self.name = name
        self.capabilities = capabilities
        cfg = bridge.cfg
        self.n_layers = int(cfg.n_layers)
        # Counted on the weights: configurations name these sizes differently, and some bridges guess.
        self.n_heads, self.d_head = (int(n) for n in bridge.blocks[0].attn.W_O.shape[:2])
        keys = getattr(bridge.blocks[0].attn, "W_K", None)
        self.n_kv_heads = self.n_heads if keys is None else int(keys.shape[0])
        self.d_mlp = int(bridge.blocks[0].mlp.W_out.shape[0]) if capabilities.neurons else 0
        self.d_model = int(cfg.d_model)
        self.n_ctx = int(cfg.n_ctx)
        self.vocab = int(cfg.d_vocab)
        parameter = next(bridge.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self.tokenizer = bridge.tokenizer
        self._fingerprint: tuple[tuple[tuple[int, int], ...], str] | None = None
        self._ids: Recent[str, list[int]] = Recent(_TEXTS)

    @cached_property
    def mlp_width(self) -> int:
        """Values a token has inside an MLP; of a mixture of experts, inside those it is sent to."""
        if self.capabilities.neurons:
            return self.d_mlp
        config = self.bridge.original_model.config.get_text_config()
        one = (
            getattr(config, "moe_intermediate_size", None)
            or getattr(config, "intermediate_size", None)
            or 4 * self.d_model
        )
        shared = getattr(config, "shared_expert_intermediate_size", None) or 0
        return int(one) * int(getattr(config, "num_experts_per_tok", 1) or 1) + int(shared)

    def __repr__(self) -> str:
        neurons = f"{self.d_mlp} neurons a layer" if self.capabilities.neurons else "experts"
        return (
            f"Model({self.name!r}, {self.n_layers} layers, {self.n_heads} heads, {neurons}, "
            f"d_model {self.d_model}, {self.dtype}, {self.device})"
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over parameters, configuration and the tokenizer's vocabulary: what the numbers depend on.

        Taken again when a weight was written to (torch counts the writes, but for those that go through ``.data``).
        """
        weights = self.bridge.original_model.state_dict().values()
        stamp = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in weights)
        if self._fingerprint is None or self._fingerprint[0] != stamp:
            self._fingerprint = stamp, self._digest()
        return self._fingerprint[1]

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for key, value in sorted(self.bridge.original_model.state_dict().items()):
            # The bridge wraps modules; its own infix is no property of the weights.
            digest.update(key.replace("._original_component", "").encode())
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        config = self.bridge.original_model.config.to_dict()
        # Names and versions say where a model came from, not what it computes.
        skipped = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
        digest.update(
            json.dumps({k: v for k, v in config.items() if k not in skipped}, sort_keys=True, default=str).encode()
        )
        for word, index in sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1]):
            digest.update(f"{index}:{word}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    # -- components and states ------------------------------------------------------------------------------------

    @property
    def states(self) -> tuple[State, ...]:
        """Both half-layer positions of every layer, in stream order."""
        return states(self.n_layers)

    @property
    def sublayers(self) -> tuple[Component, ...]:
        return tuple(sublayer(layer, half) for layer in range(self.n_layers) for half in Half)

    @cached_property
    def heads(self) -> tuple[Component, ...]:
        return tuple(head(layer, index) for layer in range(self.n_layers) for index in range(self.n_heads))

    @cached_property
    def neurons(self) -> tuple[Component, ...]:
        return tuple(neuron(layer, index) for layer in range(self.n_layers) for index in range(self.d_mlp))

    @cached_property
    def parts(self) -> frozenset[Component]:
        """All heads and neurons: what a circuit can consist of."""
        return frozenset((*self.heads, *self.neurons))

    def components(self, wanted: str | Iterable[str | Component]) -> tuple[Component, ...]:
        """The components meant by ``"sublayers"``, ``"heads"``, ``"neurons"``, or by an explicit list.

        Raises:
            ComponentError: a name is malformed, unknown to this model, or listed twice; or the list is empty.
        """
        families = {"sublayers": self.sublayers, "heads": self.heads, "neurons": self.neurons}
        if wanted == "neurons":
            self.require_neurons()
        if isinstance(wanted, str):
            if wanted not in families:
                raise ComponentError(
                    f"unknown components {wanted!r}; expected {', '.join(families)} or a list of names"
                )
            return families[wanted]
        found = tuple(item if isinstance(item, Component) else parse(item) for item in wanted)
        if not found:
            raise ComponentError("the list of components is empty; expected names such as L2H3 or L4N117")
        for component in found:
            self.require(component)
        if len(set(found)) < len(found):
            repeated = next(c for i, c in enumerate(found) if c in found[:i])
            raise ComponentError(f"the component {repeated} is listed twice; list each once")
        return found

    def require(self, component: Component) -> None:
        """Raise ComponentError unless the model has this component, UnsupportedModelError for neurons among experts."""
        if component.kind is Kind.NEURON:
            self.require_neurons()
        count = {Kind.HEAD: self.n_heads, Kind.NEURON: self.d_mlp}.get(component.kind)
        inside = 0 <= component.layer < self.n_layers and (count is None or 0 <= component.index < count)
        if not inside:
            raise ComponentError(
                f"{self.name} has no component {component}; expected layers 0-{self.n_layers - 1}, "
                f"heads 0-{self.n_heads - 1}, neurons 0-{self.d_mlp - 1}"
            )

    def require_neurons(self) -> None:
        """Raise UnsupportedModelError for a mixture of experts."""
        if not self.capabilities.neurons:
            raise UnsupportedModelError(
                f"{self.name} is a mixture of experts; neurons are not defined there: measure heads and half-layers, or use "
                "a dense model"
            )

    # -- weights ---------------------------------------------------------------------------------------------------

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        weight: Tensor = self.bridge.blocks[layer].attn.W_O.detach()
        return weight

    def W_out(self, layer: int) -> Float[Tensor, "neuron d_model"]:
        if not self.capabilities.neurons:
            return torch.zeros(0, self.d_model, device=self.device, dtype=self.dtype)
        weight: Tensor = self.bridge.blocks[layer].mlp.W_out.detach()
        return weight

    def bias(self, layer: int, half: Half) -> Float[Tensor, " d_model"]:
        """``b_O`` or ``b_out``; zeros where the architecture has none."""
        block = self.bridge.blocks[layer]
        value: Tensor | None = block.attn.b_O if half is Half.ATTN else getattr(block.mlp, "b_out", None)
        if value is None:
            return torch.zeros(self.d_model, device=self.W_O(layer).device, dtype=self.dtype)
        return value.detach().reshape(-1)

    def unembedding(self, ids: Sequence[int]) -> tuple[Float[Tensor, "d_model answer"], Float[Tensor, " answer"]]:
        """The target columns of ``W_U`` and ``b_U``: the only ones a six-way metric needs."""
        whole = self.bridge.unembed.W_U.detach()
        index = torch.tensor(list(ids), device=whole.device)
        weight = whole[:, index]
        bias = self.bridge.unembed.b_U
        if bias is None:
            return weight, torch.zeros(len(index), device=weight.device, dtype=self.dtype)
        return weight, bias.detach()[index]

    # -- text ------------------------------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Token ids of one text, with the special tokens this tokenizer itself puts in front, and none behind."""

        def ids() -> list[int]:
            found = list(self.tokenizer(text, verbose=False)["input_ids"])
            return found[: len(found) - self._closing]  # a closing token would become the read-out position

        return list(self._ids.get(text, ids))

    @cached_property
    def _closing(self) -> int:
        """How many special tokens the tokenizer itself puts behind a text."""
        sample = "a b"
        whole = list(self.tokenizer(sample)["input_ids"])
        bare = list(self.tokenizer(sample, add_special_tokens=False)["input_ids"])
        for before in range(len(whole) - len(bare) + 1):
            if whole[before : before + len(bare)] == bare:
                return len(whole) - before - len(bare)
        return 0

    @cached_property
    def whole_words(self) -> bool:
        """Whether the vocabulary is one of whole words: a word it lacks has no pieces seen in training.

        So are word-level tokenizers, and byte-pair ones without merges, which look a word up whole or spell it in bytes.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return False
        kind = jsontext.loads(backend.to_str())["model"]
        spelt = kind.get("type") == "BPE" and not kind.get("merges") and bool(kind.get("ignore_merges"))
        return spelt or kind.get("type") == "WordLevel"

    def encode(self, texts: Sequence[str], names: Sequence[str] | None = None) -> Tokens:
        """Right-padded ids of ``texts``; ``names`` (prompt ids) appear in errors.

        Raises:
            MeasurementError: no text, a text without tokens, or one longer than the context.
        """
        if not texts:
            raise MeasurementError("no text to encode; expected at least one")
        rows = [self.token_ids(text) for text in texts]
        for number, ids in enumerate(rows):
            who = repr(names[number]) if names is not None else f"text {number}"
            if not ids:
                raise MeasurementError(f"{who} has no tokens in {self.name}; expected a text the tokenizer knows")
            if len(ids) > self.n_ctx:
                raise MeasurementError(
                    f"{who} has {len(ids)} tokens; {self.name} reads at most {self.n_ctx}; shorten the text"
                )
        width = max(len(ids) for ids in rows)
        padded = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for number, ids in enumerate(rows):
            padded[number, : len(ids)] = torch.tensor(ids)
            mask[number, : len(ids)] = 1
        last = mask.sum(1) - 1
        return Tokens(padded.to(self.device), mask.to(self.device), last.to(self.device))
