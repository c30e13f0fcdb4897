"""Words for people: whether captions name somebody, and questions about it."""

import re
from collections.abc import Sequence

import numpy as np

PEOPLE = frozenset(
    (  # noqa: SIM905
        "person people man men woman women boy boys girl girls child children kid kids baby babies toddler "
        "toddlers infant infants teen teens teenager teenagers adult adults lady ladies guy guys gentleman "
        "gentlemen human humans couple couples family families crowd crowds audience group team teams player "
        "players bride brides groom grooms bridesmaid bridesmaids groomsmen mother father mom dad parent parents "
        "son daughter brother brothers sister sisters friend friends student students teacher teachers worker "
        "workers chef chefs cook waiter waitress bartender soldier soldiers officer officers policeman policemen "
        "policewoman firefighter firefighters fireman firemen doctor nurse singer singers musician musicians band "
        "guitarist drummer dancer dancers actor actors actress model models politician president minister king "
        "queen prince princess pope priest athlete athletes cyclist cyclists biker bikers runner runners skier "
        "skiers snowboarder snowboarders surfer surfers skateboarder swimmer swimmers climber climbers hiker "
        "hikers rider riders driver drivers pilot fisherman fishermen farmer farmers tourist tourists visitor "
        "visitors customer customers shopper shoppers pedestrian pedestrians passenger passengers commuter "
        "commuters protester protesters fan fans spectator spectators performer performers artist artists painter "
        "photographer photographers businessman businesswoman cowboy cowboys football footballer batter pitcher "
        "catcher goalie referee coach wrestler wrestlers boxer boxers male female males females youth youths "
        "elderly someone somebody anyone everyone he she him her his hers they them their who twins celebrity "
        "celebrities santa monk monks nun nuns sailor sailors"
    ).split()
)
AMBIGUOUS = frozenset(  # a person may be meant, or part of one be seen
    (  # noqa: SIM905
        "group team band model models cook king queen football fans fan they them their who male female males "
        "females human youth hand hands face arm arms leg legs finger fingers foot feet head hair mannequin "
        "mannequins statue statues sculpture doll dolls portrait character characters costume dress shirt suit "
        "uniform wearing wears selfie body players parade wedding concert festival match game"
    ).split()
)
QUESTIONS_YES_NO = (
    "Is there a person in the picture?",
    "Is there anybody in the picture?",
    "Are there people in the picture?",
    "Can you see a person?",
)
WHO = ("Who is in the picture?", "Who can be seen?")
NOBODY = "nobody"


def words_of(captions: Sequence[str]) -> set[str]:
    """Return the words of the captions in lower case."""
    return {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}


def names_people(captions: Sequence[str]) -> bool:
    """Return whether any caption surely names a person."""
    return bool(words_of(captions) & (PEOPLE - AMBIGUOUS))


def names_nobody(captions: Sequence[str]) -> bool:
    """Return whether no caption names a person or anything that suggests one."""
    return bool(captions) and not words_of(captions) & (PEOPLE | AMBIGUOUS)


def people_questions(captions: Sequence[str], generator: np.random.Generator) -> list[tuple[str, str]]:
    """Return a question about people and its answer, or none if the captions leave it open."""
    somebody = names_people(captions)
    if not somebody and not names_nobody(captions):
        return []
    if somebody or generator.random() < 0.7:
        return [(str(generator.choice(QUESTIONS_YES_NO)), "yes" if somebody else "no")]
    return [(str(generator.choice(WHO)), NOBODY)]
