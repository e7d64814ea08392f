"""Scorers on vision-language models: official names load strictly, batches do not matter, heads are their sums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import filmed
import pytest
import tiny_scorers
import tiny_vlm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, CLIPVisionModel, T5Config
from transformers import T5ForConditionalGeneration as T5

import visalign.scorers.vlm as vlm
from visalign import scorers
from visalign.data.clips import write
from visalign.images import Misuse
from visalign.models.states import WeightsError
from visalign.registry import BadSetting
from visalign.scorers.clip_t5 import LAYER, OPENING, square
from visalign.scorers.clips import timed
from visalign.scorers.edit_reward import pooled
from visalign.scorers.preprocess import Crop
from visalign.scorers.video_reward import places
from visalign.scorers.vqa import QUESTION, VQAScore
from visalign.scoring import Sample, Scores, paired

PROMPTS = ["a red circle", "a blue square left of a green circle", "a painting"]


def pictures() -> list[Image.Image]:
    return tiny_scorers.pictures(3)


def batches_do_not_matter(scorer: Any, samples: list[Sample]) -> Scores:
    """A batch scores as its samples one by one and as the batch the other way round; the scores tell them apart."""
    whole: Scores = scorer.score(samples)
    single = [scorer.score([each]) for each in samples]
    backward = scorer.score(samples[::-1])
    assert whole.judged.all()
    assert {each.values.shape for each in single} == {(1,)}
    torch.testing.assert_close(whole.values, torch.cat([each.values for each in single]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.values, backward.values.flip(0), atol=1e-4, rtol=1e-4)
    for name, each in whole.aspects.items():
        torch.testing.assert_close(each, torch.cat([one.aspects[name] for one in single]), atol=1e-4, rtol=1e-4)
    assert len(set(whole.values.tolist())) == len(samples)
    return whole


# VQAScore ------------------------------------------------------------------------------------------------------------

T5_SHAPE = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0,
    "pad_token_id": 0, "eos_token_id": 256, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
EYE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16, "hidden_act": "quick_gelu",
}  # fmt: skip


def t5_tokenizer() -> Any:
    """Bytes, with an end of sequence after a text, as T5's."""
    reader = tiny_vlm.tokenizer(())
    end = reader.eos_token_id
    reader.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", end)]
    )
    return reader


@pytest.fixture(scope="module")
def clip_t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder as the released one: config, tokenizer, weights under the released names."""
    folder = tmp_path_factory.mktemp("clip_t5")
    reader, config = t5_tokenizer(), dict(T5_SHAPE)
    config |= {"vocab_size": len(reader), "eos_token_id": reader.eos_token_id}
    torch.manual_seed(0)
    text, eye = T5(T5Config(**config)), CLIPVisionModel(CLIPVisionConfig(**EYE))
    tiny_scorers.shaken(text)
    tiny_scorers.shaken(eye)
    projector = tiny_scorers.filled({"0.weight": (16, 16), "0.bias": (16,), "2.weight": (16, 16), "2.bias": (16,)}, 3)
    state = {name: each.clone() for name, each in text.state_dict().items() if not name.endswith("embed_tokens.weight")}
    state |= {"embed_tokens.weight": text.shared.weight.detach().clone()}
    state |= {f"vision_tower.vision_tower.vision_model.{name}": each for name, each in eye.state_dict().items()}
    state |= {f"mm_projector.{name}": each for name, each in projector.items()}
    halves = [dict(list(state.items())[place::2]) for place in (0, 1)]
    for number, half in enumerate(halves):
        torch.save(half, folder / f"pytorch_model-{number}.bin")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip_t5", "vision_config": EYE}))
    reader.save_pretrained(folder / "words")
    return folder, state


def t5_logprobs(state: dict[str, Tensor], folder: Path, image: Image.Image, prompt: str) -> Tensor:
    """P of "Y", "e", "s" and the end, in float64, of parts put together by hand."""
    config = json.loads((folder / "config.json").read_text())
    text = T5(T5Config(**{name: each for name, each in config.items() if name != "vision_config"})).double().eval()
    text.load_state_dict(
        {n: e.double() for n, e in state.items() if not n.startswith(("mm_", "vision", "embed"))}, False
    )
    eye = CLIPVisionModel(CLIPVisionConfig(**EYE)).double().eval()
    prefix = "vision_tower.vision_tower.vision_model."
    eye.load_state_dict({n.removeprefix(prefix): e.double() for n, e in state.items() if n.startswith(prefix)}, False)
    layer = {n.removeprefix("mm_projector."): e.double() for n, e in state.items() if n.startswith("mm_projector.")}
    pixels = Crop(32).image(square(image))[None].double()
    seen = eye(pixel_values=pixels, output_hidden_states=True).hidden_states[LAYER][0, 1:]
    inner = torch.nn.functional.gelu(seen @ layer["0.weight"].T + layer["0.bias"])
    seen = inner @ layer["2.weight"].T + layer["2.bias"]
    words, end = tiny_vlm.tokenizer(()), tiny_vlm.tokenizer(()).eos_token_id
    asked = f"\n{QUESTION.replace('{}', prompt)} ASSISTANT: "
    ids = [torch.tensor([*words(each)["input_ids"], end]) for each in (f"{OPENING} USER: ", asked)]
    row = torch.cat([text.shared(ids[0]), seen, text.shared(ids[1])])
    answer = torch.tensor([*words("Yes")["input_ids"], end])
    fed = torch.cat([torch.tensor([0]), answer[:-1]])
    told: Tensor = text(inputs_embeds=row[None], decoder_input_ids=fed[None]).logits[0].log_softmax(-1)
    return told.gather(-1, answer[:, None])[:, 0]


def test_clip_t5_is_its_parts_in_float64(clip_t5: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = clip_t5
    paper, release = (VQAScore(folder, variant=each, tokenizer=folder / "words") for each in ("paper", "release"))
    image = pictures()[1]
    with torch.no_grad():
        wanted = t5_logprobs(state, folder, image, PROMPTS[0])
    samples = paired([image], PROMPTS[0])
    assert paper.score(samples).values.item() == pytest.approx(wanted[:-1].sum().exp().item(), rel=1e-4)
    assert release.score(samples).values.item() == pytest.approx(wanted.mean().exp().item(), rel=1e-4)


def test_clip_t5_batches_do_not_matter(clip_t5: tuple[Path, dict[str, Tensor]]) -> None:
    scorer = VQAScore(clip_t5[0], variant="release", tokenizer=clip_t5[0] / "words", batch=2)
    batches_do_not_matter(scorer, paired(pictures(), PROMPTS))


def test_weights_of_another_model_are_refused(clip_t5: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, state = clip_t5
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(
        {name: each.contiguous() for name, each in state.items() if name != "lm_head.weight"},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(t5.lm_head.weight\)"):
        VQAScore(tmp_path, tokenizer=folder / "words")


def test_a_square_has_the_mean_colour_around_the_picture() -> None:
    whole = square(Image.new("RGB", (2, 5), "red"))
    assert whole.size == (5, 5)
    assert [whole.getpixel((x, 2)) for x in range(5)] == [(122, 116, 104), *[(255, 0, 0)] * 2, *[(122, 116, 104)] * 2]


@pytest.fixture(scope="module", params=["qwen2_vl", "llava"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = getattr(tiny_vlm, request.param)(tmp_path_factory.mktemp("decoder") / request.param, layers=1)
    return made


def test_a_decoder_is_asked_for_the_answer_it_would_draw(decoder: Path) -> None:
    """P("Yes") is the product of what the model says of "Y", "e" and "s", each after what stands before it."""
    scorer = VQAScore(decoder)
    samples = paired(pictures(), PROMPTS)
    found = batches_do_not_matter(scorer, samples).values[0].item()
    network, processor = AutoModelForImageTextToText.from_pretrained(decoder).eval(), scorer.model.processor
    text, chance = scorer.model._text(QUESTION.replace("{}", PROMPTS[0])), 1.0
    for letter in "Yes":
        inputs = processor(text=[text], images=[[pictures()[0]]], return_tensors="pt")
        with torch.no_grad():
            said = network(**inputs).logits[0, -1].double().softmax(-1)
        chance *= said[processor.tokenizer(letter)["input_ids"][0]].item()
        text += letter
    assert found == pytest.approx(chance, rel=1e-4)
    mean = scorers.load("vqascore", folder=decoder, variant="release").score(samples).values[0].item()
    assert mean == pytest.approx(chance ** (1 / 3), rel=1e-4)


def test_an_empty_answer_is_refused(decoder: Path) -> None:
    """Nothing is always what comes next: its probability is 1."""
    for answer in ("", "  "):
        with pytest.raises(BadSetting, match="the answer is empty"):
            scorers.load("vqascore", folder=decoder, answer=answer)


def test_a_prompt_with_a_mark_of_the_models_own_is_not_judged(decoder: Path) -> None:
    found = VQAScore(decoder).score([Sample("<|end|>", image=pictures()[0]), Sample("a", image=pictures()[0])])
    assert found.judged.tolist() == [False, True]
    assert "<|end|>" in found.reasons[0]
    assert found.values[0].isnan()


# HPSv3 ---------------------------------------------------------------------------------------------------------------

REWARD = "<|Reward|>"
ASKED = "How good is it? {text_prompt}\nRate it: <|Reward|>\nEND\n"


def head(prefix: str, seed: int, width: int = tiny_vlm.WIDTH) -> dict[str, Tensor]:
    """Linear, ReLU, dropout, linear, ReLU, linear, as the released heads are numbered."""
    return tiny_scorers.filled(tiny_scorers.head_shapes(prefix, [(0, width, 1024), (3, 1024, 16), (5, 16, 2)]), seed)


def by_head(state: dict[str, Tensor], prefix: str, hidden: Tensor) -> Tensor:
    """The head in float64."""
    x = hidden.double()
    for number in (0, 3, 5):
        x = x @ state[f"{prefix}{number}.weight"].double().T + state[f"{prefix}{number}.bias"].double()
        x = x.relu() if number < 5 else x
    return x


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = getattr(tiny_vlm, request.param)(tmp_path_factory.mktemp("base") / request.param, layers=2)
    return made


def released(base: Path, marks: int, old: bool = True) -> dict[str, Tensor]:
    """The base model's tensors under the names of transformers 4.45 (or 5), with a row for each mark."""
    network = AutoModelForImageTextToText.from_pretrained(base)
    torch.manual_seed(1)
    network.resize_token_embeddings(network.config.text_config.vocab_size + marks, mean_resizing=False)
    tiny_scorers.shaken(network)
    state = {name: each.detach().clone() for name, each in network.state_dict().items()}
    new = ("model.visual.", "visual."), ("model.language_model.", "model.")
    for theirs, ours in new if old else ():
        state = {name.replace(theirs, ours) if name.startswith(theirs) else name: e for name, e in state.items()}
    return state


def asked(folder: Path, text: str = ASKED) -> Path:
    file = folder / "wording.txt"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def hpsv3(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("hpsv3")
    state = released(base, 1) | head("rm_head.", 4)
    assert any(name.startswith("visual.") for name in state) and "lm_head.weight" in state
    save_file(state, folder / "HPSv3.safetensors")
    return scorers.load("hpsv3", weights=folder / "HPSv3.safetensors", base=base, wording=asked(folder)), state


def test_hpsv3_is_its_head_on_what_the_mark_reads(base: Path, hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    """Positions count tokens one by one; with M-RoPE the numbers are others."""
    scorer, state = hpsv3
    network = AutoModelForImageTextToText.from_pretrained(base)
    network.resize_token_embeddings(len(scorer.model.processor.tokenizer), mean_resizing=False)
    new = {("model." if name.startswith("visual.") else "") + name: each for name, each in state.items()}
    new = {n.replace("model.", "model.language_model.") if n.startswith(("model.l", "model.e", "model.n")) else n: e
           for n, e in new.items() if not n.startswith("rm_head")}  # fmt: skip
    network.load_state_dict(new)
    network.eval().double()
    image = scorer.model.sized(pictures()[1])
    text = f"<|vision_start|><|image_pad|><|vision_end|>{ASKED.replace('{text_prompt}', PROMPTS[0])}>"
    inputs = scorer.model.processor(text=[text], images=[image], return_tensors="pt")
    mark, length = scorer.model.processor.tokenizer.convert_tokens_to_ids(REWARD), inputs["input_ids"].shape[1]
    place = int((inputs["input_ids"][0] == mark).nonzero())
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.no_grad():
        plain = network.model(**inputs, position_ids=torch.arange(length).expand(3, 1, length)).last_hidden_state
        rotary = network.model(**inputs).last_hidden_state
    wanted, other = (by_head(state, "rm_head.", each[0, place]) for each in (plain, rotary))
    found = scorer.score(paired([pictures()[1]], PROMPTS[0]))
    assert found.values.item() == pytest.approx(wanted[0].item(), rel=1e-4)
    assert found.sigma.item() == pytest.approx(wanted[1].exp().item(), rel=1e-4)
    assert abs(float(other[0] - wanted[0])) > 1e-3


def test_hpsv3_batches_do_not_matter(hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    batches_do_not_matter(hpsv3[0], paired(pictures(), PROMPTS))


def test_hpsv3_loads_the_names_of_transformers_5_too(
    base: Path, hpsv3: tuple[Any, dict[str, Tensor]], tmp_path: Path
) -> None:
    torch.save({"model": released(base, 1, old=False) | head("rm_head.", 4)}, tmp_path / "new.pth")
    other = scorers.load("hpsv3", weights=tmp_path / "new.pth", base=base, wording=asked(tmp_path))
    samples = paired(pictures(), PROMPTS)
    assert torch.equal(other.score(samples).values, hpsv3[0].score(samples).values)


def test_hpsv3_prefers_by_both_deviations_golden(
    hpsv3: tuple[Any, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means 1 and .2, logarithms of deviations -1 and -.5: -log P is .3963539080."""
    scorer, samples = hpsv3[0], paired(pictures()[:2], "a")
    numbers = iter([torch.tensor([[1.0, -1.0]]), torch.tensor([[0.2, -0.5]])])
    monkeypatch.setattr(scorer, "_numbers", lambda shown: next(numbers))
    assert -scorer.prefer(samples[:1], samples[1:]).log().item() == pytest.approx(0.3963539080, abs=1e-6)
    monkeypatch.undo()
    both = scorer.prefer(samples, samples[::-1])
    assert both.sum().item() == pytest.approx(1)
    broken = scorer.prefer([Sample("a", image=b"no picture")], samples[:1])
    assert broken.isnan().tolist() == [True]


@pytest.mark.parametrize(
    ("size", "wanted"), [((1024, 1024), (448, 448)), ((1344, 768), (588, 336)), ((1000, 200), (1008, 224))]
)
def test_hpsv3_sizes_of_pictures_golden(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    assert smart_resize(size[1], size[0], 28, 256 * 28 * 28, 256 * 28 * 28)[::-1] == wanted


def test_the_wording_is_read_out_of_released_code_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("raise SystemExit\nINSTRUCTION = 'How good? {text_prompt}'\n")
    (tmp_path / "b.py").write_text("import none\nprompt_with_special_token = '\\nRate: <|Reward|>'\n")
    names = ("INSTRUCTION", "prompt_with_special_token")
    assert vlm.wording(tmp_path, names, [REWARD]) == "How good? {text_prompt}\nRate: <|Reward|>"
    with pytest.raises(ValueError, match="gives prompt_with_special_token 0 values"):
        vlm.wording(tmp_path / "a.py", names, [REWARD])
    with pytest.raises(ValueError, match=r"holds <\|Reward\|> 0 times"):
        vlm.wording(asked(tmp_path, "{text_prompt}"), names, [REWARD])


def test_another_wording_is_another_spec(base: Path, hpsv3: tuple[Any, dict[str, Tensor]], tmp_path: Path) -> None:
    save_file(hpsv3[1], tmp_path / "HPSv3.safetensors")
    other: Any = scorers.load(
        "hpsv3", weights=tmp_path / "HPSv3.safetensors", base=base, wording=asked(tmp_path, f"Well: {ASKED}")
    )
    assert other.spec != hpsv3[0].spec
    assert other.spec.preprocessing.startswith(other.describe().preprocessing)
    one = paired(pictures()[:1], "a")
    assert abs(other.score(one).values.item() - hpsv3[0].score(one).values.item()) > 1e-4


def test_autocast_changes_no_score(hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    samples = paired(pictures(), PROMPTS)
    wanted = hpsv3[0].score(samples)
    with torch.autocast("cpu", torch.bfloat16):
        found = hpsv3[0].score(samples)
    assert torch.equal(found.values, wanted.values) and torch.equal(found.sigma, wanted.sigma)


def test_sides_of_different_length_are_refused(hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    with pytest.raises(ValueError, match="got 2 and 1 samples"):
        hpsv3[0].prefer(paired(pictures()[:2], "a"), paired(pictures()[:1], "a"))


def test_a_base_without_its_processor_is_named(
    base: Path, hpsv3: tuple[Any, dict[str, Tensor]], tmp_path: Path
) -> None:
    shutil.copy(base / "config.json", tmp_path / "config.json")
    save_file(hpsv3[1], tmp_path / "HPSv3.safetensors")
    with pytest.raises(BadSetting, match="holds no whole processor and tokenizer"):
        scorers.load("hpsv3", weights=tmp_path / "HPSv3.safetensors", base=tmp_path, wording=asked(tmp_path))


def test_half_a_character_is_read_as_a_question_mark(hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    """Damaged text, half an emoji for one, is no reason to lose a whole batch."""
    scorer, image = hpsv3[0], pictures()[:1]
    assert torch.equal(scorer.score(paired(image, "a \ud83e")).values, scorer.score(paired(image, "a ?")).values)


def test_what_hpsv3_cannot_read_is_invalid_with_its_reason(hpsv3: tuple[Any, dict[str, Tensor]]) -> None:
    good = pictures()[0]
    odd = [Sample(REWARD, image=good), Sample("a"), Sample("a", image=good), Sample("a", image=good.resize((900, 2)))]
    found = hpsv3[0].score(odd)
    assert found.judged.tolist() == [False, False, True, False]
    assert REWARD in found.reasons[0] and "no image" in found.reasons[1] and "aspect ratio" in found.reasons[3]


# VideoReward ---------------------------------------------------------------------------------------------------------

AXES = "".join(f"{each}: <|{each}_reward|>\n" for each in ("VQ", "MQ"))
ASKED_AXES = f"{AXES}It should show: {{text_prompt}}\nTA: <|TA_reward|>\n"
NORMS = {"VQ_mean": 3.7, "VQ_std": 2.2, "MQ_mean": 1.2, "MQ_std": 1.4, "TA_mean": 2.8, "TA_std": 2.5}
LORA = "model.layers.0.self_attn.q_proj"


def clips(count: int = 3, frames: int = 4) -> list[tuple[Image.Image, ...]]:
    shown = tiny_scorers.pictures(count * frames)
    return [tuple(each.resize((20, 28)) for each in shown[frames * i : frames * (i + 1)]) for i in range(count)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Tensor]]:
    """Base model, and a released folder with a full checkpoint as peft names it, one layer adapted."""
    base = tiny_vlm.qwen2_vl(tmp_path_factory.mktemp("base") / "base", layers=2)
    folder, state = tmp_path_factory.mktemp("video"), released(base, 3)
    state["rm_head.weight"] = tiny_scorers.filled({"a": (3, tiny_vlm.WIDTH)}, 8)["a"]
    low = tiny_scorers.filled({"lora_A": (4, tiny_vlm.WIDTH), "lora_B": (32, 4)}, 9)
    peft = {name.replace(LORA, f"{LORA}.base_layer"): each for name, each in state.items()}
    peft |= {f"{LORA}.{name}.default.weight": each for name, each in low.items()}
    (folder / "checkpoint-20").mkdir()
    torch.save({f"base_model.model.{n}": e for n, e in peft.items()}, folder / "checkpoint-20" / "model.pth")
    config = {"inference_config": NORMS, "peft_lora_config": {"lora_r": 4, "lora_alpha": 8}}
    (folder / "model_config.json").write_text(json.dumps(config))
    state[f"{LORA}.weight"] = state[f"{LORA}.weight"] + 2 * low["lora_B"] @ low["lora_A"]
    asked(folder, ASKED_AXES)
    return base, folder, state


@pytest.fixture(scope="module")
def video_reward(video: tuple[Path, Path, dict[str, Tensor]]) -> Any:
    base, folder, _ = video
    return scorers.load("video_reward", weights=folder, base=base, wording=folder / "wording.txt")


def told(prompts: list[str]) -> list[Sample]:
    return [Sample(prompt, video=clip) for prompt, clip in zip(prompts, clips(len(prompts)), strict=True)]


def test_video_reward_is_the_diagonal_of_its_head_normalized(
    video: tuple[Path, Path, dict[str, Tensor]], video_reward: Any
) -> None:
    """Adapted weights are W + alpha / r B A; VQ, MQ and TA are read at marks of their own; the score is their sum."""
    base, folder, state = video
    scorer, sample = video_reward, told(PROMPTS)[0]
    assert torch.allclose(
        scorer.model.network.language_model.layers[0].self_attn.q_proj.weight, state[f"{LORA}.weight"], atol=1e-6
    )
    hidden = scorer.model.read(*(lambda text, clip: ([text], (), [clip]))(*scorer._shown(sample)))[0].double()
    raw = {axis: float(hidden[i] @ state["rm_head.weight"][i].double()) for i, axis in enumerate(("VQ", "MQ", "TA"))}
    found = scorer.score([sample])
    for axis, value in raw.items():
        wanted = (value - NORMS[f"{axis}_mean"]) / NORMS[f"{axis}_std"]
        assert found.aspects[axis].item() == pytest.approx(wanted, abs=1e-4)
    assert found.values.item() == pytest.approx(sum(each.item() for each in found.aspects.values()), abs=1e-5)
    plain = scorers.load(
        "video_reward", weights=folder, base=base, wording=folder / "wording.txt", normalized=False
    ).score([sample])
    assert plain.aspects["TA"].item() == pytest.approx(raw["TA"], abs=1e-4)


def test_video_reward_batches_do_not_matter(video_reward: Any) -> None:
    batches_do_not_matter(video_reward, told(PROMPTS))


def test_only_text_alignment_sees_the_prompt_and_all_see_the_clip(video_reward: Any) -> None:
    clip, other = clips(2)
    one, two, three = (video_reward.score([each]).aspects for each in (
        Sample("a", video=clip), Sample("something else", video=clip), Sample("a", video=other)
    ))  # fmt: skip
    assert [bool((one[axis] - two[axis]).abs() > 1e-4) for axis in one] == [False, False, True]
    assert all(bool((one[axis] - three[axis]).abs() > 1e-4) for axis in one)
    backward = video_reward.score([Sample("a", video=clip[::-1])])
    assert abs(backward.values.item() - sum(each.item() for each in one.values())) > 1e-4


def test_clips_that_cannot_be_read_are_invalid(video_reward: Any) -> None:
    mixed = (*clips(1)[0][:2], Image.new("RGB", (8, 8)))
    found = video_reward.score([Sample("a"), Sample("a", video=mixed), *told(PROMPTS[:1])])
    assert found.judged.tolist() == [False, False, True]
    assert "no video" in found.reasons[0] and "differ in size" in found.reasons[1]


def test_a_clip_may_be_a_folder_or_a_file(video_reward: Any, tmp_path: Path) -> None:
    clip = clips(1, frames=5)[0]
    (tmp_path / "frames").mkdir()
    for place, each in enumerate(clip):
        each.save(tmp_path / "frames" / f"{place}.png")
    write(tmp_path / "clip.webp", clip)
    ways: list[Any] = [clip, list(clip), tmp_path / "frames", str(tmp_path / "frames"), tmp_path / "clip.webp"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.mp4").write_bytes(b"\0\0\0 ftypisom")
    found = video_reward.score([Sample("a", video=each) for each in (*ways, tmp_path / "empty", tmp_path / "no.mp4")])
    assert found.judged.tolist() == [True] * 5 + [False] * 2
    torch.testing.assert_close(found.values[:5], found.values[:1].expand(5), atol=1e-5, rtol=0)
    assert "no frames" in found.reasons[5] and "no.mp4: damaged" in found.reasons[6]
    with pytest.raises(Misuse, match="no such clip: "):
        video_reward.score([Sample("a", video=tmp_path / "none.mp4")])


def test_of_a_film_two_frames_a_second_are_read_as_it_counts_them(
    video: tuple[Path, Path, dict[str, Tensor]], video_reward: Any, tmp_path: Path
) -> None:
    """24 frames, 8 a second: six are read. A rate that is given goes before the film's own."""
    base, folder, _ = video
    file = filmed.film(tmp_path / "clip.mp4", filmed.noise(0, 24, (28, 20)), rate=8)
    whole, rate = timed(Sample("a", video=file))
    assert len(whole) == 24 and rate == 8
    told: Any = scorers.load("video_reward", weights=folder, base=base, wording=folder / "wording.txt", fps=2)
    for scorer, taken in ((video_reward, places(24, 8)), (told, places(24, 2))):
        _, read = scorer._shown(Sample("a", video=file))
        _, wanted = video_reward._shown(Sample("a", video=tuple(whole[place] for place in taken)))
        assert torch.equal(read, wanted)


def test_a_folder_without_norms_says_that_its_numbers_are_raw(
    video: tuple[Path, Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    base, folder, _ = video
    shutil.copytree(folder, tmp_path / "raw")
    given: dict[str, Any] = {"weights": tmp_path / "raw", "base": base, "wording": folder / "wording.txt"}
    config = json.loads((folder / "model_config.json").read_text())
    (tmp_path / "raw" / "model_config.json").write_text(json.dumps({**config, "inference_config": {"VQ_mean": 1.0}}))
    with pytest.raises(ValueError, match="lacks MQ_mean, MQ_std, TA_mean, TA_std, VQ_std"):
        scorers.load("video_reward", **given)
    (tmp_path / "raw" / "model_config.json").write_text(json.dumps({**config, "inference_config": None}))
    raw: Any = scorers.load("video_reward", **given)
    assert raw.spec.scale == "sum of VQ, MQ and TA" and raw.spec.typical is None
    (tmp_path / "raw" / "model_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_config\.json holds no JSON object"):
        scorers.load("video_reward", **given)


@pytest.mark.parametrize(
    ("count", "fps", "wanted"),
    [(24, 24.0, [0, 8, 15, 23]), (73, 24.0, [0, 14, 29, 43, 58, 72]), (2, 8.0, [0, 0, 1, 1])],
)
def test_two_frames_a_second_are_read_and_four_at_least(count: int, fps: float, wanted: list[int]) -> None:
    assert places(count, fps) == wanted


# EditReward ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("edit")
    base = tiny_vlm.qwen2_5_vl(folder / "base", layers=2)
    state = released(base, 1) | head("rm_heads.head_0.", 4) | head("rm_heads.head_1.", 5)
    save_file(state, folder / "model.safetensors")
    (folder / "prompts.py").write_text(
        "INSTRUCTION_EDIT_FOLLOWING = 'Followed? {text_prompt}'\nINSTRUCTION_EDIT_QUALITY = 'Good? {text_prompt}'\n"
    )
    (folder / "data.py").write_text("prompt_with_special_token = '\\nRate: <|Reward|>\\nEND'\n")
    (file := folder / "weights").mkdir()
    save_file(state, file / "model.safetensors")
    return scorers.load("edit_reward", weights=file, base=base, wording=folder), state


def changed() -> list[Sample]:
    before, after = pictures(), tiny_scorers.pictures(3, seed=1)
    return [Sample(p, image=a, source=b) for p, a, b in zip(PROMPTS, after, before, strict=True)]


def test_edit_reward_batches_do_not_matter(edits: tuple[Any, dict[str, Tensor]]) -> None:
    found = batches_do_not_matter(edits[0], changed())
    both = found.aspects["following"] + found.aspects["quality"]
    torch.testing.assert_close(found.values, both / 2)


def test_each_question_has_its_own_head_in_float64(edits: tuple[Any, dict[str, Tensor]]) -> None:
    scorer, state = edits
    sample = changed()[1]
    texts, shown = scorer._shown(sample)
    assert ["Followed? " + PROMPTS[1] in texts[0], "Good? " + PROMPTS[1] in texts[1]] == [True, True]
    with torch.no_grad():
        hidden = [scorer.model.read([text], shown)[0, 0] for text in texts]
    wanted = [by_head(state, f"rm_heads.head_{place}.", each) for place, each in enumerate(hidden)]
    found = scorer.score([sample])
    assert found.aspects["following"].item() == pytest.approx(wanted[0][0].item(), rel=1e-4)
    assert found.aspects["quality"].item() == pytest.approx(wanted[1][0].item(), rel=1e-4)
    assert found.sigma.item() == pytest.approx((wanted[0][1] + wanted[1][1]).div(2).exp().item(), rel=1e-4)


def test_before_and_after_are_not_the_same(edits: tuple[Any, dict[str, Tensor]]) -> None:
    sample = changed()[0]
    swapped = Sample(sample.prompt, image=sample.source, source=sample.image)
    one, other = edits[0].score([sample, swapped]).values.tolist()
    assert abs(one - other) > 1e-4
    without = edits[0].score([Sample("a", image=sample.image)])
    assert "no source" in without.reasons[0]


@pytest.mark.parametrize(
    ("how", "mean", "log"), [("sum", 1.2, -0.3433691562), ("mean", 0.6, -0.75), ("min", 0.2, -1.0)]
)
def test_ratings_are_pooled_golden(how: Any, mean: float, log: float) -> None:
    """Means 1 and .2, logarithms of deviations -1 and -.5."""
    means, logs = torch.tensor([[1.0, 0.2]]).double(), torch.tensor([[-1.0, -0.5]]).double()
    found, sigma = pooled(means, logs, how)
    assert found.item() == pytest.approx(mean)
    assert sigma.log().item() == pytest.approx(log, abs=1e-9)
