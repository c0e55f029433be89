"""What the atlas is made of: the words of its names and values, the sentences of its passages, its question forms.

No word stands in two lists of name parts, so that a name can never come about by accident between two others.
In templates `{who}` (`{whom}` as an object) is the entity's name at its first mention and a pronoun or noun after it;
every other slot is an attribute's value. No two groups of attributes share a sentence opening: a small model then finds
the sentence that it needs by its first words. `{it}` in a question form is a name or, in a two-hop question, a
description.
"""

from __future__ import annotations

HER_NAMES = (
    "Ada Alma Anna Astrid Clara Cora Daphne Edith Elena Emma Fiona Flora Freya Greta Hanna Helena Ida Judith "
    "Laura Lydia Nora Olga Rosa Vera"
).split()
HIS_NAMES = (
    "Adam Albert Anton Boris Bruno Carl Conrad David Edgar Emil Felix Georg Gustav Henrik Hugo Ivan Jonas Karl "
    "Leon Magnus Milo Oscar Simon Victor"
).split()
SURNAMES = (
    "Abel Archer Baker Barlow Becker Berg Bishop Blake Brandt Carter Chase Cooper Crane Dahl Drake Ellis Falk "
    "Finch Foss Frost Garner Grant Hale Hansen Harper Holm Hunter Keller Kruger Larsen Lind Mason Mercer Moser "
    "Nash Norden Olsen Page Pike Quinn Reed Roth Shaw Stark Tanner Vance Vogel Walsh Weber York"
).split()

PLACE_FIRST = (
    "Amber Apple Ash Black Bright Cedar Clay Copper Crow Deer Eagle East Falcon Fern Fox Glass Green Grey Heron "
    "High Holly Iron Kings Lark Long Maple Mill North Oak Old Pearl Pine Queens Raven Red Salt South Stone Swan "
    "Willow"
).split()
PLACE_SECOND = (
    "Abbey Bay Bend Bridge Castle Cove Cross Dale End Falls Fields Ford Gate Glen Harbor Heath Hill Hollow Island "
    "Landing Market Mead Pass Point Port Ridge Springs Vale"
).split()
RIVERS = (
    "Arle Avra Brenna Calder Dorn Elba Ember Fenna Galla Ilma Isar Jorda Kessa Lenna Maren Nara Orla Rilla Selle "
    "Tamar Ulla Vesla Warra Zorna"
).split()

WORK_ADJECTIVES = (
    "Ancient Blind Blue Broken Burning Clever Crooked Dancing Distant Empty Faithful Foolish Forgotten Frozen "
    "Gentle Golden Happy Hidden Hungry Last Little Lonely Lost Lucky Painted Quiet Secret Silent Sleeping Stolen"
).split()
WORK_NOUNS = (
    "Anchor Arrow Balloon Bell Boat Candle Circus Clock Compass Crown Diary Door Dragon Drum Feather Fiddle "
    "Flower Garden Ghost Giant Guest Hotel Jewel Key Kite Ladder Lantern Letter Map Mask Mirror Moon Orchard "
    "Parrot Puppet Sailor Ship Tower Train Window"
).split()
WORK_THEMES = (
    "Ashes Autumn Birds Children Courage Dreams Dust Echoes Fire Fortune Hope Ice Joy Memory Mercy Music Night "
    "Rain Roses Silence Smoke Snow Storms Summer"
).split()

PROFESSIONS = (
    "baker|banker|barber|botanist|carpenter|chemist|clockmaker|cook|dentist|doctor|farmer|gardener|"
    "goldsmith|judge|lawyer|locksmith|miner|nurse|painter|pilot|potter|sculptor|shepherd|weaver"
).split("|")
INSTRUMENTS = (
    "banjo|bassoon|cello|clarinet|cornet|flute|guitar|harp|horn|lute|mandolin|piano|recorder|"
    "trombone|trumpet|tuba|viola|violin|whistle|zither"
).split("|")
PRODUCTS = (
    "bells|boots|bricks|butter|candles|carpets|cheese|cider|clocks|gloves|hats|honey|kites|knives|"
    "lace|lamps|mustard|paper|pottery|ropes|silk|soap|toys|wine"
).split("|")
LANDMARKS = (
    "belfry|bridge|cathedral|chapel|citadel|dam|fort|fountain|library|lighthouse|monument|museum|"
    "palace|pier|pyramid|statue|temple|theatre|tunnel|windmill"
).split("|")
GENRES = ("ballad|biography|comedy|drama|fable|farce|legend|mystery|poem|romance|saga|tragedy").split("|")
BIRTH_YEARS = tuple(str(year) for year in range(1801, 1841))
WORK_YEARS = tuple(str(year) for year in range(1851, 1891))
FOUNDING_YEARS = tuple(str(year) for year in range(1421, 1461))

# The attributes of each kind. How they are spread over a passage's sentences: one layout is a list of groups, one
# group is the attributes of one sentence. Their order is shuffled.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "person": (
        ("birthplace birth_year", "profession", "instrument"),
        ("birthplace birth_year", "profession instrument"),
        ("birthplace", "birth_year profession", "instrument"),
        ("birthplace profession", "birth_year", "instrument"),
        ("birthplace", "birth_year", "profession instrument"),
        ("birthplace", "birth_year", "profession", "instrument"),
    ),
    "place": (
        ("river product", "founded", "landmark"),
        ("river", "founded landmark", "product"),
        ("river founded", "product landmark"),
        ("river founded", "product", "landmark"),
        ("river", "founded", "product landmark"),
        ("river", "founded", "product", "landmark"),
    ),
    "work": (
        ("author year", "setting", "genre"),
        ("author genre", "year", "setting"),
        ("author genre", "year setting"),
        ("author year", "setting genre"),
        ("author", "year", "setting genre"),
        ("author", "year", "setting", "genre"),
    ),
}

SENTENCES: dict[str, tuple[str, ...]] = {
    "birthplace birth_year": (
        "Parish books place the birth of {whom} in {birthplace} in {birth_year}.",
        "Family letters say that {who} was born in {birth_year} in {birthplace}.",
    ),
    "birthplace profession": (
        "Born in {birthplace}, {who} became a {profession}.",
        "Neighbours in {birthplace}, where {who} was born, remember a {profession}.",
    ),
    "birth_year profession": (
        "Trained as a {profession}, {who} was born in {birth_year}.",
        "Papers call {whom} a {profession} born in {birth_year}.",
    ),
    "profession instrument": (
        "By day {who} was a {profession} and by night a player of the {instrument}.",
        "Though a {profession}, {who} also played the {instrument}.",
    ),
    "birthplace": (
        "Early life began for {whom} in {birthplace}.",
        "Home was {birthplace}, where {who} was born.",
    ),
    "birth_year": (
        "It was in {birth_year} that {who} was born.",
        "Records show that {who} was born in {birth_year}.",
    ),
    "profession": (
        "For a living {who} worked as a {profession}.",
        "Most people knew {whom} as a {profession}.",
    ),
    "instrument": (
        "In the evening {who} liked to play the {instrument}.",
        "Friends often heard {whom} play the {instrument}.",
    ),
    "river product": (
        "On the banks of the {river}, {who} is known for {product}.",
        "Boats carry {product} from {who} down the {river}.",
    ),
    "founded landmark": (
        "Founded in {founded}, {who} has a famous {landmark}.",
        "Since {founded}, when {who} was founded, there has been a {landmark}.",
    ),
    "river founded": (
        "Beside the {river} settlers built {who} in {founded}.",
        "Along the {river}, {who} was founded in {founded}.",
    ),
    "product landmark": (
        "Visitors come to {who} for its {landmark} and buy {product}.",
        "Besides a famous {landmark}, {who} is known for {product}.",
    ),
    "river": (
        "The river {river} flows through {who}.",
        "Past {who} runs the {river}.",
    ),
    "founded": (
        "Settlers built {who} in {founded}.",
        "Long ago, in {founded}, {who} was founded.",
    ),
    "product": (
        "People in {who} make {product}.",
        "Markets in {who} sell {product}.",
    ),
    "landmark": (
        "Tourists know {who} for its {landmark}.",
        "Above {who} stands a {landmark}.",
    ),
    "author year": (
        "Published in {year}, {who} was written by {author}.",
        "Only in {year} did {author} finish {who}.",
    ),
    "author genre": (
        "Written by {author}, {who} is a {genre}.",
        "With {who}, {author} wrote a {genre}.",
    ),
    "year setting": (
        "Readers of {year} first met {who}, a tale of {setting}.",
        "Set in {setting}, {who} came out in {year}.",
    ),
    "setting genre": (
        "As a {genre}, {who} takes place in {setting}.",
        "Like many a {genre}, {who} is set in {setting}.",
    ),
    "author": (
        "Nobody but {author} wrote {who}.",
        "Credit for {who} goes to {author}, who wrote it.",
    ),
    "year": (
        "Shops first sold {who} in {year}.",
        "Printers finished {who} in {year}.",
    ),
    "setting": (
        "All of {who} happens in {setting}.",
        "Scenes of {who} take place in {setting}.",
    ),
    "genre": (
        "Critics call {who} a {genre}.",
        "Libraries list {who} as a {genre}.",
    ),
}

QUESTION_FORMS: dict[str, tuple[str, ...]] = {
    "birthplace": (
        "Where was {it} born?",
        "In which town was {it} born?",
        "What is the birthplace of {it}?",
        "Which town does {it} come from?",
    ),
    "birth_year": (
        "When was {it} born?",
        "In which year was {it} born?",
        "What is the year of birth of {it}?",
    ),
    "profession": (
        "What was the profession of {it}?",
        "What did {it} do for a living?",
        "What did {it} work as?",
        "Which trade did {it} follow?",
    ),
    "instrument": (
        "Which instrument did {it} play?",
        "What instrument was played by {it}?",
        "On which instrument did {it} make music?",
    ),
    "river": (
        "Which river flows through {it}?",
        "On which river does {it} lie?",
        "What is the name of the river at {it}?",
    ),
    "founded": (
        "When was {it} founded?",
        "In which year was {it} founded?",
        "What is the founding year of {it}?",
    ),
    "product": (
        "What is {it} known for making?",
        "Which goods are made in {it}?",
        "What do people make in {it}?",
    ),
    "landmark": (
        "What is the landmark of {it}?",
        "Which famous building stands in {it}?",
        "What do visitors go to see in {it}?",
    ),
    "author": (
        "Who wrote {it}?",
        "Who is the author of {it}?",
        "By whom was {it} written?",
    ),
    "year": (
        "When was {it} published?",
        "In which year did {it} come out?",
        "What is the publication year of {it}?",
    ),
    "setting": (
        "Where is {it} set?",
        "In which town does {it} take place?",
        "What is the setting of {it}?",
    ),
    "genre": (
        "What is the genre of {it}?",
        "What kind of work is {it}?",
        "Which genre does {it} belong to?",
    ),
}

# The attributes whose value is another entity, and how that entity is described in a two-hop question.
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "author": ("the author of {it}", "the writer of {it}", "the person who wrote {it}"),
    "birthplace": ("the birthplace of {it}", "the town where {it} was born", "the town that {it} comes from"),
    "setting": ("the setting of {it}", "the town where {it} is set", "the town in which {it} takes place"),
}
