"""What a chat template writes around a question and its answer.

PaliGemma has no template and a plain form: the marks of the pictures, the question, and a line break, which its own
processor writes itself.
"""

from __future__ import annotations

from typing import Any

PALIGEMMA = "PaliGemmaProcessor"
QUESTION, ANSWER = "a question to probe with", "an answer to probe with"


class Unreadable(ValueError):
    """A dialogue that a model cannot be shown; says why in a few words."""


class Wording:
    """The text of questions, and what the template puts before and behind an answer; found out once, with a probe.

    `after` is the text behind the question, up to where the answer is asked for; `lead` the text between there and the
    answer, often a space; `tail` the ids behind the answer up to and with the first of `ends`, or the tokenizer's end
    where the template writes none. Raises Unreadable for a template that does not show what it is told, or for none.
    """

    def __init__(self, processor: Any, ends: frozenset[int | None]) -> None:
        self.processor = processor
        self.plain = type(processor).__name__ == PALIGEMMA and not processor.chat_template
        self.after, self.lead, behind = ("\n", "", "") if self.plain else self._probed()
        ids = processor.tokenizer(behind, add_special_tokens=False)["input_ids"]
        end = next((place for place, each in enumerate(ids) if each in ends), None)
        if end is None and processor.tokenizer.eos_token_id is None:
            raise Unreadable("neither the chat template nor the tokenizer has a mark for the end of an answer")
        self.tail: list[int] = [processor.tokenizer.eos_token_id] if end is None else ids[: end + 1]

    def question(self, prompt: str, pictures: int) -> str:
        """The question behind its pictures, up to where the answer begins; one mark for each picture."""
        if self.plain:
            return f"{self.processor.image_token * pictures}{prompt}\n"
        return self._rendered([_turn("user", prompt, pictures)], opened=True)

    def place(self, text: str, prompt: str) -> tuple[int, int]:
        """Where the question's own words stand in `question(prompt, …)`; raises Unreadable if they were changed."""
        before = text[: len(text) - len(self.after)].rstrip()
        own = prompt.strip()
        if not (text.endswith(self.after) and before.endswith(own)):
            raise Unreadable("the chat template changes the question")
        return len(before) - len(own), len(before)

    def _probed(self) -> tuple[str, str, str]:
        if not self.processor.chat_template:
            kind = type(self.processor).__name__
            raise Unreadable(f"the {kind} has no chat template: put a chat_template.jinja in the model's folder")
        turns = [_turn("user", QUESTION, 1), _turn("assistant", ANSWER, 0)]
        asked, answered = self._rendered(turns[:1], opened=True), self._rendered(turns, opened=False)
        if QUESTION not in asked or ANSWER not in answered:
            raise Unreadable("the chat template does not show what it is told")
        before, _, behind = answered.rpartition(ANSWER)
        lead = before.removeprefix(asked) if before.startswith(asked) else ""
        return asked.rpartition(QUESTION)[2], lead, behind

    def _rendered(self, turns: list[dict[str, Any]], *, opened: bool) -> str:
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=opened, tokenize=False))


def _turn(role: str, text: str, pictures: int) -> dict[str, Any]:
    shown: list[dict[str, str]] = [{"type": "image"}] * pictures
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}
