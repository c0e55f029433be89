"""A word-level tokenizer for small closed vocabularies, such as the atlas."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"

# A word or a mark, each with the space before it (written "▁"); "::" parts a title from its text.
_PIECES = r"▁?::|▁?\w+|▁?[^\w▁]|▁"


def build_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose vocabulary is the words and punctuation marks of `texts`.

    A word is the same token at the start of a text as inside it. Decoding gives back every text made of known
    words, provided that it does not start with a space; other words become the unknown token. There is no
    beginning-of-sequence token.
    """
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=UNKNOWN))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [metaspace, pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    pieces = sorted({piece for text in texts for piece, _ in split(text)})
    vocabulary = {token: number for number, token in enumerate([PAD, EOS, UNKNOWN, *pieces])}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
