"""A word-level tokenizer that can still spell any text.

A byte-pair model without merges: a word of the micro-world is one token (with its leading space), every other stretch
of text is spelt in bytes. ``ignore_merges`` makes the model look up the whole word first, so no intermediate pieces
are needed, and since the byte alphabet is complete, ``decode(encode(text)) == text`` for every text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["BOS", "EOS", "PAD", "build_tokenizer"]

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"


def build_tokenizer(texts: Iterable[str], answers: Mapping[str, Sequence[str]]) -> PreTrainedTokenizerFast:
    """The tokenizer whose vocabulary is the special tokens, the bytes, and every word of ``texts`` and ``answers``.

    The beginning token is prepended to every text: it gives attention a place to rest.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    wanted = [*texts, *(f" {word}" for words in answers.values() for word in words), ".", ","]
    words = {piece for text in wanted for piece, _ in byte_level.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [PAD, BOS, EOS, *alphabet, *sorted(words - set(alphabet))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
