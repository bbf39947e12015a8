"""Made-up names and everyday words. Every name is a function of a seeded generator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

ONSETS = "b br d dr f g gr h j k kl l m n p r s sk st t tr v z".split()
VOWELS = "a e i o u".split()
CODAS = "l n r s k m".split()
SURNAME_ENDINGS = "dane holt ley mar rick sen tov wen".split()
TOWN_ENDINGS = "bury dale ford haven moss port stead wick".split()

ANIMALS = (
    "badger bear cat crow deer dog duck eagle fox frog goat goose hare hawk hen heron horse lamb lynx mole "
    "otter owl ox pig raven seal swan toad trout wolf"
).split()
PLANTS = "ash birch cedar clover daisy elm fern ivy lily maple moss oak pine poppy reed rose thistle tulip".split()
TOOLS = "anvil axe brush chisel drill file hammer knife ladder needle pliers saw shovel spade tongs wrench".split()
THINGS = (
    "barrel basket bell blanket boot bottle bowl box button candle chair clock coat compass cup drum engine kettle key "
    "lamp lantern lens lock loom map mill mirror oven pen pipe plough pump ring rope sail scale stove table wheel"
).split()
PROFESSIONS = (
    "actor baker banker barber builder butcher carpenter clerk cook dancer doctor driver farmer gardener guard hunter "
    "judge lawyer miller miner nurse painter pilot potter sailor shepherd singer smith tailor teacher"
).split()
INSTRUMENTS = (
    "banjo bugle cello cornet fiddle flute guitar harp horn lute oboe organ piano trumpet viola whistle".split()
)
FOODS = (
    "apples beans berries bread cabbage cake carrots cheese cherries corn eggs figs fish grapes honey leeks lemons mushrooms "
    "noodles nuts olives onions pears peas pickles plums porridge rice soup turnips"
).split()
GOODS = (
    "amber bricks candles carpets coal copper cotton glass gloves hats ink iron lace leather marble paper pearls perfume "
    "pottery ribbons salt shoes silk silver soap spices tea timber tin wool"
).split()
COLOURS = "black blue brown crimson gold green grey orange pink purple red scarlet silver turquoise violet white yellow".split()
MONTHS = "January February March April May June July August September October November December".split()
GOOD_WORDS = "brilliant charming cheerful delightful excellent friendly lovely pleasant superb wonderful".split()
BAD_WORDS = "awful boring broken dirty dreadful horrible nasty rotten terrible ugly".split()
OPPOSITES = (
    "hot cold|big small|fast slow|old new|wet dry|high low|early late|light dark|loud quiet|hard soft|rich poor|full empty|"
    "open shut|near far|sweet sour|thick thin"
)
OPPOSITE_PAIRS = tuple((pair.split()[0], pair.split()[1]) for pair in OPPOSITES.split("|"))


def first_name(random: Random) -> str:
    return (_syllable(random) + _syllable(random) + random.choice(["", *CODAS])).capitalize()


def surname(random: Random) -> str:
    return (_syllable(random) + random.choice(CODAS) + random.choice(SURNAME_ENDINGS)).capitalize()


def person(random: Random) -> str:
    return f"{first_name(random)} {surname(random)}"


def town(random: Random) -> str:
    return (_syllable(random) + random.choice(CODAS) + random.choice(TOWN_ENDINGS)).capitalize()


def distinct(make: Callable[[Random], str], count: int, random: Random, *, unlike: Collection[str] = ()) -> list[str]:
    """`count` different names, none of them in `unlike`, in the order in which they were made."""
    made: dict[str, None] = {}
    while len(made) < count:
        name = make(random)
        if name not in unlike:
            made[name] = None
    return list(made)


def _syllable(random: Random) -> str:
    return random.choice(ONSETS) + random.choice(VOWELS)


# The towns people come from: ordinary words of this little language. Nothing else is ever said of them.
TOWNS = tuple(distinct(town, 40, Random("towns")))
