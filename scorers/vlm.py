"""What scorers on Qwen2-VL and Qwen2.5-VL with a head of their own share: HPSv3, VideoReward, EditReward.

Their numbers are read at marks, tokens that training added to the vocabulary, by a head in float32. Batches are padded
on the right, where no mark sees the padding, so a batch scores as its samples do one by one. Two things are the
released code's: all three axes of the rotary positions count tokens one by one, since it hands embeddings to the
language model past `get_rope_index`; and the vocabulary has as many rows as the checkpoint.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from visalign.images import ImageError, Misuse
from visalign.models import states
from visalign.scoring import Sample, Spec

from .clip import PathLike, device_of, frozen
from .reading import told
from .running import Running, full_precision

T = TypeVar("T")
HOLE = "{text_prompt}"  # where the prompt goes in a wording
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
ROWS = "model.language_model.embed_tokens.weight"


class Unjudged(ValueError):
    """A sample that cannot be judged; says why in a few words."""


def plain(prompt: str, tokenizer: Any) -> str:
    """The prompt as it is `told`; raises Unjudged if it holds a token that means something to the model."""
    found = next((each for each in tokenizer.get_added_vocab() if each in prompt), None)
    if found is not None:
        raise Unjudged(f"the prompt holds {found}, which means something else to the model")
    return told(prompt)


def processor(folder: Path) -> Any:
    """The processor of a transformers model's folder; ValueError where it has none that can be read."""
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no whole processor and tokenizer ({type(error).__name__}: {error})"
        ) from error


class Marked:
    """A Qwen2-VL or Qwen2.5-VL without its language head, read at marks.

    Args:
        folder: the base model's config.json, tokenizer and processor; its weights are not read.
        state: the checkpoint under the names of transformers 5 (`renamed`); heads and what else is in it are left.
        marks: the tokens that training added, in the order in which they were added.
        tokens: how many a picture should make, about; each is a square of `step` pixels a side.
    """

    def __init__(
        self,
        folder: PathLike,
        state: Mapping[str, Tensor],
        where: str,
        *,
        marks: Sequence[str],
        tokens: int,
        run: Running,
    ) -> None:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        path = Path(folder).expanduser()
        if not (path / "config.json").is_file():
            raise ValueError(f"no model at {folder}: give the folder of the base model, with config and tokenizer")
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ValueError(f"{folder} is a {config.model_type}; this scorer is made of {' or '.join(FAMILIES)}")
        self.processor = processor(path)
        self.processor.tokenizer.add_tokens(list(marks), special_tokens=True)
        vision = config.vision_config
        self.step = int(vision.patch_size * vision.spatial_merge_size)
        self.pixels = tokens * self.step**2
        self.processor.image_processor = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            do_resize=False,
        )
        self.width = int(config.text_config.hidden_size)
        self.network = network(config, state, where, len(self.processor.tokenizer), run.dtype)
        self.network.to(run.device)
        self.marks = torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(list(marks)), device=run.device)

    def text(self, parts: Sequence[str], words: str) -> str:
        """The chat's text: pictures ("image") and clips ("video") first, then the words."""
        content: list[dict[str, str]] = [{"type": part} for part in parts] + [{"type": "text", "text": words}]
        chat = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    def clean(self, prompt: str) -> str:
        """The prompt itself; raises Unjudged if it holds a token that means something to the model."""
        return plain(prompt, self.processor.tokenizer)

    def size(self, wide: int, tall: int, least: int | None = None) -> tuple[int, int]:
        """Width and height of a picture of about as many tokens as wished, or of at least `least` pixels; of a ribbon
        too long for that raises Unjudged.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        try:
            height, width = smart_resize(tall, wide, self.step, self.pixels if least is None else least, self.pixels)
        except ValueError as error:
            raise Unjudged(str(error)) from None
        return width, height

    def sized(self, image: Image.Image) -> Image.Image:
        """A picture as the model reads it: Pillow's bicubic resize, as the released code's."""
        return image.resize(self.size(*image.size), Image.Resampling.BICUBIC)

    def read(self, texts: Sequence[str], pictures: Sequence[Image.Image] = (), clips: Sequence[Tensor] = ()) -> Tensor:
        """(n, marks, width) float32: what the last layer says at each mark.

        Pictures (`sized`) and clips (frames, 3, h, w; uint8 in a final size) are in the order of the texts.
        """
        inputs = self.processor(
            text=list(texts), images=list(pictures) or None, videos=list(clips) or None, padding=True,
            padding_side="right", return_tensors="pt",
            videos_kwargs={"do_resize": False, "do_sample_frames": False},
        ).to(device_of(self.network))  # fmt: skip
        ids = inputs["input_ids"]
        counted = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)  # no M-RoPE
        said = self.network(**inputs, position_ids=counted, use_cache=False).last_hidden_state
        at = ids[:, :, None] == self.marks
        if not bool((at.sum(1) == 1).all()):
            raise ValueError("each mark stands exactly once in a text; look at the wording")
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        found: Tensor = said[rows, at.int().argmax(1)].float()
        return found


def network(config: Any, state: Mapping[str, Tensor], where: str, tokens: int, dtype: torch.dtype) -> nn.Module:
    """The model without its language head, of a checkpoint's "model." tensors, loaded strictly."""
    from transformers import AutoModel

    if ROWS not in state:
        raise states.WeightsError(f"{where} does not fit: it lacks {ROWS}, under this or its old name")
    config.text_config.vocab_size = len(state[ROWS])
    if tokens > len(state[ROWS]):
        raise states.WeightsError(f"{where} has {len(state[ROWS])} rows for {tokens} tokens: not this base model's")
    with torch.device("meta"):
        empty = AutoModel.from_config(config)
    body = {name.removeprefix("model."): each for name, each in state.items() if name.startswith("model.")}
    states.load_into(empty, body, where, dtype)
    return frozen(counted(empty))


def counted(module: nn.Module) -> nn.Module:
    """The module with the rotary frequencies, which files do not hold and which follow from the configuration."""
    for part in module.modules():
        lost = [name for name, each in part.named_buffers(recurse=False) if each.is_meta]
        fresh: Any = type(part)(part.config) if lost else None
        for name in lost:
            setattr(part, name, getattr(fresh, name))
    return module


def gathered(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of all files of weights in a folder: safetensors, else torch's."""
    if not path.is_dir():
        return states.read(path)
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin")) or sorted(path.glob("*.pth"))
    if not files:
        raise states.WeightsError(f"{path} holds no *.safetensors, pytorch_model*.bin or *.pth")
    return {name: each for file in files for name, each in states.read(file).items()}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of transformers 5 (older releases: "visual.", "model.layers."), without the language head."""
    old = any(name.startswith("visual.") for name in state)
    kept = {name: each for name, each in state.items() if not name.startswith("lm_head.")}
    return {_new(name): each for name, each in kept.items()} if old else kept


def _new(name: str) -> str:
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def ranked_head(width: int, outputs: int) -> nn.Sequential:
    """The head that HPSv3 and EditReward call "ranknet"; its dropout is not for scoring."""
    with torch.device("meta"):
        return nn.Sequential(
            nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, outputs)
        )


def load_head(head: nn.Module, state: Mapping[str, Tensor], prefix: str, where: str, run: Running) -> nn.Module:
    """A head in float32, of the checkpoint's tensors under a prefix, loaded strictly."""
    own = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
    states.load_into(head, own, f"{where} ({prefix}…)")
    return frozen(head).to(run.device)


def wording(source: PathLike, names: Sequence[str], marks: Sequence[str]) -> str:
    """What a model is asked, word for word as in training.

    `source` is a text file; or released Python, a file or a folder, which is read and not run: then the wording is the
    string constants of these names, one after the other. {text_prompt} is where the prompt goes.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"no wording at {source}: give a text file with {HOLE}, or the released Python code")
    plain = path.is_file() and path.suffix != ".py"
    text = path.read_text(encoding="utf-8") if plain else "".join(_constant(path, name) for name in names)
    if wrong := [each for each in (HOLE, *marks) if text.count(each) != 1]:
        raise ValueError(f"the wording of {source} holds {wrong[0]} {text.count(wrong[0])} times, and should once")
    return text


def worded(spec: Spec, *texts: str) -> Spec:
    """The spec with a digest of the wording, since another wording is another scale."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return replace(spec, preprocessing=f"{spec.preprocessing}; wording {digest[:12]}")


def _constant(path: Path, name: str) -> str:
    """The one value that code gives to a name as a plain string."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    values = [node.value for node in nodes if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)]
    found = {each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    if len(found) != 1:
        raise ValueError(f"{path} gives {name} {len(found)} values as plain strings, and should one: give a text file")
    return found.pop()


@torch.no_grad()
@full_precision()
def table(
    samples: Sequence[Sample],
    shown: Callable[[Sample], T],
    numbers: Callable[[list[T]], Tensor],
    width: int,
    batch: int,
) -> tuple[Tensor, dict[int, str]]:
    """(n, width) float32, NaN in the rows of samples that could not be judged, and why they could not.

    `shown` makes one sample ready, or raises Unjudged or ImageError; `numbers` judges up to `batch` that are.
    """
    found, reasons = torch.full((len(samples), width), torch.nan), {}
    for start in range(0, len(samples), batch):
        ready: dict[int, T] = {}
        for row, sample in enumerate(samples[start : start + batch], start):
            try:
                ready[row] = shown(sample)
            except Misuse:
                raise
            except (ImageError, Unjudged) as error:
                reasons[row] = str(error)
        if ready:
            found[list(ready)] = numbers(list(ready.values())).float().cpu()
            odd = [row for row in ready if not found[row].isfinite().all()]
            reasons |= dict.fromkeys(odd, "its score is not finite")
            found[odd] = torch.nan
    return found, reasons
