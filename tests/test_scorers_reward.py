"""ImageReward and MPS against their papers' arithmetic, written out in float64 on the official names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_scorers
import torch
from torch import Tensor
from torch.nn import functional as F

from visalign import scorers
from visalign.registry import BadSetting
from visalign.scorers.hf_clip import clip_tokenizer
from visalign.scorers.image_reward import TEXT, VISION, empty_blip, parts
from visalign.scorers.mps import OVERALL
from visalign.scorers.preprocess import Crop
from visalign.scoring import paired

State = dict[str, Tensor]
PROMPTS = ["a red circle", "a blue square left of a green circle", "a painting"]


class Network:
    """Layers of a state dict under one prefix, in float64."""

    def __init__(self, state: State, prefix: str) -> None:
        self.state = {
            name.removeprefix(prefix): each.double() for name, each in state.items() if name.startswith(prefix)
        }

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, seen: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v, head by head; `seen` (n, j) bool."""
    outs = []
    for q, k, v in zip(*(each.chunk(heads, -1) for each in (query, key, value)), strict=True):
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        if seen is not None:
            logits = logits.masked_fill(~seen[:, None, :], -math.inf)
        outs.append(logits.softmax(-1) @ v)
    return torch.cat(outs, -1)


# ImageReward ---------------------------------------------------------------------------------------------------------


def blip_eye(state: State, pixels: Tensor) -> Tensor:
    """BLIP's ViT (arXiv 2201.12086): pre-norm blocks, (n, 1 + patches, wide)."""
    net, sizes = Network(state, "blip.visual_encoder."), tiny_scorers.BLIP["vision"]
    patches = F.conv2d(
        pixels.double(),
        net.state["patch_embed.proj.weight"],
        net.state["patch_embed.proj.bias"],
        stride=sizes["patch_size"],
    )
    x = torch.cat([net.state["cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + net.state["pos_embed"]
    for layer in range(sizes["num_hidden_layers"]):
        query, key, value = net.linear(f"blocks.{layer}.attn.qkv", net.norm(f"blocks.{layer}.norm1", x, 1e-6)).chunk(
            3, -1
        )
        x = x + net.linear(f"blocks.{layer}.attn.proj", attention(query, key, value, sizes["num_attention_heads"]))
        inner = F.gelu(net.linear(f"blocks.{layer}.mlp.fc1", net.norm(f"blocks.{layer}.norm2", x, 1e-6)))
        x = x + net.linear(f"blocks.{layer}.mlp.fc2", inner)
    return net.norm("norm", x, 1e-6)


def blip_ear(state: State, ids: Tensor, eye: Tensor) -> Tensor:
    """BERT with cross attention after each self attention, post-norm; all words see all words. The [CLS] state."""
    net, sizes = Network(state, "blip.text_encoder."), tiny_scorers.BLIP["text"]
    positions = net.state["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = net.norm("embeddings.LayerNorm", net.state["embeddings.word_embeddings.weight"][ids] + positions, 1e-12)
    seen = ids != 0
    for layer in range(sizes["num_hidden_layers"]):
        for kind, source, mask in (("attention", x, seen), ("crossattention", eye, None)):
            name = f"encoder.layer.{layer}.{kind}"
            source = x if kind == "attention" else eye
            told = attention(
                net.linear(f"{name}.self.query", x), net.linear(f"{name}.self.key", source),
                net.linear(f"{name}.self.value", source), sizes["num_attention_heads"], mask,
            )  # fmt: skip
            x = net.norm(f"{name}.output.LayerNorm", net.linear(f"{name}.output.dense", told) + x, 1e-12)
        name = f"encoder.layer.{layer}"
        inner = F.gelu(net.linear(f"{name}.intermediate.dense", x))
        x = net.norm(f"{name}.output.LayerNorm", net.linear(f"{name}.output.dense", inner) + x, 1e-12)
    return x[:, 0]


def image_reward(state: State, pixels: Tensor, ids: Tensor) -> Tensor:
    x, head = blip_ear(state, ids, blip_eye(state, pixels)), Network(state, "mlp.layers.")
    for layer in (0, 2, 4, 6, 7):
        x = head.linear(str(layer), x)
    return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_scorers.saved(tiny_scorers.blip_state(), tmp_path_factory.mktemp("reward") / "ImageReward.pt")
    return scorers.load("image_reward", weights=path, config=tiny_scorers.BLIP, tokenizer=tiny_scorers.bert())


def test_image_reward_is_its_arithmetic_in_float64(reward: Any) -> None:
    images = tiny_scorers.pictures(3)
    pixels = torch.stack([Crop(tiny_scorers.SIDE, "even").image(each) for each in images])
    ids = tiny_scorers.bert()(PROMPTS, padding="max_length", max_length=35, return_tensors="pt")["input_ids"]
    wanted = image_reward(tiny_scorers.blip_state(), pixels, ids)
    found = reward.score(paired(images, PROMPTS)).values.double()
    assert float((found - wanted).abs().max()) < 1e-6 * float(wanted.abs().max().clamp(min=1))
    assert float(wanted.std()) > 1e-2


def test_the_head_alone_golden(reward: Any) -> None:
    """Raw .5 is .3220881160."""
    from visalign.scorers.image_reward import MEAN, STD

    assert pytest.approx(0.3220881160, abs=1e-10) == (0.5 - MEAN) / STD


def test_the_official_checkpoint_fits_the_full_sized_modules() -> None:
    """Every name and shape of ImageReward.pt (BLIP-large) has its place in transformers' own modules."""
    shapes = tiny_scorers.blip_shapes({"vision": VISION, "text": TEXT})
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if not name.startswith("mlp.")}
    head = {name: torch.zeros(shape) for name, shape in shapes.items() if name.startswith("mlp.")}
    towers, _ = parts(state | head, "the official file")
    modules, side = empty_blip({})
    known = {name: tuple(each.shape) for name, each in modules.state_dict().items()}
    assert {name: tuple(each.shape) for name, each in towers.items()} == known
    assert side == 224


def test_a_checkpoint_with_a_tensor_missing_is_refused(tmp_path: Path) -> None:
    state = tiny_scorers.blip_state()
    del state["blip.text_encoder.encoder.layer.1.crossattention.self.value.bias"]
    with pytest.raises(
        BadSetting, match=r"lacks 1 tensors \(text\.encoder\.layer\.1\.crossattention\.self\.value\.bias\)"
    ):
        scorers.load(
            "image_reward", weights=tiny_scorers.saved(state, tmp_path / "w.pt"), config=tiny_scorers.BLIP,
            tokenizer=tiny_scorers.bert(),
        )  # fmt: skip


def test_a_tokenizer_that_is_not_here_is_named(tmp_path: Path) -> None:
    path = tiny_scorers.saved(tiny_scorers.blip_state(), tmp_path / "w.pt")
    with pytest.raises(
        BadSetting, match=r"no tokenizer 'google-bert/bert-base-uncased' on this machine: give tokenizer="
    ):
        scorers.load("image_reward", weights=path, config=tiny_scorers.BLIP)


def test_a_tokenizer_of_a_folder_is_the_same(reward: Any, tmp_path: Path) -> None:
    tiny_scorers.bert().save_pretrained(tmp_path / "bert")
    path = tiny_scorers.saved(tiny_scorers.blip_state(), tmp_path / "w.pt")
    made = scorers.load("image_reward", weights=path, config=tiny_scorers.BLIP, tokenizer=tmp_path / "bert")
    samples = paired(tiny_scorers.pictures(3), PROMPTS)
    assert torch.equal(made.score(samples).values, reward.score(samples).values)


# MPS -----------------------------------------------------------------------------------------------------------------


def rotary(x: Tensor) -> Tensor:
    """Pairs (i, i + d / 2) turned by token * 10000 ** (-2 i / d) (arXiv 2104.09864)."""
    tokens, width = x.shape[-2:]
    out = x.clone()
    for place in range(width // 2):
        angle = torch.arange(tokens, dtype=torch.float64) * 10000 ** (-2 * place / width)
        a, b = x[..., place], x[..., place + width // 2]
        out[..., place] = a * angle.cos() - b * angle.sin()
        out[..., place + width // 2] = b * angle.cos() + a * angle.sin()
    return out


def cross(state: State, image: Tensor, text: Tensor, seen: Tensor, heads: int) -> Tensor:
    """The official cross model, a sum over heads that share one key and one value."""
    net = Network(state, "cross_model.layers.")
    for layer in range(tiny_scorers.MPS["layers"]):
        look, think = f"{layer}.0.fn", f"{layer}.1.fn"
        x = net.norm(f"{look}.norm", image, 1e-5)
        key, value = net.linear(f"{look}.to_kv", text).chunk(2, -1)
        told = attention(net.linear(f"{look}.to_q", x), key.repeat(1, 1, heads), value.repeat(1, 1, heads), heads, seen)
        up, gate = net.linear(f"{look}.ff.0", x).chunk(2, -1)
        image = image + net.linear(f"{look}.to_out", told) + net.linear(f"{look}.ff.2", up * gate * gate.sigmoid())
        x = net.norm(f"{think}.norm", image, 1e-5)
        dim = x.shape[-1]
        width = dim // heads
        parts_ = net.linear(f"{think}.fused_attn_ff_proj", x).split([dim, width, width, 8 * dim], -1)
        query = torch.cat([rotary(each) for each in parts_[0].chunk(heads, -1)], -1)
        told = attention(query, rotary(parts_[1]).repeat(1, 1, heads), parts_[2].repeat(1, 1, heads), heads)
        up, gate = parts_[3].chunk(2, -1)
        image = (
            image + net.linear(f"{think}.attn_out", told) + net.linear(f"{think}.ff_out.1", up * gate * gate.sigmoid())
        )
    return image


def mps(prompts: list[str], pixels: Tensor, coupled: bool, threshold: float) -> Tensor:
    """The released evaluation's arithmetic on transformers' CLIP, in float64; `coupled`: one maximum for the batch."""
    clip, state = tiny_scorers.hf_clip_model().double(), tiny_scorers.mps_state()

    def told(texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = clip_tokenizer()(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        found = clip.text_model(input_ids=ids)
        return clip.text_projection(found.last_hidden_state), clip.text_projection(found.pooler_output)

    with torch.no_grad():
        (words, pooled), (condition, _) = told(prompts), told([OVERALL])
        eye = clip.visual_projection(clip.vision_model(pixel_values=pixels.double()).last_hidden_state)
        like = torch.einsum("bid,jd->bij", words, condition[0]).amax(-1)
        like = like / (like.max() if coupled else like.amax(-1, keepdim=True))
        mixed = cross(state, eye, words, like > threshold, tiny_scorers.MPS["heads"])[:, 0]
        scores: Tensor = clip.logit_scale.exp() * F.cosine_similarity(mixed, pooled)
    return scores


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scorers.saved(tiny_scorers.mps_state(), tmp_path_factory.mktemp("mps") / "mps.pt")


def made(path: Path, **more: Any) -> Any:
    return scorers.load("mps", weights=path, config=tiny_scorers.HF_CLIP, **tiny_scorers.MPS, **more)


@pytest.mark.parametrize("variant", ["sample", "batch"])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.9])
def test_mps_is_its_arithmetic_in_float64(variant: str, threshold: float, official: Path) -> None:
    images = tiny_scorers.pictures(3)
    pixels = torch.stack([Crop(tiny_scorers.SIDE).image(each) for each in images])
    wanted = mps(PROMPTS, pixels, variant == "batch", threshold)
    found = made(official, variant=variant, threshold=threshold).score(paired(images, PROMPTS)).values.double()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, equal_nan=True)


def test_the_released_coupling_makes_a_score_depend_on_its_neighbours(official: Path) -> None:
    samples = paired(tiny_scorers.pictures(3), PROMPTS)
    coupled, alone = made(official, variant="batch", threshold=0.9), made(official, threshold=0.9)
    together = coupled.score(samples).values
    singly = torch.cat([coupled.score([each]).values for each in samples])
    assert not torch.allclose(together, singly, atol=1e-3, equal_nan=True)
    torch.testing.assert_close(singly, alone.score(samples).values, atol=1e-5, rtol=0)
    assert (coupled.name, alone.name) == ("mps_batch", "mps")


def test_a_prompt_that_sees_nothing_is_invalid_and_says_so(official: Path) -> None:
    """With the batch's maximum a prompt may have no word above the threshold; then there is nothing to look at."""

    def words(prompts: list[str]) -> Tensor:
        return torch.tensor([[1000 * len(each)] * 77 for each in prompts])

    samples = paired(tiny_scorers.pictures(2), ["a", "bb"])
    settings: dict[str, Any] = {"tokenizer": words, "condition": "ccc", "threshold": 0.999999}
    found = made(official, variant="batch", **settings).score(samples)
    assert found.judged.sum() == 1
    assert list(found.reasons.values()) == ["its score is not finite"]
    assert made(official, **settings).score(samples).judged.all()
    with pytest.raises(BadSetting, match=r"at least 0 and below 1, got 1\.0"):
        made(official, threshold=1.0)


def test_a_norm_with_a_bias_is_no_mps(tmp_path: Path) -> None:
    state = tiny_scorers.mps_state()
    state["cross_model.layers.0.0.fn.norm.bias"] = torch.ones(16)
    with pytest.raises(BadSetting, match="is not zero"):
        made(tiny_scorers.saved(state, tmp_path / "w.pt"))


def test_the_full_sized_mixer_has_the_official_shapes() -> None:
    from visalign.scorers.mps import Mixer, renamed

    with torch.device("meta"):
        mixer = Mixer(1024, 4, 16)
        state = {name: torch.empty(shape) for name, shape in tiny_scorers.mps_shapes(1024, 4, 16).items()}
    kept = {name: each for name, each in state.items() if not name.endswith(("norm.bias", "inv_freq"))}
    found = {name.removeprefix("mixer."): tuple(each.shape) for name, each in renamed(kept).items()}
    assert found == {name: tuple(each.shape) for name, each in mixer.state_dict().items()}
