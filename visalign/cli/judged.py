"""Object HalBench and MMHal-Bench of `visalign evaluate --bench`: a chat reads or rates what a model answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from . import words
from .told import Told, file, note, synonyms, there, without

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluation.asking import Asker, Reply


def objhal(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """Object HalBench, its objects read by a chat, or by the rule "words"."""
    from ..data import hallucination
    from ..evaluation import objhal as measure
    from ..evaluation.asking import template
    from ..evaluation.beside import Measure
    from ..evaluation.objects import Objects

    lists = [each for each in annotations if each.suffix == ".jsonl"]
    if len(lists) != 1:
        raise words.UsageError("--bench objhal needs in --annotations its one .jsonl file, and COCO's two .json files")
    items = hallucination.halbench(lists[0])
    objects = Objects.halbench(synonyms(given))
    truth = there(objects, [each for each in annotations if each not in lists], [each.image for each in items])
    texts = _placed(path, items, hallucination.image_id)
    replies: list[Reply] | None = None
    who = "words"
    if given.chat:
        asked = template(file(given.judge_words), ("question", "answer")) if given.judge_words else measure.WORDS
        with _asker(given) as asker:
            replies, who = measure.extracted(items, texts, asker, asked), asker.name
    numbers = measure.objhal(texts, truth, objects, replies, extractor=who)
    rows = [Measure("answers that hallucinate, of those with objects", numbers.chair.refined, "lower"),
            Measure("objects hallucinated", numbers.chair.instance, "lower"),
            Measure("coverage: recall of what is there", numbers.chair.recall, "higher"),
            Measure("words an answer", f"{numbers.length:.1f}"),
            Measure("could not be read", str(numbers.unread))]  # fmt: skip
    sentence = f"{note(given)} Numbers of two extractors, or of two wordings, are not comparable.".strip()
    said = [None] * len(items) if replies is None else [each.failure or each.text for each in replies]
    each = [{"id": item.id, "reply": reply} for item, reply in zip(items, said, strict=True)]
    return Told(numbers.name, rows, sentence, numbers, each)


def mmhal(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """MMHal-Bench, rated by a chat."""
    from ..data import hallucination
    from ..evaluation import mmhal as measure
    from ..evaluation.asking import template
    from ..evaluation.beside import Measure

    if not given.chat:
        raise words.UsageError("--bench mmhal needs a judge: --chat '{name: endpoint, url: …, model: …}'")
    items = hallucination.mmhal_items(annotations[0])
    texts = _placed(path, items, str)
    asked = template(file(given.judge_words), measure.PLACES) if given.judge_words else measure.WORDS
    with _asker(given) as asker:
        replies, who = measure.judged(items, texts, asker, asked), asker.name
    numbers = measure.mmhal(items, replies, judge=who, variant=given.variant)
    rows = [Measure("score, 0 to 6", str(numbers.score)),
            Measure("answers that hallucinate", str(numbers.hallucination)),
            Measure("informativeness", f"{numbers.informativeness:.3f}"),
            Measure("without a rating", str(numbers.invalid)),
            *(Measure(f"score: {kind}", f"{value:.2f}") for kind, value in numbers.by_kind.items())]  # fmt: skip
    sentence = "Numbers of two judges, or of two wordings, are not comparable."
    each = [{"id": item.id, "rating": rating, "reply": reply.failure or reply.text}
            for item, rating, reply in zip(items, numbers.ratings, replies, strict=True)]  # fmt: skip
    return Told(numbers.name, rows, sentence, without(numbers, "ratings"), each)


def _placed(path: Path, items: Sequence[Any], id_of: Callable[[str], str]) -> list[str]:
    """Answers by the items' ids or places, by pictures where each has one, or in order, as public scripts write."""
    from ..data import answers

    ids, places = [each.id for each in items], [str(place) for place in range(len(items))]
    found = answers.read(path, ("question_id", "id"))
    if found.ids is None and ids != places:
        found = answers.read(path, ("image_id", "image"), id_of=id_of)
    return found.to(places if found.ids and set(places) <= set(found.ids) else ids)


@contextmanager
def _asker(given: Any) -> Iterator[Asker]:
    """Who is asked; replies are kept beside the report, and what is there is not asked again."""
    from pathlib import Path

    from .. import registry

    book = Path(given.out) / f"{given.bench}-replies.jsonl"
    with closing(registry.build("asker", {"name": "chat", "backend": words.named(given.chat), "book": book})) as made:
        yield made
