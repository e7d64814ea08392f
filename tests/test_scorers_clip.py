"""Every scorer of the CLIP family: batches, shapes and odd pictures; and each against plain code of its paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_scorers
import torch
from PIL import Image
from spoiled import bomb, encoded, picture
from torch.nn import functional as F

from visalign import scoring
from visalign.images import Misuse, Picture
from visalign.scorers.clip import Cosine, OpenClip, open_clip_config
from visalign.scorers.clipscore import good_of_pair, paper, torchmetrics, with_references
from visalign.scorers.hpsv2 import HPSv2
from visalign.scorers.preprocess import Crop, Letterbox
from visalign.scoring import Sample, Scores, paired

Makers = dict[str, Callable[..., Any]]
NAMES = (
    "hpsv2.1", "hpsv2.0 without antialias", "pickscore", "pickscore cosine", "clipscore", "clipscore torchmetrics",
    "clip_iqa", "aesthetic_v1", "aesthetic_v2", "mps", "image_reward",
)  # fmt: skip
PROMPTS = ["a red circle", "a blue square left of a green circle", "", "a painting", "a red circle", "circle", "x & y"]


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Makers:
    return tiny_scorers.makers(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def family(makers: Makers) -> dict[str, Any]:
    return {name: make(batch=3) for name, make in makers.items()}


@pytest.fixture(scope="module")
def vast() -> bytes:
    """30,000 x 30,000 pixels."""
    return bomb()


def scale(scorer: Any) -> float:
    """What one unit of cosine is worth on the scorer's scale."""
    low, high = scorer.spec.range
    return (high - low) / 2 if np.isfinite(high) else 10.0


# Batches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_scores_as_its_samples_do_one_by_one_in_any_order(name: str, family: dict[str, Any]) -> None:
    scorer, samples = family[name], paired(tiny_scorers.pictures(), PROMPTS)
    together = scorer.score(samples).values
    alone = [scorer.score([sample]).values for sample in samples]
    assert {tuple(each.shape) for each in alone} == {(1,)}
    torch.testing.assert_close(torch.cat(alone), together, atol=2e-6 * scale(scorer), rtol=0)
    order = [4, 2, 6, 0, 5, 1, 3]
    shuffled = scorer.score([samples[row] for row in order]).values
    torch.testing.assert_close(shuffled, together[order], atol=2e-6 * scale(scorer), rtol=0)
    assert together.std() > 1e-3 * scale(scorer) or name == "clip_iqa"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_score_is_no_error(name: str, family: dict[str, Any]) -> None:
    assert family[name].score([]).values.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_says_what_the_score_depends_on(name: str, family: dict[str, Any]) -> None:
    scorer, image = family[name], tiny_scorers.pictures(1)[0]
    said = scorer.score(paired([image, image], ["a red circle", "a blue square"])).values
    assert scorer.spec.uses_prompt == bool(said[0] != said[1])
    assert isinstance(scorer, scoring.Specified)
    assert scorer.spec.name == scorer.name
    assert scorer.spec.files
    assert scorer.spec.license
    assert not scorer.spec.uses_source


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_pixels(name: str, family: dict[str, Any]) -> None:
    scorer = family[name]
    pixels = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(1)).requires_grad_()
    values = scorer.score_pixels(pixels, ["a red circle", "a painting"])
    assert values.shape == (2,)
    (slope,) = torch.autograd.grad(values.sum(), pixels)
    assert slope.isfinite().all()
    assert slope.norm() > 0


@pytest.mark.parametrize("name", NAMES)
def test_pixels_score_as_the_picture_they_are(name: str, family: dict[str, Any]) -> None:
    """At the tower's own size nothing is resized: both ways in are the same numbers."""
    scorer, image = family[name], tiny_scorers.pictures(1)[0]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    told = scorer.score_pixels(pixels, ["a red circle"])
    torch.testing.assert_close(
        told, scorer.score(paired([image], "a red circle")).values, atol=2e-6 * scale(scorer), rtol=0
    )


def test_pixels_out_of_range_or_shape_are_refused(family: dict[str, Any]) -> None:
    for wrong in (torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"pixels must be floats \(n, 3, h, w\)"):
            family["hpsv2.1"].score_pixels(wrong, ["a"])
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\], these lie in \[-1, 0\.5\]"):
        family["hpsv2.1"].score_pixels(torch.linspace(-1, 0.5, 192).reshape(1, 3, 8, 8), ["a"])


# Odd pictures --------------------------------------------------------------------------------------------------------


def odd(kind: str) -> bytes | Image.Image:
    """The picture of `picture()` in many wrappings; where it must lose something, what is left of it."""
    image = picture(48, 36)
    exif = Image.Exif()
    exif[0x0112] = 6
    wrapped: dict[str, Callable[[], bytes | Image.Image]] = {
        "RGBA": lambda: image.convert("RGBA"),
        "L": lambda: image.convert("L"),
        "P": lambda: image.convert("P"),
        "CMYK": lambda: encoded(image.convert("CMYK"), "JPEG", quality=95),
        "EXIF": lambda: encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif),
        "1x1": lambda: image.crop((0, 0, 1, 1)),
        "longest side is the tower's": lambda: image.crop((0, 0, tiny_scorers.SIDE, 20)),
        "1 pixel high": lambda: image.crop((0, 0, 48, 1)),
    }
    return wrapped[kind]()


KINDS = ("RGBA", "L", "P", "CMYK", "EXIF", "1x1", "longest side is the tower's", "1 pixel high")


@pytest.mark.parametrize("name", ["hpsv2.1", "pickscore", "image_reward"])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_pictures_score_as_their_upright_rgb(name: str, kind: str, family: dict[str, Any]) -> None:
    from visalign.images import load

    found = family[name].score(paired([odd(kind), load(odd(kind))], "a red circle"))
    assert found.judged.all()
    torch.testing.assert_close(found.values[0], found.values[1], atol=2e-6 * scale(family[name]), rtol=0)


def test_longest_side_of_224_is_no_special_case() -> None:
    for size in ((224, 100), (100, 224), (224, 224)):
        assert Letterbox().image(Image.new("RGB", size)).shape == (3, 224, 224)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_decoded_is_invalid_with_its_reason_and_the_others_are_scored(
    name: str, family: dict[str, Any], vast: bytes
) -> None:
    good = tiny_scorers.pictures(4)
    mixed: list[Picture] = [good[0], encoded(picture(200, 200), "JPEG")[:-4000], good[1], b"", good[2], vast, good[3]]
    found = family[name].score(paired(mixed, "a red circle"))
    assert found.judged.tolist() == [True, False, True, False, True, False, True]
    assert found.values.isnan().tolist() == (~found.judged).tolist()
    assert {row: why.split(" (")[0].split(":")[0] for row, why in found.reasons.items()} == {
        1: "damaged or truncated", 3: "empty file", 5: "too many pixels",
    }  # fmt: skip
    clean = family[name].score(paired(good, "a red circle")).values
    torch.testing.assert_close(found.values[found.judged], clean, atol=2e-6 * scale(family[name]), rtol=0)


@pytest.mark.parametrize("name", ["hpsv2.1", "clip_iqa", "mps", "image_reward"])
def test_a_missing_path_raises_and_is_never_the_picture_before(
    name: str, family: dict[str, Any], tmp_path: Path
) -> None:
    good = tmp_path / "a.png"
    tiny_scorers.pictures(1)[0].save(good)
    with pytest.raises(Misuse, match=r"no such file: .*gone\.png"):
        family[name].score(paired([good, tmp_path / "gone.png"], "a red circle"))


def test_a_sample_without_a_picture_is_invalid(family: dict[str, Any]) -> None:
    found = family["hpsv2.1"].score([Sample("a red circle")])
    assert found.reasons == {0: "the sample has no image"}


# Prompts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fits"), [("hpsv2.1", 75), ("pickscore", 75), ("mps", 75), ("image_reward", 33)])
def test_prompts_over_the_context_are_cut_and_counted(name: str, fits: int, family: dict[str, Any]) -> None:
    image = tiny_scorers.pictures(1)[0]
    texts = [" ".join(["circle"] * count) for count in (fits, fits + 1, fits + 60)]
    found = family[name].score(paired([image] * 3, texts))
    assert found.truncated is not None
    assert found.truncated.tolist() == [False, True, True]
    assert found.values[1] == found.values[2]
    torch.testing.assert_close(found.values[0], found.values[1], atol=2e-6 * scale(family[name]), rtol=0)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("hpsv2.1", "token_embedding"),
        ("pickscore", "text_model.embeddings.token_embedding"),
        ("mps", "text_model.embeddings.token_embedding"),
    ],
)
def test_each_prompt_is_encoded_once(name: str, first: str, makers: Makers) -> None:
    scorer = makers[name](batch=2)
    rows: list[int] = []
    scorer.towers.network.get_submodule(first).register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    images = tiny_scorers.pictures()
    scorer.score(paired(images, ["a", "b", "a", "c", "b", "a", "a"]))
    scorer.score(paired(images, ["c"] * 7))
    scorer.score_pixels(torch.rand(2, 3, 8, 8), ["a", "b"])
    assert sum(rows) == 3


def test_the_least_recently_used_prompts_are_forgotten_first(family: dict[str, Any]) -> None:
    from visalign.scorers.reading import Remembered

    asked: list[str] = []

    def compute(prompts: list[str]) -> tuple[torch.Tensor, list[bool]]:
        asked.extend(prompts)
        return torch.zeros(len(prompts), 1), [False] * len(prompts)

    texts = Remembered(compute, kept=2)
    for prompts in (["a", "b"], ["a"], ["c"], ["a"], ["b"]):
        texts(prompts)
    assert asked == ["a", "b", "c", "b"]
    texts.forget()
    texts(["b"])
    assert asked[-1:] == ["b"]
    assert texts(["x", "y", "z", "x"]).shape == (4, 1)  # more at once than are kept


def test_open_clip_unescapes_html_and_transformers_does_not(family: dict[str, Any]) -> None:
    """As the official packages do: HPS v2's tokenizer is open_clip's, PickScore's is transformers'."""
    image = tiny_scorers.pictures(1)[0]
    for name, same in (("hpsv2.1", True), ("pickscore", False)):
        said = family[name].score(paired([image] * 2, ["salt &amp; pepper", "salt & pepper"])).values
        assert bool(said[0] == said[1]) is same


# Pairs and products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hpsv2.1", "pickscore", "clipscore", "mps", "image_reward", "aesthetic_v2"])
def test_the_matrix_is_every_image_with_every_prompt(name: str, family: dict[str, Any]) -> None:
    scorer, prompts = family[name], ["a", "a red circle"]
    images: list[Picture] = [*tiny_scorers.pictures(3), b"no picture"]
    table = scoring.score_matrix(scorer, images, prompts)
    assert table.shape == (4, 2)
    assert table[3].isnan().all()
    for column, prompt in enumerate(prompts):
        one = scorer.score(paired(images, prompt)).values
        torch.testing.assert_close(table[:, column], one, atol=2e-6 * scale(scorer), rtol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "tower"), [("mps", "clip.vision_model"), ("image_reward", "vision")])
def test_the_matrix_of_a_network_that_mixes_both_sees_each_image_once(name: str, tower: str, makers: Makers) -> None:
    """Three images of which one is broken, five prompts, blocks of four pairs."""
    scorer, passes = makers[name](batch=4), []
    vision = scorer.network.get_submodule(tower)
    vision.register_forward_hook(lambda *given: passes.append(len(given[-1].last_hidden_state)))
    images: list[Picture] = [*tiny_scorers.pictures(2), b"no picture"]
    table = scoring.score_matrix(scorer, images, PROMPTS[:5])
    assert passes == [2]
    crossed = [Sample(prompt, image=each) for each in images for prompt in PROMPTS[:5]]
    wanted = scorer.score(crossed).values.reshape(3, 5)
    torch.testing.assert_close(table, wanted, atol=2e-6 * scale(scorer), rtol=0, equal_nan=True)
    assert len(set(table[0].tolist())) > 3


@pytest.mark.parametrize(
    ("name", "per_unit"),
    [("hpsv2.1", 1 / 0.07), ("pickscore", 1.0), ("mps", 1.0), ("image_reward", 1.0333394966054072)],
)
def test_preference_is_the_softmax_that_the_network_was_trained_with(
    name: str, per_unit: float, family: dict[str, Any]
) -> None:
    """The tiny networks' logit_scale is a fresh CLIP's, log(1 / 0.07); ImageReward's raw reward is 1.033 wider."""
    scorer, images = family[name], tiny_scorers.pictures(4)
    first, second = paired(images[:2], "a red circle"), paired(images[2:], "a red circle")
    chance = scoring.prefer(scorer, first, second)
    gap = scorer.score(first).values - scorer.score(second).values
    torch.testing.assert_close(chance, torch.sigmoid(per_unit * gap), atol=1e-6, rtol=0)
    torch.testing.assert_close(chance + scoring.prefer(scorer, second, first), torch.ones(2))


# Each against its paper ----------------------------------------------------------------------------------------------


def test_hpsv2_is_a_plain_open_clip_forward(family: dict[str, Any]) -> None:
    network, words = tiny_scorers.open_clip_model(), open_clip.SimpleTokenizer()
    images = tiny_scorers.pictures()
    pixels = torch.stack([Letterbox(tiny_scorers.SIDE).image(each) for each in images])
    with torch.no_grad():
        seen = network.encode_image(pixels, normalize=True)
        told = network.encode_text(words(PROMPTS), normalize=True)
        logits = network(pixels, words(PROMPTS))
    found = family["hpsv2.1"].score(paired(images, PROMPTS)).values
    torch.testing.assert_close(found, (seen * told).sum(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, (logits["image_features"] * logits["text_features"]).sum(-1), atol=1e-6, rtol=0)
    assert family["hpsv2.1"].spec.temperature == pytest.approx(0.07, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_keeps_its_last_product_in_single(name: str, makers: Makers, family: dict[str, Any]) -> None:
    samples = paired(tiny_scorers.pictures(), PROMPTS)
    half = makers[name](dtype="bf16").score(samples).values
    whole = family[name].score(samples).values
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    torch.testing.assert_close(half, whole, atol=0.05 * scale(family[name]), rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_says_what_a_cpu_says(name: str, makers: Makers, family: dict[str, Any]) -> None:
    samples = paired(tiny_scorers.pictures(), PROMPTS)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which its convolutions use if nobody says no
        there = makers[name](device="cuda").score(samples).values
    torch.testing.assert_close(there, family[name].score(samples).values, atol=1e-4 * scale(family[name]), rtol=0)


def test_pickscore_is_the_diagonal_of_transformers_own_logits(family: dict[str, Any]) -> None:
    from transformers import CLIPImageProcessorPil

    from visalign.scorers.hf_clip import clip_tokenizer

    network, images = tiny_scorers.hf_clip_model(), tiny_scorers.pictures()[:3]
    side = tiny_scorers.SIDE
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    words = clip_tokenizer()(PROMPTS[:3], padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        said = network(**words, pixel_values=processor(images, return_tensors="pt")["pixel_values"])
    samples = paired(images, PROMPTS[:3])
    scaled = family["pickscore"].score(samples).values
    torch.testing.assert_close(scaled, said.logits_per_image.diagonal(), atol=2e-5, rtol=0)
    bare = family["pickscore cosine"].score(samples).values
    torch.testing.assert_close(bare, (said.text_embeds * said.image_embeds).sum(-1), atol=2e-6, rtol=0)
    assert (family["pickscore"].spec.scale, family["pickscore cosine"].spec.scale) == (
        "exp(logit_scale) * cosine",
        "cosine",
    )


def test_the_two_clipscores_golden() -> None:
    cosine = torch.tensor([0.28, -0.1], dtype=torch.float64)
    assert paper(cosine).tolist() == pytest.approx([0.70, 0.0], abs=1e-12)
    assert torchmetrics(cosine).tolist() == pytest.approx([28.0, -10.0], abs=1e-12)
    half = with_references(
        torch.tensor([0.7, 0.0, 0.5], dtype=torch.float64), torch.tensor([0.8, 0.0, -1.0], dtype=torch.float64)
    )
    assert half.tolist() == pytest.approx([0.7466666666666667, 0.0, 0.0], abs=1e-12)
    assert float(good_of_pair(torch.tensor([0.25, 0.24], dtype=torch.float64))) == pytest.approx(
        0.7310585786, abs=1e-10
    )


def test_clipscore_puts_its_words_before_the_caption(makers: Makers, family: dict[str, Any]) -> None:
    images = tiny_scorers.pictures(3)
    bare = makers["pickscore"](scale="cosine")
    worded = bare.score(paired(images, "A photo depicts a red circle")).values
    found = family["clipscore"].score(paired(images, "a red circle")).values
    torch.testing.assert_close(found, 2.5 * worded.clamp(min=0), atol=5e-6, rtol=0)
    other = family["clipscore torchmetrics"].score(paired(images, "a red circle")).values
    torch.testing.assert_close(other, 100 * bare.score(paired(images, "a red circle")).values, atol=2e-4, rtol=0)


def test_braces_in_a_prompt_are_only_braces(family: dict[str, Any]) -> None:
    assert family["clipscore"].score(paired(tiny_scorers.pictures(1), "a {} of {0}")).judged.all()


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_aesthetic_heads_are_their_layers_in_a_row(version: str, family: dict[str, Any], tmp_path: Path) -> None:
    state = torch.load(tiny_scorers.aesthetic_file(tmp_path, version), weights_only=True)
    layers = [""] if version == "1" else ["layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7."]
    network, images = tiny_scorers.hf_clip_model(), tiny_scorers.pictures()
    pixels = torch.stack([Crop(tiny_scorers.SIDE).image(each) for each in images])
    with torch.no_grad():
        seen = network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output).double()
    x = seen / seen.norm(dim=-1, keepdim=True)
    for layer in layers:
        x = F.linear(x, state[f"{layer}weight"].double(), state[f"{layer}bias"].double())
    found = family[f"aesthetic_v{version}"].score(paired(images, "")).values
    torch.testing.assert_close(found.double(), x[:, 0], atol=1e-5, rtol=0)


# Making --------------------------------------------------------------------------------------------------------------


def test_hps_loads_into_the_stock_vit_h_14() -> None:
    """The official checkpoint has 686 tensors and 986,109,441 numbers under open_clip's names."""
    with torch.device("meta"):
        network = open_clip.CLIP(**open_clip_config("ViT-H-14"))
    state = network.state_dict()
    assert len(state) == 686
    assert sum(each.numel() for each in network.parameters()) == 986_109_441
    tops = {"ln_final", "logit_scale", "positional_embedding", "text_projection", "token_embedding"}
    assert {name.split(".")[0] for name in state} == tops | {"transformer", "visual"}


def test_a_scorer_of_a_configuration_a_file_and_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    """What a model trained here needs: its words, its size, its weights as safetensors, its name."""
    import json

    from safetensors.torch import save_file

    config = tiny_scorers.OPEN_CLIP | {
        "text_cfg": {"context_length": 6, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    }
    torch.manual_seed(3)
    network = open_clip.CLIP(**config, output_dict=True).eval()
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_cfg": config}))

    def words(prompts: list[str]) -> torch.Tensor:
        return torch.tensor([([28] + [ord(c) % 26 for c in each][:4] + [29] * 6)[:6] for each in prompts])

    made = HPSv2(
        tmp_path / "w.safetensors", config=str(tmp_path / "config.json"), tokenizer=words, name="playground_hps"
    )
    direct = Cosine(made.spec, OpenClip(network, words), Letterbox(tiny_scorers.SIDE))
    samples = paired(tiny_scorers.pictures(3), ["red", "blue", "green"])
    assert torch.equal(made.score(samples).values, direct.score(samples).values)
    assert (made.name, made.spec.context, made.score(samples).truncated) == ("playground_hps", 6, None)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="open_clip knows no model 'ViT-Z-1'"):
        open_clip_config("ViT-Z-1")


def test_scores_hold_their_reasons_to_the_invalid() -> None:
    with pytest.raises(ValueError, match="could not be judged"):
        Scores(torch.zeros(2), reasons={0: "no"})
    with pytest.raises(ValueError, match="for row 5"):
        Scores(torch.zeros(2), reasons={5: "no"})
