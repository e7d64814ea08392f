"""Readers of published preferences between answers about pictures: questions, pictures and pairs of answers as records.

Every reader gives one record a row: the question alone as prompt, the answers as items, the better one first, and its
pictures as media. The place of a picture in a chat is the template's affair, so `<image>` tags are taken off the
question, if they stand before or after it. Files may be parquet, JSON lines or a JSON list, whatever the format; paths
of pictures are relative to the file's folder. A row that no record can hold is given as `Bad` in its record's place; an
empty answer or a picture that is not there is held, and found by `faults.fault`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records import DataError, Preference
from .dialogue_rows import Row, read
from .quarantine import Bad

TAG = "<image>"
SPEAKERS = {"human": "user", "gpt": "assistant"}  # ShareGPT's words for roles
GROWTH = 0.5  # k of MM-DPO's beta (arXiv 2502.10391, App. F.2), by which ls_factor = 1 - exp(-k margin)
SURE = 1 - 1e-12  # the greatest ls_factor that a finite margin has
Found = list[Preference | Bad]


def rlhf_v(path: Path) -> Found:
    """RLHF-V (arXiv 2312.00849): parquet with an image and a JSON text of question, chosen and rejected."""
    return read(path, ("text", "image"), _rlhf_v)


def _rlhf_v(row: Row) -> dict[str, Any]:
    try:
        said = json.loads(row.text("text"))
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(f"text is not JSON ({error})") from None
    if not isinstance(said, dict):
        raise DataError(f"text must be an object with question, chosen and rejected, got {said!r:.80}")
    return _pair(_columns(Row(said), "question"), row.pictures(), "rlhf_v")


def rlaif_v(path: Path) -> Found:
    """RLAIF-V (arXiv 2405.17220): parquet with image, question, chosen and rejected.

    Its column `logps` is another model's log-probabilities, in bfloat16: it is not read.
    """
    columns = ("question", "chosen", "rejected", "image")
    return read(path, columns, lambda row: _pair(_columns(row, "question"), row.pictures(), "rlaif_v"))


def mm_rlhf(path: Path) -> Found:
    """MM-RLHF's dpo_pairs.jsonl (arXiv 2502.10391): image, prompt, chosen, rejected, reasons, is_tie, scores.

    Reasons become captions. Margins are kept: `scores`, two numbers, or `ls_factor` as the margin that it was made of;
    where they contradict the person's choice, the choice stays and the scores are left out. Rows with a video are bad;
    other models' log-probabilities and mixed_up_image are not read.
    """
    columns = (
        *("prompt", "chosen", "rejected", "image", "video", "chosen_reason", "rejected_reason"),
        *("is_tie", "scores", "ls_factor"),
    )
    return read(path, columns, _mm_rlhf)


def _mm_rlhf(row: Row) -> dict[str, Any]:
    row.refuse("video")
    made = _pair(_columns(row, "prompt"), row.pictures(), "mm_rlhf")
    if row.values.get("is_tie"):
        made["verdict"] = "tie"
    reasons = tuple(row.values.get(f"{side}_reason") for side in ("chosen", "rejected"))
    made["captions"] = reasons if all(isinstance(each, str) for each in reasons) else ()
    scores = _scores(row)
    first, second = scores or (math.nan, math.nan)
    agreed = first == second if made["verdict"] == "tie" else first > second
    return made | ({"scores": scores} if agreed else {})


def _scores(row: Row) -> list[float]:
    """The two answers' values, or none."""
    scores, factor = row.values.get("scores"), row.values.get("ls_factor")
    try:
        if scores is not None:
            first, second = (float(each) for each in scores)
            return [first, second]
        return [] if factor is None else [-math.log(1 - min(float(factor), SURE)) / GROWTH, 0.0]
    except (TypeError, ValueError):
        raise DataError(f"scores must be two numbers, and ls_factor one; got {scores!r}, {factor!r}") from None


def mdpo(path: Path) -> Found:
    """mDPO's JSON list from Silkie (arXiv 2406.11839): img_path, chosen, rejected, and a prompt inside its template."""
    return read(path, ("img_path", "prompt", "chosen", "rejected"), _mdpo)


def _mdpo(row: Row) -> dict[str, Any]:
    prompt, chosen, rejected = _columns(row, "prompt")
    _, user, rest = prompt.partition("USER:")
    question, assistant, after = rest.partition("ASSISTANT:")
    if not (user and assistant) or after.strip():
        raise DataError(f"prompt should read … USER: <image> QUESTION ASSISTANT:, one turn, got {prompt!r:.200}")
    return _pair((question.strip(), chosen, rejected), row.pictures(), "mdpo")


def trl_vision(path: Path) -> Found:
    """TRL's vision columns: image or images, and prompt, chosen, rejected as texts or as lists of messages."""
    return read(path, ("images", "image", "prompt", "chosen", "rejected"), _trl_vision)


def _trl_vision(row: Row) -> dict[str, Any]:
    prompt = row.value("prompt")
    question = prompt if isinstance(prompt, str) else _question(_turns(prompt))
    return _pair((question, *_answers(row)), row.pictures(), "trl_vision")


def llama_factory(path: Path) -> Found:
    """LLaMA-Factory's sharegpt layout: conversations, chosen, rejected and images; an `<image>` tag for each image."""
    columns = ("conversations", "chosen", "rejected", "images", "videos", "audios", "system", "tools")
    return read(path, columns, _llama_factory)


def _llama_factory(row: Row) -> dict[str, Any]:
    row.refuse("videos", "audios", "system", "tools")
    pictures, question = row.pictures(), _question(_turns(row.value("conversations")))
    if question.count(TAG) != len(pictures):
        raise DataError(f"{len(pictures)} images need as many {TAG} tags, the question has {question.count(TAG)}")
    return _pair((question, *_answers(row)), pictures, "llama_factory")


def ms_swift(path: Path) -> Found:
    """ms-swift's layout: messages, of which the last is the chosen answer, rejected_response and images."""
    columns = ("messages", "rejected_response", "images", "videos", "audios", "rejected_images", "tools", "objects")
    return read(path, columns, _ms_swift)


def _ms_swift(row: Row) -> dict[str, Any]:
    row.refuse("videos", "audios", "rejected_images", "tools", "objects")
    *before, (speaker, chosen) = _turns(row.value("messages"))
    if speaker != "assistant":
        raise DataError(f"the last of messages must be the assistant's, the chosen answer; it is the {speaker}'s")
    return _pair((_question(before), chosen, row.text("rejected_response")), row.pictures(), "ms_swift")


def _columns(row: Row, question: str) -> tuple[str, str, str]:
    return row.text(question), row.text("chosen"), row.text("rejected")


def _pair(texts: Sequence[str], pictures: tuple[str, ...], judge: str) -> dict[str, Any]:
    """A record's fields from (question, chosen, rejected); equal answers are a tie."""
    question, chosen, rejected = texts
    return {
        "prompt": untagged(question, len(pictures)),
        "items": (chosen, rejected),
        "media": pictures,
        "verdict": "tie" if chosen == rejected else "first",
        "judge": judge,
    }


def untagged(question: str, pictures: int) -> str:
    """A question without the `<image>` tags before and after it: none, or one for each picture. Raises DataError."""
    tags = question.count(TAG)
    if not tags:
        return question
    if tags != pictures:
        raise DataError(f"{tags} {TAG} tags for {pictures} pictures")
    text = question.strip()
    while text.startswith(TAG):
        text = text.removeprefix(TAG).strip()
    while text.endswith(TAG):
        text = text.removesuffix(TAG).strip()
    if TAG in text:
        raise DataError(f"an {TAG} tag stands inside the question; pictures are shown before it: {question!r:.200}")
    return text


def _turns(messages: Any) -> list[tuple[str, str]]:
    """(speaker, text) of each message, `<image>` where a picture stands among its parts."""
    if not isinstance(messages, list) or not messages:
        raise DataError(f"a conversation is a list of messages, got {messages!r:.80}")
    return [_turn(each) for each in messages]


def _turn(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise DataError(f"a message has role and content, or from and value; got {message!r:.80}")
    speaker = message.get("role") or message.get("from")
    content = message.get("content", message.get("value"))
    text = "".join(map(_part, content)) if isinstance(content, list) else content
    if not isinstance(speaker, str) or not isinstance(text, str):
        raise DataError(f"a message has role and content, or from and value; got {message!r:.200}")
    return SPEAKERS.get(speaker, speaker), text


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return TAG
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(f"a message's part is a text or an image, got {part!r:.80}")


def _question(turns: Sequence[tuple[str, str]]) -> str:
    """The text of the one turn before the answer, the user's. Raises DataError for a history, or a system's message."""
    speakers = [speaker for speaker, _ in turns]
    if speakers != ["user"]:
        raise DataError(f"a record holds one question, by the user; before the answer speak {', '.join(speakers)}")
    return turns[0][1]


def _answers(row: Row) -> list[str]:
    """chosen and rejected, each a text, a message, or a list of one message."""
    return [_answer(row.value(name)) for name in ("chosen", "rejected")]


def _answer(value: Any) -> str:
    if isinstance(value, str):
        return value
    turns = _turns(value if isinstance(value, list) else [value])
    if [speaker for speaker, _ in turns] != ["assistant"]:
        raise DataError(f"an answer is one message by the assistant, got {value!r:.200}")
    return turns[0][1]
