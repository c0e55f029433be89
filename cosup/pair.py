"""A generator that writes and asks, and an embedder that builds the sequence space: the pair as a torch module.

Shapes: B rows, L tokens a row, S sequences of a packed row, H generator width, De embedder width, D = H width of the
sequence space, N supervised tokens, R retrievals (`[Ret]` tokens) and P distinct passages of a batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn.functional import normalize, pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cosup.adapters import ControlHead
from cosup.attention import packed_inputs
from cosup.checkpoints import check_head_settings
from cosup.data.encoding import ExampleEncoder, PassageEncoder
from cosup.data.padding import lay_end_to_end, pad_right
from cosup.errors import UsageError
from cosup.groups import rounded
from cosup.lean import only
from cosup.losses.ntp import LearntRows, linear_ntp_loss_sum
from cosup.model_folder import PairSettings
from cosup.pooling import Head, padded_on_the_right, pool
from cosup.temperature import bounded, learnt_from, value_of
from cosup.tokens import ControlTokenIds, TextEncoder, control_token_ids
from cosup.trials import enable_packing, takes_positions
from cosup.two_models import TwoModels

_FEW = 0.8  # share of a row's states up to which the last layer picks out those that are read


@dataclass
class PairOutput:
    """What one forward pass of a batch gives.

    Attributes:
        ntp_sum: summed next-token loss, a float32 scalar, or None without labels.
        tokens: supervised tokens N in it.
        queries: [R, D] states at `[Ret]`, or None where retrieval is not trained.
        passages: [P, D] embeddings, or None likewise.
        log_temperature: scalar with its graph where the temperature is learnt, else None.
    """

    ntp_sum: torch.Tensor | None = None
    tokens: int = 0
    queries: torch.Tensor | None = None
    passages: torch.Tensor | None = None
    log_temperature: torch.Tensor | None = None


class Pair(TwoModels):
    """Generator + embedder (+ a bias-free projection on the embedder's side where the widths differ).

    Args:
        generator: a causal language model whose vocabulary has the control tokens.
        embedder: the body of a language model; the generator's own body makes a shared pair.
        generator_tokenizer: the generator's tokenizer, with the control tokens.
        embedder_tokenizer: the embedder's own tokenizer.
        settings: how the pair is used.
        head: layers that an embedder made elsewhere has after its pooling, in place of a projection.
    """

    log_temperature: nn.Parameter | None

    def __init__(
        self,
        generator: PreTrainedModel,
        embedder: PreTrainedModel,
        generator_tokenizer: PreTrainedTokenizerBase,
        embedder_tokenizer: PreTrainedTokenizerBase,
        settings: PairSettings | None = None,
        head: Head | None = None,
    ) -> None:
        check_head_settings(generator)
        super().__init__(generator, embedder)
        self.generator_tokenizer = generator_tokenizer
        self.embedder_tokenizer = embedder_tokenizer
        self.settings = settings or PairSettings()
        self.control: ControlTokenIds = control_token_ids(generator_tokenizer)
        self.embedder_text = TextEncoder(embedder_tokenizer)
        self.projection: nn.Linear | Head | None = head or self._fresh_projection()
        self.register_parameter("log_temperature", None)
        self.embedder_frozen = False
        #: Supervised positions whose logits are alive at a time; None suits it to the device.
        self.ntp_chunk: int | None = None
        self.fingerprint: str | None = None
        packs = [enable_packing(generator), enable_packing(embedder)]
        #: Whether both models keep the sequences of a packed row apart.
        self.can_pack: bool = all(packs)
        self._told_positions = packs[1] or takes_positions(embedder)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        """Width D of the sequence space: the generator's, or the embedder's own where it alone makes the queries."""
        if self.settings.query == "state":
            return int(self.generator.config.hidden_size)
        return self.projection.width if isinstance(self.projection, Head) else int(self.embedder.config.hidden_size)

    @property
    def similarity(self) -> str:
        """What vectors are compared by: `cosine` or `inner_product`."""
        return self.settings.similarity

    @property
    def temperature(self) -> float:
        """The temperature in use, learnt or set. Of a sharded pair, a collective call."""
        if self.log_temperature is None:
            return self.settings.temperature
        return value_of(self.log_temperature)

    def configure(self, **changes: Any) -> None:
        """Change settings (checked); used by the trainer to put its objective into the pair.

        A temperature that is learnt starts anew from the one given.
        """
        self.settings = replace(self.settings, **changes)
        if self.log_temperature is not None and "temperature" in changes:
            self.log_temperature.data.fill_(math.log(self.settings.temperature))

    def learn_temperature(self) -> None:
        """Make the temperature a parameter, starting from the settings'; see `temperature`."""
        self.log_temperature = learnt_from(self.settings.temperature, self.device)

    def freeze_embedder(self) -> None:
        """Train the embedder no more (its projection is): no gradient, no dropout.

        Raises:
            UsageError: the embedder is the generator's own body.
        """
        if self.shared:
            raise UsageError("a shared embedder cannot be frozen: it is the generator")
        self.embedder_frozen = True
        self.embedder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Put the pair into training mode; a frozen embedder stays out of it."""
        super().train(mode)
        if self.embedder_frozen:
            self.embedder.eval()
        return self

    def _fresh_projection(self) -> nn.Linear | None:
        wide, narrow = int(self.generator.config.hidden_size), int(self.embedder.config.hidden_size)
        if wide == narrow or self.settings.query == "text":
            return None
        dtype = next((p.dtype for p in self.embedder.parameters() if p.requires_grad), self.embedder.dtype)
        return nn.Linear(narrow, wide, bias=False, dtype=dtype)

    # -- running it ------------------------------------------------------------------------------------------------

    def forward(  # noqa: PLR0913 - the names of a batch's tensors
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        ret_rows: torch.Tensor | None = None,
        ret_columns: torch.Tensor | None = None,
        passage_input_ids: torch.Tensor | None = None,
        passage_attention_mask: torch.Tensor | None = None,
        passage_lengths: torch.Tensor | None = None,
        passage_vectors: torch.Tensor | None = None,
    ) -> PairOutput:
        """Run a batch through both models.

        Every parameter that the outputs could have used takes part in their graph, with weight zero where this batch
        has nothing for it: so a device without `[Ret]` or without supervised tokens keeps step with the others.

        Args:
            input_ids: [B, L] generator tokens; None embeds passages alone.
            attention_mask: [B, L] 1 on real tokens.
            lengths: [S] lengths of the sequences that lie one after another in the one row, in place of a mask.
            labels: [B, L] targets, -100 where unsupervised; label i is predicted at i-1. None skips the head.
            ret_rows: [R] row of each `[Ret]`. None skips retrieval.
            ret_columns: [R] its column.
            passage_input_ids: embedder tokens, padded [P, Lp] or packed [1, sum of lengths].
            passage_attention_mask: [P, Lp] 1 on real tokens.
            passage_lengths: [P] lengths of the packed passages.
            passage_vectors: [P, De] what `pooled` gives, in place of passage tokens.
        """
        output = PairOutput(log_temperature=None if self.log_temperature is None else bounded(self.log_temperature))
        if input_ids is not None:
            read = None if lengths is None or labels is None else _read(labels, ret_columns)
            states_BLH = self.hidden_states(input_ids, attention_mask, lengths, read)
            if labels is not None:
                output.ntp_sum, output.tokens = self._ntp(states_BLH, labels)
            if ret_rows is not None:
                output.queries = self.to_query(states_BLH[ret_rows, ret_columns])
        if input_ids is None or ret_rows is not None:
            if passage_vectors is None and passage_input_ids is not None:
                passage_vectors = self.pooled(passage_input_ids, passage_attention_mask, passage_lengths)
            output.passages = None if passage_vectors is None else self.project(passage_vectors)
        if torch.is_grad_enabled():
            self._bind(output)
        return output

    def _ntp(self, states_BLH: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
        supervised_BL = labels[:, 1:] != -100
        targets_N = labels[:, 1:][supervised_BL]
        head: Any = self.generator.get_output_embeddings()
        states_NH = states_BLH[:, :-1][supervised_BL]
        learnt = None
        if isinstance(head, ControlHead):
            head, learnt = head.base_layer, LearntRows(head.ids, head.rows)
        loss = linear_ntp_loss_sum(states_NH, head.weight, head.bias, targets_N, self.ntp_chunk, learnt)
        return loss, len(targets_N)

    def _bind(self, output: PairOutput) -> None:
        """Put into the first output's graph, with weight zero, what the loss over the outputs may leave out."""
        loose = [output.passages, output.log_temperature]
        if output.ntp_sum is not None:
            output.ntp_sum = output.ntp_sum + _zero([output.queries, *loose])
        elif output.queries is not None:
            head: Any = self.generator.get_output_embeddings()
            inputs: Any = self.generator.get_input_embeddings()
            own = [p for p in head.parameters() if p.requires_grad and not any(p is q for q in inputs.parameters())]
            output.queries = output.queries + _zero([*loose, *own])

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        read: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the generator's last hidden states, after its final norm: [B, L, H].

        Args:
            input_ids: [B, L] generator tokens.
            attention_mask: [B, L] 1 on real tokens.
            lengths: [S] lengths of the sequences of a packed row, in place of a mask.
            read: places of a packed row, each once, whose states are asked for; others may be wrong.
        """
        body = cast(PreTrainedModel, self.generator.base_model)
        return self._run(body, input_ids, attention_mask, lengths, read)

    def to_query(self, states: torch.Tensor) -> torch.Tensor:
        """Turn hidden states at `[Ret]` [R, H] into float32 queries [R, D] (unit length for cosine)."""
        return self._in_space(states)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed passages: the embedder's last hidden state at the last real token (paper, section 3), or as it pools.

        Padding may stand on either side; neither it nor the neighbours in a packed row change the result.

        Args:
            input_ids: embedder tokens, padded [P, Lp] or packed [1, sum of lengths].
            attention_mask: [P, Lp] 1 on real tokens, at least one a row.
            lengths: [P] lengths of the packed passages.

        Returns:
            [P, D] float32 (unit length for cosine).
        """
        if input_ids.shape[0] == 0:
            return torch.zeros(0, self.dimension, device=input_ids.device)
        return self.project(self.pooled(input_ids, attention_mask, lengths))

    def pooled(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embedder's own states [P, De] that `project` turns into embeddings; arguments as for `embed`."""
        with torch.no_grad() if self.embedder_frozen else contextlib.nullcontext():
            if attention_mask is not None and not self._told_positions:
                input_ids, attention_mask = padded_on_the_right(input_ids, attention_mask)
            ends = None if lengths is None or self.settings.pooling != "last_token" else lengths.cumsum(0) - 1
            states = self._run(self.embedder, input_ids, attention_mask, lengths, ends)
            return pool(states, self.settings.pooling, attention_mask, lengths)

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """Turn the embedder's states [P, De] into float32 embeddings [P, D] (unit length for cosine)."""
        if self.projection is None:
            return self._in_space(pooled)
        return self._in_space(self.projection(pooled.to(next(self.projection.parameters()).dtype)))

    def _in_space(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.float()
        return normalize(vectors, dim=-1) if self.settings.similarity == "cosine" else vectors

    def _run(
        self,
        body: PreTrainedModel,
        input_ids: torch.Tensor,
        mask: torch.Tensor | None,
        lengths: torch.Tensor | None,
        read: torch.Tensor | None = None,
    ) -> torch.Tensor:
        tokens = input_ids.shape[1]
        if lengths is not None:
            input_ids, lengths = _evened(input_ids, lengths)
            inputs = packed_inputs(body, lengths)
        else:
            mask = torch.ones_like(input_ids) if mask is None else mask
            inputs = {"attention_mask": mask}
            if body is not self.embedder or self._told_positions:
                inputs["position_ids"] = positions_of(mask)
        with only(body, read):
            last: torch.Tensor = body(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        return last if lengths is None else last[:, :tokens]

    def example_encoder(self, max_length: int | None = None) -> ExampleEncoder:
        """Return what encodes prompts, passages and examples for the generator, by the settings' lengths."""
        own = self.settings
        length = own.max_length if max_length is None else max_length
        return ExampleEncoder(self.generator_tokenizer, self.control, own.prompt, length, own.max_passage_length)

    def passage_encoder(self) -> PassageEncoder:
        """Return what encodes passages for the embedder, by the settings' prompt and length."""
        return PassageEncoder(self.embedder_text, self.settings.passage_prompt, self.settings.max_passage_length)

    def encode_passage(self, text: str) -> list[int]:
        """Return the embedder's token ids of a passage's rendered text, cut to `max_passage_length`."""
        return self.passage_encoder()(text)

    def embed_queries(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed queries that are text: [len(texts), D] float32.

        Of a text longer than `max_passage_length` the end is read: what was written last tells best what is missing.
        """
        own, encode = self.settings, self.embedder_text.encode_end_with_template
        return self.embed_ids([encode(own.query_prompt, text, own.max_passage_length) for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what `encode_passage` gives for each text, faster than one by one."""
        return self.passage_encoder().batch(texts)

    @torch.inference_mode()
    def embed_ids(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed token id lists of unequal length: [len(batch), D] float32, on the device of the pair.

        On an accelerator they lie end to end in one row where the embedder can take it; a CPU is no faster with that.
        """
        if self.can_pack and self.device.type != "cpu" and all(batch):
            ids, lengths = lay_end_to_end(batch)
            return self.embed(ids.to(self.device), lengths=lengths.to(self.device))
        ids, mask = pad_right(batch, int(self.embedder_tokenizer.pad_token_id))
        return self.embed(ids.to(self.device), mask.to(self.device))


def _evened(row: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a sequence that nobody looks at where a CPU would build its kernels for each length anew (`groups`)."""
    more = rounded(row.shape[1]) - row.shape[1]
    if not more or row.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return row, lengths
    return pad(row, (0, more)), torch.cat([lengths, lengths.new_tensor([more])])


def _read(labels: torch.Tensor, ret_columns: torch.Tensor | None) -> torch.Tensor | None:
    """Return the places of a packed row whose states a loss reads; None where they are most of the row."""
    wanted = labels[0].roll(-1) != -100
    wanted[-1] = False
    if ret_columns is not None:
        wanted[ret_columns] = True
    rows = wanted.nonzero()[:, 0]
    return rows if len(rows) <= _FEW * len(wanted) else None


def _zero(tensors: Iterable[torch.Tensor | None]) -> torch.Tensor | float:
    """Return 0 with a graph to each tensor."""
    return sum((0.0 * t.sum() for t in tensors if t is not None and t.requires_grad), start=0.0)


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return position ids [B, L] that count real tokens from 0, whichever side the padding is on."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_min(0)
