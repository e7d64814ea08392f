"""Object HalBench: CHAIR over objects that a language model reads out of answers (arXiv 1809.02156, 2312.00849).

Of RLHF-V (eval/eval_gpt_obj_halbench.py) come the protocol, each object word once an answer, and the share that is
reported: hallucinating answers among those that name a COCO object. It asked gpt-3.5-turbo-0613; numbers of another
extractor, of the rule that needs none ("words"), and of plain CHAIR are other numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from ..records import DataError
from .asking import Asker, Reply, filled
from .chair import Chair, chair
from .objects import Objects

SHORT = 3  # words of an answer that is not asked about: it names nothing
WORDS = """\
Here are a question about a picture and an answer to it. Take the answer to be true.

Question: {question}

Answer: {answer}

Which visible objects does the answer itself say are in the picture? Name each as a bare noun, without colour, material,
size, number or any other attribute. Leave out whatever the answer does not mention. Reply with a JSON list of strings
and nothing else: ["…", "…"], or [] if there are none.
"""


@dataclass(frozen=True)
class Item:
    """One question about a picture of COCO."""

    id: str
    image: str
    question: str


@dataclass(frozen=True)
class ObjHal:
    """Object HalBench's numbers; what could not be extracted is left out and counted."""

    name: str  # with the extractor
    response: float  # CHAIR_s, refined
    object: float  # CHAIR_i over each answer's different words
    recall: float
    length: float  # words an answer, at blanks
    unread: int
    reasons: tuple[str, ...]  # why they could not be
    chair: Chair


def listed(text: str) -> list[str] | None:
    """The one JSON list of strings in a reply, or None; "()" is the empty list, as the public prompt spells it."""
    if text.strip() == "()":
        return []
    found = re.findall(r"\[[^\[\]]*\]", text)
    try:
        made = json.loads(found[-1]) if len(found) == 1 else None
    except ValueError:
        return None
    return made if isinstance(made, list) and all(isinstance(each, str) for each in made) else None


def extracted(items: Sequence[Item], answers: Sequence[str], asker: Asker, words: str = WORDS) -> list[Reply]:
    """What the model reads out of each answer; short ones are not asked about and name nothing."""
    long = [place for place, answer in enumerate(answers) if len(answer.split()) > SHORT]
    texts = [filled(words, question=items[place].question, answer=answers[place]) for place in long]
    came = dict(zip(long, asker.ask(texts), strict=True))
    return [came.get(place, Reply("[]")) for place in range(len(answers))]


def head(objects: Objects) -> Callable[[str], list[str]]:
    """A rule for what a name such as "wooden dining tables" says: its double words, or itself, or its last word.

    The public code tags parts of speech with spaCy's en_core_web_trf instead: there, "coffee table" is no table.
    """

    def names(text: str) -> list[str]:
        parts = [objects.singular(each) for each in objects.tokens(text.lower())]
        merged = objects.merged(parts)
        doubles = [each for each in merged if each in objects.doubles.values() and each not in parts]
        whole = " ".join(parts)
        return doubles or ([whole] if whole in objects.classes else parts[-1:])

    return names


def objhal(
    answers: Sequence[str],
    truth: Sequence[Set[str]],
    objects: Objects,
    replies: Sequence[Reply] | None = None,
    *,
    extractor: str = "words",
    names: Callable[[str], list[str]] | None = None,
) -> ObjHal:
    """The numbers of n answers, by what an extractor replied, or by the words of the answers where it is None.

    `names` is what an object's name stands for, `head` by default. Raises DataError if nothing could be extracted.
    """
    told = names or head(objects)
    lists = [None if each.failure else listed(each.text) for each in replies or ()]
    said = (
        [objects.words(answer) for answer in answers]
        if replies is None
        else [None if each is None else objects.kept([one for name in each for one in told(name)]) for each in lists]
    )
    rows = [(each, there, answer) for each, there, answer in zip(said, truth, answers, strict=True) if each is not None]
    if not rows:
        raise DataError(f"of {len(said)} answers none could be read: {_reasons(lists, replies or ())[:1]}")
    mentioned = [[objects.classes[word] for word in dict.fromkeys(each)] for each, _, _ in rows]
    found = chair(mentioned, [there for _, there, _ in rows])
    return ObjHal(
        name=f"Object HalBench by {extractor}",
        response=found.refined.value,
        object=found.instance.value,
        recall=found.recall.value,
        length=sum(len(answer.strip().split(" ")) for _, _, answer in rows) / len(rows),
        unread=len(said) - len(rows),
        reasons=_reasons(lists, replies or ()),
        chair=found,
    )


def _reasons(lists: Sequence[list[str] | None], replies: Sequence[Reply]) -> tuple[str, ...]:
    missing = [reply for made, reply in zip(lists, replies, strict=True) if made is None]
    return tuple(each.failure or f"no JSON list of strings: {each.text[:80]!r}" for each in missing)
