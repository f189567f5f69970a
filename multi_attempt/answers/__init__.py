"""Finding the answer in the text of one attempt, wherever it may stand (``places``)."""

from multi_attempt.answers.places import EXTRACTORS, Extractor, answer_tag, boxed, extractor, place, stated

__all__ = ["EXTRACTORS", "Extractor", "answer_tag", "boxed", "extractor", "place", "stated"]
