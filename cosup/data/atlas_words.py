"""What the atlas is made of: the words of its names and values, the sentences of its passages, its question forms.

No word stands in two lists of name parts, so that a name can never come about by accident between two others.
In templates `{Who}`/`{who}` is the entity's name at its first mention and a pronoun or noun after it; every other
slot is an attribute's value. `{it}` in a question form is a name or, in a two-hop question, a description.
"""

from __future__ import annotations

HER_NAMES = (
    "Ada Agnes Alma Anna Astrid Beatrix Bella Clara Cora Daphne Dora Edith Elena Elsa Emma Esther Eva Fiona Flora "
    "Freya Greta Hanna Hazel Helena Ida Ines Irma Judith Julia Karin Laura Lena Lydia Mara Nora Olga Paula Rosa "
    "Selma Vera"
).split()
HIS_NAMES = (
    "Adam Albert Anton Arno Axel Boris Bruno Carl Conrad Cyril David Edgar Emil Erik Felix Franz Georg Gustav "
    "Harold Henrik Hugo Igor Ivan Jacob Jonas Julius Karl Leon Lukas Magnus Martin Milo Nils Oscar Otto Paul "
    "Ralph Simon Tobias Victor"
).split()
SURNAMES = (
    "Abel Alder Ames Archer Baker Barlow Becker Berg Bishop Blake Bolt Brandt Brook Carter Chase Cole Cooper "
    "Crane Croft Dahl Dalton Drake Dunn Ekman Ellis Falk Farrow Finch Fisher Foss Frost Gale Garner Grant Haas "
    "Hale Hansen Harper Hart Holm Hunter Keller Kent Kruger Lang Larsen Lind Lowe Marsh Mason Mercer Moser Nash "
    "Nolan Norden Olsen Orton Page Parr Pike Quinn Reed Rhodes Roth Sayer Shaw Sloan Stark Strand Tanner Thorne "
    "Tyler Vance Vogel Wade Walsh Weber Winter Wolfe York"
).split()

PLACE_FIRST = (
    "Amber Apple Ash Barley Beacon Birch Black Bright Bronze Cedar Cherry Clay Cloud Copper Coral Crow Deer Eagle "
    "East Elm Falcon Fern Flint Fox Glass Green Grey Hare Hazelnut Heron High Holly Honey Iron Ivy Juniper Kings "
    "Lark Lime Long Maple Marble Mill Moss North Oak Old Otter Pearl Pine Plum Queens Raven Red Salt Sand South "
    "Stone Swan Willow"
).split()
PLACE_SECOND = (
    "Abbey Bay Bank Bend Bridge Castle Cove Cross Dale End Falls Fields Ford Gate Glen Harbor Heath Hill Hollow "
    "Island Landing Market Mead Mouth Pass Point Port Ridge Springs Vale"
).split()
RIVERS = (
    "Aldo Arle Avra Belle Brenna Calder Cassel Dorn Elba Ember Fenna Galla Hesse Ilma Isar Jorda Kessa Lenna Lora "
    "Maren Mosel Nara Nessa Orla Pella Rana Rilla Saria Selle Tamar Tessel Tiva Ulla Velda Vesla Warra Wenna "
    "Yarra Zella Zorna"
).split()

WORK_ADJECTIVES = (
    "Ancient Blind Blue Broken Burning Careful Clever Cold Crooked Dancing Distant Dusty Empty Endless Faithful "
    "Fallen Foolish Forgotten Frozen Gentle Gilded Golden Happy Hidden Humble Hungry Invisible Last Little Lonely "
    "Lost Lucky Midnight Missing Painted Patient Proud Quiet Restless Sacred Secret Seventh Silent Silver "
    "Sleeping Stolen Strange Twisted Velvet Wandering"
).split()
WORK_NOUNS = (
    "Anchor Angel Arrow Balloon Bell Boat Candle Carpet Chair Circus Clock Coat Compass Crown Diary Doctor Door "
    "Dragon Drum Feather Fiddle Flower Garden Ghost Giant Guest Hat Horse Hotel House Inn Jewel Key Kite Ladder "
    "Lamp Lantern Letter Lighthouse Machine Map Mask Mirror Moon Orchard Parrot Pilot Prince Puppet Ring Sailor "
    "Shadow Ship Sparrow Stranger Tower Train Tree Umbrella Window"
).split()
WORK_THEMES = (
    "Ashes Autumn Birds Bones Chance Children Courage Darkness Dreams Dust Echoes Embers Fire Fools Fortune Hope "
    "Ice Joy Kindness Light Memory Mercy Mist Music Night Pride Rain Roses Rust Secrets Silence Sleep Smoke Snow "
    "Sorrow Spring Stars Storms Summer Thunder"
).split()

PROFESSIONS = (
    "baker|banker|barber|bookbinder|botanist|carpenter|chemist|clockmaker|cook|dentist|doctor|farmer|gardener|glassblower|"
    "goldsmith|hatter|judge|lawyer|locksmith|miller|miner|nurse|painter|pilot|potter|sailor|sculptor|shepherd|surgeon|"
    "tailor|teacher|translator|watchman|weaver"
).split("|")
INSTRUMENTS = (
    "banjo|bassoon|bugle|cello|clarinet|cornet|drums|fiddle|flute|guitar|harp|horn|lute|mandolin|piano|piccolo|recorder|"
    "trombone|trumpet|tuba|viola|violin|whistle|zither"
).split("|")
PRODUCTS = (
    "bells|boots|bricks|butter|candles|carpets|carts|cheese|cider|clocks|dolls|gloves|hats|honey|kites|knives|lace|lamps|"
    "linen|mirrors|mustard|needles|paper|pencils|pies|pottery|ropes|saddles|silk|soap|spoons|tea|tiles|toys|umbrellas|wine"
).split("|")
LANDMARKS = (
    "belfry|bridge|cathedral|chapel|citadel|dam|fort|fountain|garden|granary|lighthouse|library|monument|"
    "museum|palace|pier|prison|pyramid|stadium|statue|temple|theatre|tower|tunnel|university|viaduct|windmill"
).split("|")
GENRES = (
    "ballad|biography|comedy|diary|drama|fable|farce|legend|memoir|mystery|novel|poem|romance|saga|satire|thriller|tragedy"
).split("|")
BIRTH_YEARS = tuple(str(year) for year in range(1781, 1841))
WORK_YEARS = tuple(str(year) for year in range(1851, 1911))
FOUNDING_YEARS = tuple(str(year) for year in range(1421, 1481))

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
        "{Who} was born in {birthplace} in {birth_year}.",
        "In {birth_year} {who} was born in {birthplace}.",
        "{Who} came into the world in {birth_year} at {birthplace}.",
    ),
    "birthplace profession": (
        "Born in {birthplace}, {who} became a {profession}.",
        "{Who} was a {profession} from {birthplace}.",
        "A {profession} by trade, {who} was born in {birthplace}.",
    ),
    "birth_year profession": (
        "Born in {birth_year}, {who} worked as a {profession}.",
        "{Who} was a {profession} born in {birth_year}.",
        "A {profession} for many years, {who} was born in {birth_year}.",
    ),
    "profession instrument": (
        "{Who} worked as a {profession} and played the {instrument}.",
        "By day {who} was a {profession} and by night a player of the {instrument}.",
        "{Who} played the {instrument} but lived as a {profession}.",
    ),
    "birthplace": (
        "{Who} was born in {birthplace}.",
        "{birthplace} was the town where {who} was born.",
        "{Who} first saw the light in {birthplace}.",
    ),
    "birth_year": (
        "{Who} was born in {birth_year}.",
        "{Who} came into the world in {birth_year}.",
        "It was in {birth_year} that {who} was born.",
    ),
    "profession": (
        "{Who} worked as a {profession}.",
        "{Who} made a living as a {profession}.",
        "For most of the time {who} was a {profession}.",
    ),
    "instrument": (
        "{Who} played the {instrument}.",
        "In the evening {who} liked to play the {instrument}.",
        "Friends knew {whom} as a fine player of the {instrument}.",
    ),
    "river product": (
        "{Who} lies on the river {river} and makes {product}.",
        "On the banks of the {river}, {who} is known for {product}.",
        "{Who} sells {product} along the river {river}.",
    ),
    "founded landmark": (
        "{Who} was founded in {founded} around a {landmark}.",
        "Founded in {founded}, {who} has a famous {landmark}.",
        "In {founded} settlers built {who} around a {landmark}.",
    ),
    "river founded": (
        "{Who} was founded in {founded} on the river {river}.",
        "In {founded} settlers built {who} beside the {river}.",
        "Founded in {founded}, {who} lies on the {river}.",
    ),
    "product landmark": (
        "{Who} is known for {product} and for a {landmark}.",
        "Visitors come to {who} for its {landmark} and buy {product}.",
        "{Who} makes {product} and shows a {landmark}.",
    ),
    "river": (
        "{Who} lies on the river {river}.",
        "The river {river} flows through {who}.",
        "The {river} runs past {who}.",
    ),
    "founded": (
        "{Who} was founded in {founded}.",
        "Settlers built {who} in {founded}.",
        "The first houses of {who} went up in {founded}.",
    ),
    "product": (
        "{Who} is known for {product}.",
        "People in {who} make {product}.",
        "The markets of {who} sell {product}.",
    ),
    "landmark": (
        "{Who} has a famous {landmark}.",
        "The pride of {who} is a {landmark}.",
        "Visitors come to {who} for the {landmark}.",
    ),
    "author year": (
        "{Who} was written by {author} in {year}.",
        "In {year} {author} published {who}.",
        "{author} finished {who} in {year}.",
    ),
    "author genre": (
        "{Who} is a {genre} by {author}.",
        "{author} wrote {who} as a {genre}.",
        "Written by {author}, {who} is a {genre}.",
    ),
    "year setting": (
        "{Who} came out in {year} and is set in {setting}.",
        "Set in {setting}, {who} was published in {year}.",
        "In {year} readers first met {who}, a tale of {setting}.",
    ),
    "setting genre": (
        "{Who} is a {genre} set in {setting}.",
        "As a {genre}, {who} takes place in {setting}.",
        "Set in {setting}, {who} is read as a {genre}.",
    ),
    "author": (
        "{Who} was written by {author}.",
        "{author} wrote {who}.",
        "The author of {who} is {author}.",
    ),
    "year": (
        "{Who} was published in {year}.",
        "{Who} came out in {year}.",
        "Readers first met {who} in {year}.",
    ),
    "setting": (
        "{Who} is set in {setting}.",
        "The story of {who} takes place in {setting}.",
        "All of {who} happens in {setting}.",
    ),
    "genre": (
        "{Who} is a {genre}.",
        "Critics call {who} a {genre}.",
        "{Who} is read as a {genre}.",
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
