"""The one door through which every model comes: ``load``.

The embedded model, a hub name, a local directory and a ready ``TransformerBridge`` all end in the same
:class:`~circuits.model.anatomy.Model`, whose conservation laws have been checked. Weights are read from safetensors
only (a pickle can run code) and a model's own Python code is never run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from circuits import jsontext, shipped
from circuits.errors import CircuitsError, ModelLoadError, UnsupportedModelError
from circuits.model.anatomy import Capabilities, Model
from circuits.model.laws import check, short_prompt
from circuits.model.machine import keep_memory
from circuits.model.sizes import experts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["EMBEDDED", "device_named", "load"]

EMBEDDED = "embedded"
"""Name of the model that comes with the package."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_RECURRENT = ("mamba", "rwkv", "recurrent", "jamba", "bamba", "zamba", "falcon_h1", "hyena", "lfm2", "xlstm", "retnet")
_PROBE_SECONDS = 3.0


def load(
    name_or_path_or_bridge: str | os.PathLike[str] | TransformerBridge,
    *,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | Mapping[str, str | int] | None = None,
) -> Model:
    """Load a decoder-only model and check its laws.

    Args:
        name_or_path_or_bridge: ``"embedded"``; a local directory in Hugging Face layout; a hub name such as ``"gpt2"``;
            or an existing ``TransformerBridge`` (any architecture it wraps, taken as it is, device and dtype included).
        device: ``"auto"`` (CUDA when there is one, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: ``"float32"`` (default; single-neuron effects need it), ``"float64"``, ``"bfloat16"``, ``"float16"``.
        device_map: for a model larger than one device, as Hugging Face's loader takes it: ``"auto"``, ``"balanced"``, or a
            mapping of modules to devices. Every layer is then measured where it lies; ``device`` is not looked at.

    Raises:
        ModelLoadError: nothing there, no network, no weights, pickled weights, NaN weights, unknown device or dtype.
        UnsupportedModelError: recurrent blocks, or not a decoder. (Of a mixture of experts heads and half-layers can be
            measured, not neurons.)
        LawError: the residual stream is not the sum of its writes.
    """
    keep_memory()
    if not isinstance(name_or_path_or_bridge, str | os.PathLike):
        return _examined(name_or_path_or_bridge, name=_bridge_name(name_or_path_or_bridge), reference=None)
    if dtype not in _DTYPES:
        raise ModelLoadError(f"unknown dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    target = device_named(device) if device_map is None else torch.device("cpu")
    name = str(name_or_path_or_bridge)
    if not name.strip():
        raise ModelLoadError("the model name is empty; expected 'embedded', a directory or a hub name such as 'gpt2'")
    location = str(shipped.path("embedded")) if name == EMBEDDED else _locate(name)
    with _quiet():
        original, tokenizer = _original(name, location, target, _DTYPES[dtype], device_map)
        tokens = short_prompt(int(original.config.get_text_config().vocab_size), original.device)
        with torch.no_grad():
            # Taken before anything is wrapped: afterwards the modules are no longer purely Hugging Face's.
            reference = original(tokens.ids, attention_mask=tokens.mask, use_cache=False).logits.clone()
        bridge = _wrapped(name, location, original, tokenizer, _DTYPES[dtype])
    return _examined(bridge, name=name, reference=reference)


def device_named(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...

    Raises:
        ModelLoadError: it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelLoadError(f"device {name!r} cannot be used ({reason}); expected auto, cpu, cuda or cuda:N") from None
    return device


def _locate(name: str) -> str:
    """A directory that can be read, or a hub name that can be reached; else an error within seconds."""
    path = Path(os.path.expanduser(name))
    # os.path answers False where pathlib raises, for a name too long to exist.
    if os.path.isdir(path):
        _require_files(path)
        return str(path)
    looks_like_path = name.startswith((".", "/", "~", os.sep)) or name.count("/") > 1 or os.path.exists(path)
    if looks_like_path:
        raise ModelLoadError(f"{name!r} is not a directory; expected one with config.json and *.safetensors")
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        raise ModelLoadError(
            f"{name!r} is neither a directory nor a possible hub name; expected 'embedded', a path or 'owner/name'"
        ) from None
    if cached:
        return name
    if constants.HF_HUB_OFFLINE:
        raise ModelLoadError(
            f"the model {name!r} is not a local directory nor in the local cache, and HF_HUB_OFFLINE is set; "
            "unset it, or give 'embedded' or a directory with config.json and *.safetensors"
        )
    if not _reachable(constants.ENDPOINT):
        raise ModelLoadError(
            f"the model {name!r} is not a local directory nor in the local cache, and the model hub cannot be reached; "
            "check the network and the name, or give 'embedded' or a directory with config.json and *.safetensors"
        )
    return name


def _reachable(endpoint: str) -> bool:
    """One quick connection: the hub client itself retries for over twenty seconds before it gives up."""
    # In a thread, because name resolution and many addresses have no common deadline of their own.
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(_connects(endpoint)), daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answer and answer[0])


def _connects(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    proxy = os.environ.get(f"{parts.scheme}_proxy") or os.environ.get(f"{parts.scheme.upper()}_PROXY")
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS):
            return True
    except (OSError, ValueError):  # a port that is no number is a ValueError
        return False


def _require_files(path: Path) -> None:
    config = path / "config.json"
    if not config.is_file():
        raise ModelLoadError(f"{path} has no config.json; expected a model directory in Hugging Face layout")
    try:
        value = jsontext.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{config} cannot be read as JSON: {error}; restore the file") from None
    if not isinstance(value, dict) or "model_type" not in value:
        raise ModelLoadError(f"{config} names no model_type; expected a Hugging Face model configuration")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(p.name for p in (*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.ckpt")))
        if pickled:
            raise ModelLoadError(
                f"{path} holds only pickled weights ({pickled[0]}), which could run code; convert them to safetensors"
            )
        raise ModelLoadError(f"{path} has no weights; expected at least one *.safetensors file")
    if not any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelLoadError(f"{path} has no tokenizer; expected tokenizer.json")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loaders' progress bars and advice; what matters is checked here and raised."""
    from transformers.utils import logging as loader_logging

    verbosity, bars = loader_logging.get_verbosity(), loader_logging.is_progress_bar_enabled()
    loader_logging.set_verbosity_error()
    loader_logging.disable_progress_bar()
    level = logging.root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
        loader_logging.set_verbosity(verbosity)
        if bars:
            loader_logging.enable_progress_bar()


def _original(
    name: str,
    location: str,
    device: torch.device,
    dtype: torch.dtype,
    device_map: str | Mapping[str, str | int] | None,
) -> tuple[Any, Any]:
    """Hugging Face's model and tokenizer, refused where they cannot be measured."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        _require_supported(name, config.get_text_config())
        original, info = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=dtype,
            attn_implementation="eager",  # attention patterns must exist to be read
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # else the reason is only logged; refused below
            output_loading_info=True,
            **({} if device_map is None else {"device_map": device_map}),
        )
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except UnsupportedModelError:
        raise
    except Exception as error:  # the loaders raise whatever the file formats underneath raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"the model {name!r} cannot be loaded: {reason}") from error
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        key, found, wanted = wrong[0]
        raise ModelLoadError(
            f"{name!r}: the weight {key} has shape {tuple(found)} but config.json asks for {tuple(wanted)}; "
            "use the configuration that belongs to the weights"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"{name!r} lacks {len(missing)} weights, the first is {missing[0]}; they would be random; "
            "use a complete checkpoint"
        )
    for key, value in original.named_parameters():
        if value.device.type == "meta":
            raise ModelLoadError(
                f"{name!r}: the weight {key} found no room on any device of the map {device_map!r}; give it more devices, "
                "or a smaller dtype"
            )
        if not torch.isfinite(value).all():
            raise ModelLoadError(f"{name!r}: the weight {key} holds NaN or infinity; use an undamaged checkpoint")
    return (original.to(device) if device_map is None else original).eval(), tokenizer


def _require_supported(name: str, config: Any) -> None:
    kind = str(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name!r} ({kind}) is an encoder-decoder; expected a decoder-only model")
    if any(word in kind for word in _RECURRENT):
        raise UnsupportedModelError(
            f"{name!r} ({kind}) has recurrent blocks; expected attention and MLP in every layer"
        )


def _wrapped(name: str, location: str, original: Any, tokenizer: Any, dtype: torch.dtype) -> TransformerBridge:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(
            location, hf_model=original, tokenizer=tokenizer, dtype=dtype, device=str(original.device)
        )
    except Exception as error:  # an unknown architecture surfaces as many different exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedModelError(
            f"{name!r} ({original.config.model_type}) is not an architecture TransformerBridge can wrap: {reason}"
        ) from error


def _bridge_name(bridge: Any) -> str:
    return str(getattr(getattr(bridge, "cfg", None), "model_name", None) or type(bridge).__name__)


def _examined(bridge: Any, *, name: str, reference: torch.Tensor | None) -> Model:
    """A model whose parts have been looked at and whose laws hold."""
    for part in ("blocks", "ln_final", "unembed", "cfg"):
        if not hasattr(bridge, part):
            raise UnsupportedModelError(
                f"{name!r} has no {part}; expected a decoder-only TransformerBridge (got {type(bridge).__name__})"
            )
    hooks = set(bridge.hook_dict)
    original = getattr(bridge, "original_model", None)
    dense = not experts(original.config.get_text_config()) if original is not None else True
    first = bridge.blocks[0]
    for layer, block in enumerate(bridge.blocks):
        for place in ("attn.hook_z", *(["mlp.hook_post"] if dense else []), "hook_attn_out", "hook_mlp_out"):
            if f"blocks.{layer}.{place}" not in hooks:
                raise UnsupportedModelError(
                    f"{name!r}: layer {layer} has no {place}; expected attention and an MLP in every layer"
                )
        if dense and (getattr(block.mlp, "W_out", None) is None or block.mlp.W_out.dim() != 2):
            raise UnsupportedModelError(f"{name!r}: the MLP of layer {layer} has no single W_out; expected a dense MLP")
        same_mlp = not dense or block.mlp.W_out.shape == first.mlp.W_out.shape
        if not same_mlp or block.attn.W_O.shape != first.attn.W_O.shape:
            raise UnsupportedModelError(f"{name!r}: layer {layer} has other sizes than layer 0; expected equal layers")
    bare = Capabilities(
        sequential="blocks.0.hook_resid_mid" in hooks,
        post_norms="blocks.0.ln1_post.hook_out" in hooks or "blocks.0.ln2_post.hook_out" in hooks,
        gated=dense and "blocks.0.mlp.hook_pre_linear" in hooks,
        neurons=dense,
        laws=(),
    )
    model = Model(bridge, name, bare)
    if model.tokenizer is None:
        raise ModelLoadError(f"{name!r} has no tokenizer; expected one beside the weights, since prompts are texts")
    try:
        model.capabilities = check(model, reference)
    except CircuitsError:
        raise
    except Exception as error:  # a bridge that cannot run its model fails in as many ways as there are families
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedModelError(f"{name!r} cannot be run through its bridge: {reason}") from error
    return model
