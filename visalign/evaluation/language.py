"""Nouns and likeness of words as AMBER's public code has them (nltk with WordNet, spaCy's vectors), and simpler nouns.

Both libraries want data that they load from their own sites. What is missing is an error that says how to get it;
nothing takes its place unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from ..records import DataError
from .objects import ENDINGS, IRREGULAR, tokenised

NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
VECTORS = "en_core_web_lg"
EXTRA = "pip install 'visalign[amber]'"


def nltk_nouns() -> Callable[[str], list[str]]:
    """Words that nltk tags NN*, WordNet's lemma of each, case as it stands. DataError where nltk or its data lack."""
    try:
        from nltk import pos_tag, word_tokenize
        from nltk.stem import WordNetLemmatizer
    except ImportError:
        raise DataError(f"AMBER's nouns are nltk's, which is not installed: {EXTRA}, or --nouns words") from None
    lemmatizer = WordNetLemmatizer()

    def nouns(text: str) -> list[str]:
        tagged = pos_tag(word_tokenize(text))
        return [str(lemmatizer.lemmatize(word)) for word, tag in tagged if tag.startswith("NN")]

    try:
        nouns("A dog.")
    except LookupError:
        wanted = " ".join(NLTK_DATA)
        raise DataError(f"nltk has no {wanted}: python -m nltk.downloader {wanted}, or --nouns words") from None
    return nouns


def known_nouns(known: Collection[str]) -> Callable[[str], list[str]]:
    """Words of a text, whatever part of speech, that are known or are the plural of one; a known form stays."""

    def singular(word: str) -> str:
        made = [IRREGULAR.get(word, word), *(word[: -len(old)] + new for old, new in ENDINGS if word.endswith(old))]
        return next((each for each in (word, *made) if each in known), word)

    return lambda text: [each for each in map(singular, tokenised(text.lower())) if each in known]


def spacy_similarity(model: str = VECTORS) -> Callable[[str, str], float]:
    """Cosine of two words' vectors in spaCy's en_core_web_lg, or another model or its folder; 1 for the same word.

    0 where a word has no vector, as spaCy has it. DataError where spaCy or the model lacks.
    """
    try:
        import spacy

        read = cache(spacy.load(model))
    except ImportError:
        raise DataError(f"AMBER's likeness is spaCy's, not installed: {EXTRA}, or --similarity none") from None
    except OSError:
        raise DataError(f"spaCy has no {model}: python -m spacy download {model}, or --similarity none") from None

    def similarity(one: str, other: str) -> float:
        first, second = read(one), read(other)
        if one == other:
            return 1.0
        return float(first.similarity(second)) if first.vector_norm and second.vector_norm else 0.0

    return similarity
