"""Examples read one after another, in an order that seed and epoch decide, from files larger than the memory.

A source comes in *shards* (`stream_sources`). An epoch's order:

1. the shards of all sources, shuffled by (seed, epoch), are read one after another;
2. each block of `shuffle_buffer` records that come by is shuffled by (seed, epoch, block number).

So a position in an epoch is a number of records, and going there needs nothing but that number. With `shuffle_buffer`
1 the order is that of the sources.

Every process reads the same order. A *place* is a position in it; the loader's batch of all processes together has
`batch_size * ranks` places, the first `batch_size` of them rank 0's, and so on: accelerate's `IterableDatasetShard`
(`dispatch_batches=False`) cuts it in this way. With `ranks` above 1 the last batch is filled up with the epoch's first
records. Worker w of W in a `DataLoader` gives the batches w, w + W, ..; the loader takes them in turn, so its order is
the same whatever the number of workers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cosup.data.jsonl import parse_object
from cosup.data.lines import located
from cosup.data.reading import check_record
from cosup.data.stream_sources import Raw, open_source
from cosup.data.tables import ROWS_AT_ONCE
from cosup.data.templates import question_to_example
from cosup.errors import CosupError, InputError, UsageError
from cosup.records import Example, Passage, Question

_SHARDS, _BLOCK = 0, 1  # what a permutation is of


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """The order of a stream and this process's share of it.

    Attributes:
        seed: of the order, 0 or above.
        shuffle_buffer: records that are shuffled together (and held in memory); 1 keeps the sources' order.
        batch_size: records of a loader's batch, of one process.
        rank: this process; records of the others are not parsed, and None stands in their places.
        ranks: processes.
        repeat: go on with the next epoch at the end of one, without end.
    """

    seed: int = 0
    shuffle_buffer: int = 10_000
    batch_size: int = 1
    rank: int = 0
    ranks: int = 1
    repeat: bool = False

    def __post_init__(self) -> None:
        for name in ("shuffle_buffer", "batch_size", "ranks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.seed < 0 or not 0 <= self.rank < self.ranks:
            raise UsageError(f"seed is {self.seed} and rank {self.rank}; expected 0 or more, rank below {self.ranks}")


class StreamedExamples(IterableDataset[Any]):
    """Training examples from files that need not fit in memory.

    Each record is checked when it comes by, as the readers in `reading` do, and so are the passage ids that it names.
    That ids of records are distinct is not checked.

    Args:
        sources: JSONL files, Parquet files, folders (saved by `datasets`, or of data files that `load_dataset` takes;
            `folder:split` chooses a split) or hub ids `owner/name` or `owner/name:split`; hub data are streamed.
        passages: where passage ids are looked up, such as a `PassageStore`.
        order: see `StreamOrder`.
        template: how questions become examples; None where the sources hold examples.
        encode: makes what is yielded of an example; None yields the example. Runs in the loader's workers.

    Raises:
        InputError: a source is missing or empty.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        passages: Mapping[str, Passage],
        order: StreamOrder | None = None,
        template: str | None = None,
        encode: Callable[[Example], Any] | None = None,
    ) -> None:
        super().__init__()
        places = [sources] if isinstance(sources, str | Path) else list(sources)
        if not places:
            raise UsageError("no examples to stream; name their files")
        self.order = order or StreamOrder()
        self.passages = passages
        self.template = template
        self.encode = encode
        found = [open_source(source) for source in places]
        self._shards = [shard for shards, _ in found for shard in shards]
        counts = [count for _, count in found]
        self._count = None if None in counts else sum(count for count in counts if count is not None)
        # In memory that worker processes share: epoch; the epoch and the record to begin at; whether to keep places.
        self._state = torch.zeros(4, dtype=torch.int64).share_memory_()

    def encoded_by(self, encode: Callable[[Example], Any]) -> StreamedExamples:
        """Return this stream with what is made of its examples, beside this one: each has a place of its own."""
        other = copy(self)
        other.encode, other._state = encode, self._state.clone().share_memory_()
        return other

    def count(self) -> int | None:
        """Return the number of records of an epoch, or None where a hub dataset does not say."""
        return self._count

    def __len__(self) -> int:
        """Return the items of an epoch: `count()`, filled up to whole batches of all ranks where there are several.

        Raises:
            TypeError: it is not known, or the stream has no end.
        """
        if self._count is None or self.order.repeat:
            raise TypeError("the length of this stream is not known; bound the run by max_steps")
        return self._count + self._missing(self._count)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives."""
        return int(self._state[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self._state[0] = epoch

    def skip(self, records: int, keep_places: bool = False) -> None:
        """Begin the current epoch, whenever it is iterated, after so many records; other epochs begin at their start.

        Args:
            records: places of all ranks together; 0 takes an earlier call back.
            keep_places: give None for each record that is skipped, without reading it. For loaders that count off
                batches themselves, as accelerate's `skip_first_batches` does.

        Raises:
            UsageError: with several ranks, it is not a number of whole batches.
        """
        if records < 0 or (self.order.ranks > 1 and records % self._together):
            raise UsageError(f"cannot skip {records} records; expected a multiple of {self._together}, 0 or above")
        self._state[1], self._state[2], self._state[3] = self.epoch, records, int(keep_places)

    def __iter__(self) -> Iterator[Any]:
        """Yield `encode(example)`, or None in the place of what is skipped or another rank's."""
        epoch, of, records, keep = self._state.tolist()
        start = records if of == epoch else 0
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker else (0, 1)
        empty: Iterator[None] = repeat(None, start if keep else 0)
        return self._own(chain(empty, self._places(epoch, start)), *share)

    @property
    def _together(self) -> int:
        return self.order.batch_size * self.order.ranks

    def _missing(self, count: int) -> int:
        """Places left in the last batch of all ranks; 0 for a rank alone, whose last batch may be short."""
        return -count % self._together if self.order.ranks > 1 else 0

    def _own(self, places: Iterator[Raw | None], worker: int, workers: int) -> Iterator[Any]:
        """Make the examples of this rank in the batches of this worker."""
        size, rank = self.order.batch_size, self.order.rank
        for place, raw in enumerate(places):
            batch, within = divmod(place, self._together)
            if batch % workers == worker:
                yield self._made(raw) if raw is not None and within // size == rank else None

    def _places(self, epoch: int, start: int) -> Iterator[Raw]:
        """Yield records from position `start` of an epoch on, with what fills the last batch or the epochs after it."""
        while True:
            total = yield from self._records(epoch, start)
            if total == 0:
                raise InputError("found no records; expected at least one", self._shards[0].path)
            if not self.order.repeat:
                break
            epoch, start = epoch + 1, max(0, start - total)
        missing = self._missing(total)
        while missing > 0:
            yield from islice(self._records(epoch, 0), missing)
            missing -= min(total, missing)

    def _records(self, epoch: int, start: int) -> Generator[Raw, None, int]:
        """Yield an epoch's records from position `start` on; return how many the epoch has (at least `start` of them).

        Where the number of records is known, nothing before the block of `start` is read.
        """
        buffer = self.order.shuffle_buffer
        size = buffer if buffer > 1 else ROWS_AT_ONCE
        if self._known and start >= (self._count or 0):
            return self._count or 0
        block = start // size if self._known else 0
        position = block * size
        raws = self._in_shards(epoch, position)
        while records := list(islice(raws, size)):
            mixed = self._permutation(len(records), _BLOCK, epoch, block) if buffer > 1 else range(len(records))
            for index in mixed[max(0, start - position) :]:
                yield records[index]
            position += len(records)
            block += 1
        return position

    @property
    def _known(self) -> bool:
        return all(shard.rows is not None for shard in self._shards)

    def _in_shards(self, epoch: int, start: int) -> Iterator[Raw]:
        """Yield the records of the epoch's shards from position `start` on."""
        mixed = self.order.shuffle_buffer > 1
        numbers = range(len(self._shards))
        for number in self._permutation(len(self._shards), _SHARDS, epoch, 0) if mixed else numbers:
            shard = self._shards[number]
            if shard.rows is not None and start >= shard.rows:
                start -= shard.rows
                continue
            yield from shard.read(start)
            start = 0

    def _permutation(self, count: int, what: int, epoch: int, number: int) -> list[int]:
        seed = np.random.SeedSequence((self.order.seed, epoch, what, number))
        order: list[int] = np.random.Generator(np.random.PCG64(seed)).permutation(count).tolist()
        return order

    def _made(self, raw: Raw) -> Any:
        with located(raw.path, raw.number, raw.unit):
            example = self._example(raw)
            return example if self.encode is None else self.encode(example)

    def _example(self, raw: Raw) -> Example:
        record = parse_object(raw.data, raw.path, raw.number) if isinstance(raw.data, bytes) else _filled(raw.data)
        if self.template is None:
            example = Example.from_dict(record)
            check_record(example, self.passages)
            return example
        question = Question.from_dict(record)
        check_record(question, self.passages)
        return question_to_example(question, self.passages, self.template)


def told_plainly(error: CosupError) -> CosupError:
    """Return an error that a loader's worker raised without the worker's traceback in its message."""
    lines = re.findall(r"^cosup\.errors\.\w+: (.*)$", str(error), flags=re.MULTILINE)
    return type(error)(lines[-1]) if lines and str(error).startswith("Caught ") else error


def _filled(value: Any) -> Any:
    """Drop the fields that are null: rows of a table have every field of every row."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value
