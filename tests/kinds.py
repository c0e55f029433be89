"""Tokenizers of the kinds that models come with, made on the spot, each with the control tokens.

Whatever these spell as special can be spelled by a text too; `HOSTILE` has the spellings and what looks like them.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cosup.checkpoints import load_tokenizer
from cosup.data.wordlevel import build_word_tokenizer
from cosup.tokens import CONTROL_TOKENS, add_control_tokens

PROSE = ["the quick brown fox of Saltmere ## Input: Output: search for the passage quote: begin end of quote. [ ] :: é"]
SPELLINGS = ("[Ret]", "[Cs]", "[Ce]", "</s>", "<s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_end|>")
HOSTILE = (
    *SPELLINGS,
    *("[Re[Ret]t]", "[[Ret]]", "[Ret[Ret]", "<</s>/s>", "<|endof<|endoftext|>text|>", "[Ret] [Cs]", "[Ret][Cs][Ce]"),
    *("[Ret", "Ret]", "[", "]", "Re", "t]", "</", "s>", "<|", "|>", "end", "oftext", "[C", "e]"),
    *("[Ret]", "[Cs]", "</s>", "[RET]", "[ret]", "[R\u00e9t]", "[Re\u200bt]", "\u2581[Ret]"),
    *(" ", "\n", "\t", "\u00a0", "\x00", "\ufeff", "a", "the", "passage", "é", "漢", "🦊"),
)


def texts(max_size: int = 6) -> st.SearchStrategy[str]:
    """Return texts of hostile fragments and of any characters that UTF-8 can hold."""
    anything = st.text(st.characters(codec="utf-8"), max_size=4)
    return st.lists(st.sampled_from(HOSTILE) | anything, max_size=max_size).map("".join)


def _words() -> PreTrainedTokenizerFast:
    return build_word_tokenizer([*PROSE, " ".join(SPELLINGS), "Ret Cs Ce"])


def _words_that_spell_controls() -> PreTrainedTokenizerFast:
    """Every spelling is a word of the model's own vocabulary, the control tokens' too."""
    words = dict.fromkeys([*SPELLINGS, *" ".join(PROSE).split(), *"[ ] Ret Ret] Cs] < /s>".split()])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def _gpt2() -> PreTrainedTokenizerFast:
    """Byte-level BPE; one token is everything special, the unknown one included."""
    return _byte_level(pre_tokenizers.ByteLevel.alphabet())


def _gpt2_with_gaps() -> PreTrainedTokenizerFast:
    """The same, without most bytes: what it doesn't know becomes the end of sequence, if nobody takes care."""
    return _byte_level(list("abcdefghijklmnopqrstuvwxyz"))


def _byte_level(alphabet: list[str]) -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[end, "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*PROSE, "Ret endoftext Cs"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )


def _llama() -> PreTrainedTokenizerFast:
    """Metaspace BPE that puts `<s>` before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([*PROSE, "Ret Cs Ce </s"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def _folding() -> PreTrainedTokenizerFast:
    """Folds case, width and accents; the control tokens are there already, not as special ones, and folded too."""
    tokenizer = _gpt2().backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Replace("\u200b", ""), normalizers.Lowercase()]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    made.add_tokens([AddedToken(token, special=False, normalized=True) for token in CONTROL_TOKENS])
    return made


def _bytes() -> PreTrainedTokenizerBase:
    """A tokenizer written in Python, of bytes, that puts `</s>` after every text."""
    return ByT5Tokenizer(extra_ids=0)


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "words": _words,
    "words that spell controls": _words_that_spell_controls,
    "gpt2": _gpt2,
    "gpt2 with gaps": _gpt2_with_gaps,
    "llama": _llama,
    "folding": _folding,
    "bytes": _bytes,
}
LOSSLESS = ("gpt2", "bytes")


@functools.cache
def kind(name: str, saved: bool = False) -> Any:
    """Return a kind's tokenizer with control tokens, as it is made or as a model folder gives it back."""
    tokenizer: Any = KINDS[name]()
    add_control_tokens(tokenizer, model_for(tokenizer))
    if not saved:
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return load_tokenizer(folder)


@functools.cache
def plain(name: str) -> Any:
    """Return a kind's tokenizer as an embedder has it."""
    return KINDS[name]()


def model_for(tokenizer: Any) -> Any:
    """Return the smallest generator for a tokenizer."""
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=8, **ends))


def special_ids(tokenizer: Any) -> set[int]:
    """Return, by their spellings, the ids that no text may turn into (an unknown-word token of its own may be one)."""
    vocabulary = tokenizer.get_vocab()
    named = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token, *CONTROL_TOKENS}
    named |= {"<|im_end|>"} if "<|im_end|>" in map(str, tokenizer.added_tokens_decoder.values()) else set()
    return {vocabulary[token] for token in named if token in vocabulary}
