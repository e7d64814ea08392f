"""The playground: a small world of captioned shapes with real tiny models, so that everything runs on a laptop.

The shipped model is defined as the float16 values on disk, upcast to float32.
"""

from __future__ import annotations

from pathlib import Path

GUIDANCE = 1.3  # the classifier-free guidance and number of DDIM steps at which its numbers are stated
STEPS = 12
MOVING_GUIDANCE = 2.0  # that of the model of clips, at as many steps


def folder() -> Path:
    """The shipped text-to-image model: a folder that `StableDiffusionPipeline.from_pretrained` loads."""
    return Path(__file__).resolve().parent / "weights" / "text_to_image"


def moving_folder() -> Path:
    """The shipped text-to-video model: a folder that `AnimateDiffPipeline.from_pretrained` loads."""
    return Path(__file__).resolve().parent / "weights" / "moving"


def shipped_votes(file: str = "records.parquet") -> Path:
    """Simulated votes that ship: on pictures, of moving.parquet on segments of clips, of seeing.parquet on answers."""
    return Path(__file__).resolve().parent / "votes" / file


def found(path: str, file: str) -> Path:
    """Where records are that a recipe calls `path`: "playground" is the shipped `file` of votes."""
    return shipped_votes(file) if path == "playground" else Path(path).expanduser()


SHIPPED = {"playground": folder, "playground_moving": moving_folder}  # what draws, by the names that commands know


def scorer_folder() -> Path:
    """The shipped learned scorer: a folder as open_clip's "local-dir:" loads it."""
    return Path(__file__).resolve().parent / "weights" / "scorer"


def seeing_folder() -> Path:
    """The shipped image-text-to-text model: a folder that transformers' `AutoModelForImageTextToText` loads."""
    return Path(__file__).resolve().parent / "weights" / "seeing"
