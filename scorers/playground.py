"""The playground's learned scorer: a small HPS v2, trained on votes for prompts that the demo never asks."""

from __future__ import annotations

from pathlib import Path

from visalign.scoring import Spec

from .clip import Cosine, OpenClip, PathLike, open_clip_config, open_clip_network
from .preprocess import Letterbox
from .running import running
from .trainable import CONFIG, WEIGHTS, vocabulary


class PlaygroundHPS(Cosine):
    """Cosine of a CLIP of 1.3 million parameters for pictures of 32 pixels and the playground's words.

    Its votes are for prompts of the split `scorers`: no combination of shapes, colours and relation is shared with the
    prompts that candidates are drawn for or models are judged on, so it may reward, judge, or stand by while others do.

    Args:
        weights: a folder that `visalign train playground_reward` published; None: the one that ships.
    """

    def __init__(self, weights: PathLike | None = None, *, device: str = "cpu", batch: int = 64) -> None:
        from visalign import playground

        run = running(device, batch=batch)
        folder = Path(weights).expanduser() if weights is not None else playground.scorer_folder()
        network = open_clip_network(folder / CONFIG, folder / WEIGHTS, run.dtype).to(run.device)
        towers = OpenClip(network, vocabulary(folder, network.context_length))
        size = int(open_clip_config(folder / CONFIG)["vision_cfg"]["image_size"])
        spec = Spec(
            name="playground_hps" if weights is None else folder.resolve().parent.name,
            scale="cosine",
            range=(-1.0, 1.0),
            files=("visalign: playground/weights/scorer",) if weights is None else (str(folder),),
            license="Apache-2.0 (code and weights)",
            temperature=1.0 / float(towers.scale()),
            preprocessing=f"longest side {size}, bicubic on the tensor, black bars, CLIP's normalization",
            antialias=True,
            context=towers.context,
        )
        super().__init__(spec, towers, Letterbox(size), batch=batch)
