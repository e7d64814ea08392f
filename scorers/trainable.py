"""CLIP networks that learn from votes: what `trainers/reward_model.py` trains and the scorers of this folder load.

HPS v2 (arXiv 2306.09341) trains the last blocks of both towers of an open_clip network and holds exp(logit_scale) at
100 at most. A published run is a folder as open_clip's own "local-dir:" reads it: open_clip_config.json and
open_clip_model.safetensors.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visalign.batches import Comparisons
from visalign.contract import Rated
from visalign.models import states
from visalign.models.reward_heads import Cosine, Head, IdealPoint, head_of

from .clip import OpenClip, open_clip_config, open_clip_network, unit_vectors
from .preprocess import Crop, Geometry, Letterbox

HEAD, HEAD_WEIGHTS = "reward_head.json", "reward_head.safetensors"
CONFIG, WEIGHTS, VOCABULARY = "open_clip_config.json", "open_clip_model.safetensors", ("vocab.json", "merges.txt")
GEOMETRIES: dict[str, type[Letterbox] | type[Crop]] = {"letterbox": Letterbox, "crop": Crop}
LARGEST = math.log(100.0)  # of logit_scale


class OpenClipReward(nn.Module):
    """An open_clip network and what is read off its two embeddings: exp(logit_scale) times their cosine, or a head.

    Args:
        weights: a folder of a run or of open_clip, a file of weights with `config`, or "playground".
        config: an open_clip model by name, a mapping of its arguments, or a JSON file; None: the folder's own.
        image_blocks: how many of the image tower's last blocks are trained, with what follows them; None: everything.
        text_blocks: likewise of the text tower; 0 trains none of it.
        geometry: how pictures are made square: HPS v2's letterbox, or CLIP's and PickScore's crop.
        head: what makes scores of the embeddings: {name: cosine}, or another of `visalign.models.reward_heads`.
    """

    def __init__(
        self,
        weights: str = "playground",
        *,
        config: str | Mapping[str, Any] | None = None,
        image_blocks: int | None = None,
        text_blocks: int | None = None,
        geometry: Literal["letterbox", "crop"] = "letterbox",
        head: Mapping[str, Any] | str = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        path = shipped() if weights == "playground" else Path(weights).expanduser()
        self.folder = path if path.is_dir() else None
        self.config = open_clip_config(config if config is not None else str(_own(path) / CONFIG))
        self.network = open_clip_network(self.config, path / WEIGHTS if path.is_dir() else path, torch.float32)
        self.tokenizer = OpenClip(self.network, vocabulary(path, self.network.context_length)).tokenizer
        self.geometry: Geometry = GEOMETRIES[geometry](self.config["vision_cfg"].get("image_size", 224))
        self.about = {"geometry": geometry, "head": {"name": head} if isinstance(head, str) else dict(head)}
        self.head: Head = head_of(head, int(self.config["embed_dim"]), seed)
        if path.is_dir() and (path / HEAD_WEIGHTS).is_file():
            states.load_into(self.head, states.read(path / HEAD_WEIGHTS), str(path / HEAD_WEIGHTS), torch.float32)
        self.users: dict[str, int] = {}
        self.train_last(image_blocks, text_blocks)

    def know(self, users: Sequence[str]) -> None:
        """Whose tastes an ideal-point head tells apart, by name; ValueError if it has not as many places."""
        if isinstance(self.head, IdealPoint) and len(users) > self.head.mixture.num_embeddings:
            raise ValueError(
                f"the data have {len(users)} users: give the head {{name: ideal_point, users: {len(users)}}}"
            )
        self.users = {name: place for place, name in enumerate(users)} if isinstance(self.head, IdealPoint) else {}

    def train_last(self, image_blocks: int | None, text_blocks: int | None) -> None:
        """Choose what is trained of the two towers; the logit scale of a cosine always is."""
        network, visual = self.network, self.network.visual
        last(list(visual.parameters()), visual.transformer.resblocks, (visual.ln_post, visual.proj), image_blocks)
        text = [each for name, each in network.named_parameters() if not name.startswith(("visual.", "logit"))]
        last(text, network.transformer.resblocks, (network.ln_final, network.text_projection), text_blocks)
        network.logit_scale.requires_grad_(isinstance(self.head, Cosine))

    def rewards(self, batch: Comparisons) -> Rated:
        """Scores (b, K), and every picture for every prompt of the batch where the head is a cosine."""
        count, many = batch.scores.shape
        images = unit_vectors(self.network.encode_image(batch.pictures.flatten(0, 1))).view(count, many, -1)
        texts = unit_vectors(self.network.encode_text(batch.texts))
        return self.head(images, texts, scale=self.scale(), user=batch.user)

    def scale(self) -> Tensor:
        """exp(logit_scale), at most 100."""
        factor: Tensor = self.network.logit_scale.float().clamp(max=LARGEST).exp()
        return factor

    def save(self, folder: Path) -> None:
        """Config, weights and vocabulary as open_clip reads them; the head and the users that it knows beside them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        size = self.config["vision_cfg"].get("image_size", 224)
        squeezed = {
            "resize_mode": "longest" if isinstance(self.geometry, Letterbox) else "shortest",
            "size": [size] * 2,
        }
        about = {"model_cfg": dict(self.config), "preprocess_cfg": squeezed}
        (folder / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        save_file({name: each.contiguous() for name, each in self.network.state_dict().items()}, folder / WEIGHTS)
        (folder / HEAD).write_text(json.dumps(self.about | {"users": self.users}) + "\n", encoding="utf-8")
        if head := self.head.state_dict():
            save_file(head, folder / HEAD_WEIGHTS)
        for name in VOCABULARY if self.folder else ():
            if self.folder and (self.folder / name).is_file() and self.folder.resolve() != folder.resolve():
                shutil.copy(self.folder / name, folder / name)


def shipped() -> Path:
    """The playground's shipped scorer."""
    from visalign import playground

    return playground.scorer_folder()


def vocabulary(path: Path, context: int) -> Any:
    """The playground's tokenizer where the folder holds a small vocabulary; None: CLIP's own."""
    from visalign.playground.words import Tokenizer

    held = path.is_dir() and all((path / name).is_file() for name in VOCABULARY)
    return Tokenizer(path, context) if held else None


def _own(path: Path) -> Path:
    if not path.is_dir() or not (path / CONFIG).is_file():
        raise ValueError(f"{path} is no folder with {CONFIG}: give such a folder, or name the network in config")
    return path


def last(tower: list[nn.Parameter], blocks: Any, after: tuple[Any, ...], count: int | None) -> None:
    """Train a whole tower (None), or its last `count` blocks and what comes after them; 0 trains nothing of it."""
    if count is not None and not 0 <= count <= len(blocks):
        raise ValueError(f"the tower has {len(blocks)} blocks, {count} were to be trained")
    for parameter in tower:
        parameter.requires_grad_(count is None)
    for each in (*[*blocks][len(blocks) - count :], *after) if count else ():
        each.requires_grad_(True)
