"""The atlas: a made-up, seeded corpus of people, places and works, for the demo and the tests.

Each entity has one passage of two to four sentences and four attributes. Train, dev and test are three closed
worlds: their entities' names are made of the same words, but no name of one world occurs in another. A two-hop
question describes its entity through another one ("Where was the author of The Lost Lantern born?"): the first
passage has to be read before the second can be asked for.

The corpus depends on the seed alone. Only `Random.random` is drawn from, the one method whose stream Python keeps
across versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from cosup.data import atlas_words as words
from cosup.errors import UsageError
from cosup.records import Evidence, Passage, Question

T = TypeVar("T")

SMALLEST_TRAIN, LARGEST_TOTAL = 400, 4400
_SHARES = {"person": 0.40, "place": 0.25, "work": 0.35}
_SECOND_HOP_SHARE = 0.35


@dataclass(frozen=True)
class Atlas:
    """The made-up corpus.

    Attributes:
        passages: the corpus that is indexed and asked; none of it is seen in training.
        train_passages: the passages to train on.
        dev_passages: a small corpus for measurements during training.
        train_questions: single-hop and two-hop questions over `train_passages`, in random order.
        dev_questions: questions over `dev_passages`.
        test_questions: questions over `passages`.
    """

    passages: tuple[Passage, ...]
    train_passages: tuple[Passage, ...]
    dev_passages: tuple[Passage, ...]
    train_questions: tuple[Question, ...]
    dev_questions: tuple[Question, ...]
    test_questions: tuple[Question, ...]

    @property
    def train_texts(self) -> list[str]:
        """All text of the training world: its passages as they are rendered, and its questions."""
        return [p.rendered for p in self.train_passages] + [q.question for q in self.train_questions]


def build_atlas(seed: int = 0, train_entities: int = 3000, test_entities: int = 640) -> Atlas:
    """Make the corpus; the same arguments give the same corpus in every process and Python version.

    Args:
        seed: seed of everything random.
        train_entities: passages of the training world, at least 400 so that every word occurs in it.
        test_entities: passages of the test world; the dev world has a quarter of them. There are 0.85 single-hop
            and 0.3 two-hop test questions an entity.

    Raises:
        UsageError: a size that the names do not suffice for, or too small a one.
    """
    dev_entities = max(20, test_entities // 4)
    _check_sizes(train_entities, test_entities, dev_entities)
    random = Random(seed)
    names = _Names(random)
    train = _World("train", random, names, train_entities)
    dev = _World("dev", random, names, dev_entities)
    test = _World("test", random, names, test_entities)
    single_hop = train.single_hop(4 * train_entities)
    two_hop = train.two_hop(int(len(single_hop) * _SECOND_HOP_SHARE / (1 - _SECOND_HOP_SHARE)))
    return Atlas(
        passages=test.passages,
        train_passages=train.passages,
        dev_passages=dev.passages,
        train_questions=train.questions(_shuffled(random, single_hop + two_hop)),
        dev_questions=_exam(dev, dev_entities),
        test_questions=_exam(test, test_entities),
    )


def hop_of(question: Question) -> str:
    """Return `two_hop` for a question whose evidence stands in more than one passage, else `single_hop`."""
    return "two_hop" if len(question.gold_ids) > 1 else "single_hop"


@dataclass
class _Entity:
    """A person, place or work: its attributes and the sentence of its passage that states each of them."""

    kind: str
    name: str
    id: str
    facts: dict[str, str] = field(default_factory=dict)
    links: dict[str, _Entity] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ask:
    """A question before it has an id."""

    text: str
    answer: str
    evidence: tuple[Evidence, ...]


class _Deck:
    """Deals every card once, in random order, before any card comes again."""

    def __init__(self, random: Random, cards: Iterable[str]) -> None:
        self._random, self._cards, self._left = random, tuple(cards), list[str]()

    def deal(self) -> str:
        if not self._left:
            self._left = _shuffled(self._random, self._cards)
        return self._left.pop()


class _Names:
    """Names that no entity has yet, by kind; those that bring in a new word come first."""

    def __init__(self, random: Random) -> None:
        given = [*words.HER_NAMES, *words.HIS_NAMES]
        people = [f"{first} {last}" for first in given for last in words.SURNAMES]
        places = [f"{first} {last}" for first in words.PLACE_FIRST for last in words.PLACE_SECOND]
        works = [f"The {adjective} {noun}" for adjective in words.WORK_ADJECTIVES for noun in words.WORK_NOUNS]
        works += [f"The {noun} of {theme}" for noun in words.WORK_NOUNS for theme in words.WORK_THEMES]
        pools = {"person": people, "place": places, "work": works}
        self._left = {kind: _new_words_first(_shuffled(random, pool)) for kind, pool in pools.items()}

    def take(self, kind: str, count: int) -> list[str]:
        taken, self._left[kind] = self._left[kind][:count], self._left[kind][count:]
        return taken


class _World:
    """Entities that know only one another, their passages, and questions about them."""

    def __init__(self, label: str, random: Random, names: _Names, size: int) -> None:
        self.label, self._random = label, random
        self._forms = {a: _Deck(random, forms) for a, forms in words.QUESTION_FORMS.items()}
        self._descriptions = {a: _Deck(random, forms) for a, forms in words.DESCRIPTIONS.items()}
        self._entities = _populate(random, names, _counts(size))
        writer = _Writer(random)
        self.passages = tuple(_shuffled(random, [writer.write(entity) for entity in self._entities]))

    def single_hop(self, count: int) -> list[_Ask]:
        """Ask `count` questions; every entity is asked about once before any is asked about again."""
        rounds = [_shuffled(self._random, entity.facts) for entity in self._entities]
        pairs = [
            (entity, rounds[number][turn])
            for turn in range(max(map(len, rounds)))
            for number, entity in _shuffled(self._random, enumerate(self._entities))
        ]
        return [self._ask(entity, attribute, entity.name) for entity, attribute in pairs[:count]]

    def two_hop(self, count: int) -> list[_Ask]:
        """Ask `count` questions, all different, about an entity that is described through another one."""
        chains = [
            (entity, link, attribute)
            for entity in self._entities
            for link, target in entity.links.items()
            for attribute in target.facts
        ]
        return [self._ask_through(*chain) for chain in _shuffled(self._random, chains)[:count]]

    def questions(self, asks: Sequence[_Ask]) -> tuple[Question, ...]:
        """Number the questions."""
        return tuple(
            Question(f"{self.label}-{number:05d}", ask.text, (ask.answer,), evidence=ask.evidence)
            for number, ask in enumerate(asks)
        )

    def _ask(self, entity: _Entity, attribute: str, called: str) -> _Ask:
        text = self._forms[attribute].deal().format(it=called)
        return _Ask(text, entity.facts[attribute], (Evidence(entity.id, entity.sentences[attribute]),))

    def _ask_through(self, entity: _Entity, link: str, attribute: str) -> _Ask:
        description = self._descriptions[link].deal().format(it=entity.name)
        ask = self._ask(entity.links[link], attribute, description)
        return _Ask(ask.text, ask.answer, (Evidence(entity.id, entity.sentences[link]), *ask.evidence))


class _Writer:
    """Writes passages; layouts and sentence forms are dealt evenly."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._forms = {group: _Deck(random, forms) for group, forms in words.SENTENCES.items()}
        layouts = {kind: ["|".join(layout) for layout in options] for kind, options in words.LAYOUTS.items()}
        self._layouts = {kind: _Deck(random, options) for kind, options in layouts.items()}

    def write(self, entity: _Entity) -> Passage:
        """Write the entity's passage and remember which sentence states which attribute."""
        sentences: list[str] = []
        for group in _shuffled(self._random, self._layouts[entity.kind].deal().split("|")):
            mention = _mention(entity, named=not sentences)
            sentence = self._forms[group].deal().format(**mention, **entity.facts)
            entity.sentences |= dict.fromkeys(group.split(), sentence)
            sentences.append(sentence)
        return Passage(entity.id, entity.name, " ".join(sentences))


def _populate(random: Random, names: _Names, counts: dict[str, int]) -> list[_Entity]:
    """Make entities of every kind, each linked to entities made before it."""
    made: dict[str, list[_Entity]] = {}
    for kind in ("place", "person", "work"):
        made[kind] = [_Entity(kind, name, f"{kind}/{_slug(name)}") for name in names.take(kind, counts[kind])]
        dealers = _dealers(random, kind, made)
        for entity in made[kind]:
            for attribute, deal in dealers.items():
                value = deal()
                if isinstance(value, _Entity):
                    entity.links[attribute] = value
                entity.facts[attribute] = value.name if isinstance(value, _Entity) else value
    return [entity for entities in made.values() for entity in entities]


def _dealers(random: Random, kind: str, made: dict[str, list[_Entity]]) -> dict[str, Callable[[], str | _Entity]]:
    """Return what deals the values of each attribute of a kind."""
    values = {
        "place": {
            "river": words.RIVERS,
            "founded": words.FOUNDING_YEARS,
            "product": words.PRODUCTS,
            "landmark": words.LANDMARKS,
        },
        "person": {
            "birth_year": words.BIRTH_YEARS,
            "profession": words.PROFESSIONS,
            "instrument": words.INSTRUMENTS,
        },
        "work": {"year": words.WORK_YEARS, "genre": words.GENRES},
    }
    links = {"place": {}, "person": {"birthplace": "place"}, "work": {"author": "person", "setting": "place"}}
    dealers: dict[str, Callable[[], str | _Entity]] = {
        attribute: _Deck(random, cards).deal for attribute, cards in values[kind].items()
    }
    return dealers | {attribute: _entity_dealer(random, made[to]) for attribute, to in links[kind].items()}


def _entity_dealer(random: Random, entities: Sequence[_Entity]) -> Callable[[], _Entity]:
    by_name = {entity.name: entity for entity in entities}
    deck = _Deck(random, by_name)
    return lambda: by_name[deck.deal()]


def _mention(entity: _Entity, named: bool) -> dict[str, str]:
    """Return what a sentence calls the entity, as its subject and as an object."""
    if named:
        return {"who": entity.name, "whom": entity.name}
    if entity.kind == "person":
        hers = entity.name.split()[0] in words.HER_NAMES
        return {"who": "she", "whom": "her"} if hers else {"who": "he", "whom": "him"}
    noun = {"place": "the town", "work": "the work"}[entity.kind]
    return {"who": noun, "whom": noun}


def _exam(world: _World, entities: int) -> tuple[Question, ...]:
    return world.questions(world.single_hop(round(0.85 * entities)) + world.two_hop(round(0.3 * entities)))


def _counts(size: int) -> dict[str, int]:
    counts = {kind: max(1, int(size * share)) for kind, share in _SHARES.items()}
    return counts | {"person": size - counts["place"] - counts["work"]}


def _check_sizes(train: int, test: int, dev: int) -> None:
    if train < SMALLEST_TRAIN:
        raise UsageError(f"train_entities is {train}; at least {SMALLEST_TRAIN} are needed for every word to be seen")
    if test < 20:
        raise UsageError(f"test_entities is {test}; expected at least 20")
    if train + test + dev > LARGEST_TOTAL:
        raise UsageError(
            f"train, test and dev entities are {train} + {test} + {dev}; there are names for {LARGEST_TOTAL} together"
        )


def _shuffled(random: Random, items: Iterable[T]) -> list[T]:
    return sorted(items, key=lambda _: random.random())


def _new_words_first(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    first, rest = list[str](), list[str]()
    for name in names:
        (rest if seen.issuperset(name.split()) else first).append(name)
        seen.update(name.split())
    return first + rest


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
