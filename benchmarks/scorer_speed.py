"""What a picture's score costs, decoding and preprocessing included: batches against one call a picture.

    python benchmarks/scorer_speed.py --out benchmarks/results/scorers.json                  (CPU, a tiny model)
    python benchmarks/scorer_speed.py --clock --images 192                                   (the same by the clock)
    python benchmarks/scorer_speed.py --shape ViT-H-14 --out FILE                            (a GPU, random weights)

The way of `for image, prompt in ...: scorer.score([sample])`, with everything loaded, stands for what the released
packages do inside. On a CPU both ways take turns on all the pictures, and what is read is the median ratio of CPU
seconds of this process. Fresh memory is a large part of what a small picture costs, and whether a call gets it from the
system or from what was freed before is the allocator's mood of the process: run it more than once.

On a GPU, and with --clock, the rate is by the clock, from files on disk that threads decode while the network works.
Decoding alone, the network alone and both together take turns on the same pictures, so that it can be seen what
decoding adds. On a busy machine the clock measures the others too: read the medians with their ranges.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from visalign.scorers.clip import Cosine, OpenClip, open_clip_config
from visalign.scorers.hpsv2 import HPSv2
from visalign.scorers.preprocess import Letterbox
from visalign.scorers.reading import READERS, batches
from visalign.scoring import Sample

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 56},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PROMPTS = 100  # different ones; each has as many pictures as comes out
FORMATS = {64: "PNG", 512: "JPEG"}  # as data sets come


def encoded(side: int, count: int) -> list[bytes]:
    """Pictures with the detail of photographs (smooth shapes and some noise), encoded."""
    random = np.random.default_rng(side)
    return [_file(random, side) for _ in range(count)]


def _file(random: np.random.Generator, side: int) -> bytes:
    small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = (smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, FORMATS.get(side, "JPEG"), quality=92)
    return buffer.getvalue()


def samples(side: int, count: int) -> list[Sample]:
    """So many pictures of PROMPTS prompts, in turn."""
    return [
        Sample(f"a photograph of a street in the rain, number {row % PROMPTS}", image=data)
        for row, data in enumerate(encoded(side, count))
    ]


def scorer(shape: str, device: str, dtype: torch.dtype, batch: int) -> Cosine:
    """HPS v2's pipeline on random weights of a shape."""
    import open_clip

    torch.manual_seed(0)
    config = TINY if shape == "tiny" else open_clip_config(shape)
    with torch.device(device):
        network = open_clip.CLIP(**config, output_dict=True)
    return Cosine(HPSv2.describe(), OpenClip(network.to(dtype)), Letterbox(224), batch=batch)


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def one_by_one(made: Cosine, part: Sequence[Sample]) -> None:
    """A call a picture."""
    for each in part:
        made.score([each])


def compared(made: Cosine, side: int, count: int, rounds: int) -> dict[str, Any]:
    """Both ways on the same pictures, all of them every round, the first to go changing from round to round."""
    given = samples(side, count)
    texts = rows_of(made)
    one_by_one(made, given[:20])
    made.score(given[:64])
    ways: dict[str, Callable[[Sequence[Sample]], object]] = {
        "batched": made.score, "one by one": partial(one_by_one, made),
    }  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            made.texts.forget()
            spent[name].append(cpu_seconds(partial(ways[name], given)))
    texts.clear()
    made.texts.forget()
    made.score(given)
    ratios = [alone / together for alone, together in zip(spent["one by one"], spent["batched"], strict=True)]
    return {
        "side": side, "format": FORMATS.get(side, "JPEG"), "images": count, "rounds": rounds, "batch": made.batch,
        "images_per_cpu_second": {name: rounds * count / sum(each) for name, each in spent.items()},
        "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
        "prompts": PROMPTS, "prompts_encoded": sum(texts),
    }  # fmt: skip


def rows_of(made: Cosine) -> list[int]:
    """A list that is told how many prompts the text tower reads at each call."""
    rows: list[int] = []
    embedding = made.towers.network.get_submodule("token_embedding")
    embedding.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    return rows


def rate(made: Cosine, side: int, count: int, rounds: int) -> dict[str, Any]:
    """Pictures a second by the clock, a part of them a round: decoded, through the network, and both together."""
    with tempfile.TemporaryDirectory() as folder:
        given = on_disk(samples(side, count), Path(folder))
        made.score(given[: 2 * made.batch])
        made.texts([each.prompt for each in given])  # once each, whoever asks: no part of a picture's cost
        spent = [timed(made, given[start::rounds]) for start in range(rounds)]
    middle = {name: statistics.median(each[name] for each in spent) for name in spent[0]}
    added = [each["together"] / each["network"] - 1 for each in spent]
    hidden = [hidden_share(**each) for each in spent]
    found = {
        "side": side, "images": count, "rounds": rounds, "batch": made.batch, "threads": READERS,
        "images_per_second": {name: count / rounds / each for name, each in middle.items()},
        "decoding_adds": statistics.median(added), "decoding_adds_range": [min(added), max(added)],
        "overlap": statistics.median(hidden), "overlap_range": [min(hidden), max(hidden)],
    }  # fmt: skip
    return found | ({"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if made.device.type == "cuda" else {})


def on_disk(given: Sequence[Sample], folder: Path) -> list[Sample]:
    """The same samples, their pictures in files."""
    made = []
    for row, each in enumerate(given):
        path = folder / f"{row}.picture"
        path.write_bytes(each.image)  # type: ignore[arg-type]
        made.append(Sample(each.prompt, image=path))
    return made


def timed(made: Cosine, part: Sequence[Sample]) -> dict[str, float]:
    """Seconds of decoding on threads, of the network on what was decoded, and of scoring, which does both at once."""
    start = clock(made)
    read = [each.pixels.clone() for each in batches(part, made.geometry, made.batch, torch.device("cpu"))]
    decoded = clock(made)
    with torch.no_grad():
        for pixels in read:
            made.towers.images(pixels.to(made.device))
    shown = clock(made)
    made.score(part)
    return {"decoding": decoded - start, "network": shown - decoded, "together": clock(made) - shown}


def hidden_share(decoding: float, network: float, together: float) -> float:
    """How much of the shorter of the two is hidden behind the longer one: 1 all of it, 0 one waits for the other."""
    return (decoding + network - together) / min(decoding, network)


def clock(made: Cosine) -> float:
    """Seconds, once the device has done all that it was given."""
    if made.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", help="tiny, or a name that open_clip knows (tiny)")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--clock", action="store_true", help="the rate by the clock on a CPU too")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    if not 1 <= given.rounds <= given.images:
        parser.error(f"a round has at least one picture: got {given.images} in {given.rounds} rounds")
    cuda = torch.cuda.is_available()
    made = scorer(given.shape, "cuda" if cuda else "cpu", torch.float16 if cuda else torch.float32, given.batch)
    if not cuda:
        torch.set_num_threads(1)
    measure = rate if cuda or given.clock else compared
    cells = [measure(made, side, given.images, given.rounds) for side in given.sides]
    import open_clip
    import PIL

    versions = {each.__name__: each.__version__ for each in (torch, open_clip, PIL, np)}
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    found = {"date": datetime.date.today().isoformat(), "device": where, "shape": given.shape, "versions": versions}
    text = json.dumps(found | {"cells": cells}, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
