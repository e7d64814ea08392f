"""Every name a user can say, and the object behind it: "visalign.trainers.diffusion_dpo:DiffusionDPO".

The only place that imports by name. An installed distribution adds names under the entry-point groups of GROUPS, in
the form `name = "package.module:object"`; a name of ours cannot be taken over.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from . import config, strict


class UnknownName(ValueError):
    """A name that nobody registered; says which there are and which may have been meant."""


class BadSetting(ValueError):
    """A named thing refused its settings."""


@dataclass(frozen=True)
class Entry:
    """One name: where its object is, and one line on what it is."""

    target: str  # "module:object"
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # what this name stands for, beyond the object

    def load(self) -> Any:
        """Import the object."""
        return getattr(import_module(self.target.partition(":")[0]), self.attribute)

    @property
    def attribute(self) -> str:
        """The object's own name."""
        return self.target.partition(":")[2]


TABLE: Mapping[str, Mapping[str, Entry]] = {
    "method": {
        "chip": Entry("visalign.trainers.chip:CHiP", "CHiP, words, segments, tokens and pictures (arXiv 2501.16629)"),
        "critique_reward": Entry("visalign.trainers.critique_reward:CritiqueReward", "a scorer that says why first"),
        "dcpo": Entry("visalign.trainers.dcpo:DCPO", "DCPO, a caption for each of a pair (arXiv 2502.06023)"),
        "dense_dpo": Entry("visalign.trainers.dense_dpo:DenseDPO", "DenseDPO, clips piece by piece (arXiv 2506.03517)"),
        "diffusion_dpo": Entry("visalign.trainers.diffusion_dpo:DiffusionDPO", "Diffusion-DPO (arXiv 2311.12908)"),
        "diffusion_kto": Entry("visalign.trainers.diffusion_kto:DiffusionKTO", "Diffusion-KTO (arXiv 2404.04465)"),
        "diffusion_npo": Entry("visalign.trainers.diffusion_npo:DiffusionNPO", "Diffusion-NPO (arXiv 2505.11245)"),
        "dragon": Entry("visalign.trainers.dragon:DRAGON", "DRAGON, rewards of whole sets (arXiv 2504.15217)"),
        "flow_dpo": Entry("visalign.trainers.flow_dpo:FlowDPO", "Flow-DPO, of velocities (arXiv 2501.13918)"),
        "flow_rwr": Entry("visalign.trainers.flow_rwr:FlowRWR", "Flow-RWR, fine-tuning by reward (arXiv 2501.13918)"),
        "grpo": Entry("visalign.trainers.grpo:GRPO", "Flow-GRPO and DanceGRPO, by reward (arXiv 2505.05470)"),
        "inpo": Entry("visalign.trainers.inpo:InPO", "DDIM-InPO, on inverted pictures (arXiv 2503.18454)"),
        "inversion_dpo": Entry(
            "visalign.trainers.inversion_dpo:InversionDPO", "Inversion-DPO, on whole trajectories (arXiv 2507.11554)"
        ),
        "mapo": Entry("visalign.trainers.mapo:MaPO", "MaPO, without a reference (arXiv 2406.06424)"),
        "mdpo": Entry("visalign.trainers.mdpo:MDPO", "mDPO, answers that hang on the picture (arXiv 2406.11839)"),
        "mllm_dpo": Entry("visalign.trainers.mllm_dpo:MLLMDPO", "DPO for models that see, by any loss"),
        "mllm_sft": Entry("visalign.trainers.mllm_sft:MLLMSFT", "fine-tuning on preferred answers, the baseline"),
        "mm_dpo": Entry("visalign.trainers.mm_dpo:MMDPO", "MM-DPO, clear pairs bind more (arXiv 2502.10391)"),
        "opa_dpo": Entry("visalign.trainers.opa_dpo:OPADPO", "OPA-DPO, revised answers (arXiv 2501.09695)"),
        "ppd": Entry("visalign.trainers.ppd:PPD", "PPD, to each user's own taste (arXiv 2501.06655)"),
        "reward_model": Entry("visalign.trainers.reward_model:RewardModelling", "a scorer from votes"),
        "smpo": Entry("visalign.trainers.smpo:SmPO", "SmPO, by scores, on inverted pictures (arXiv 2506.02698)"),
        "rpo": Entry("visalign.trainers.rpo:RPO", "RPO, a subject by rewarded pairs (arXiv 2407.12164)"),
        "self_npo": Entry("visalign.trainers.self_npo:SelfNPO", "Self-NPO, without any data (arXiv 2505.11777)"),
        "spo": Entry("visalign.trainers.spo:SPO", "SPO, step by step on its own drawings (arXiv 2406.04314)"),
        "tars": Entry(
            "visalign.trainers.tars:TARS", "TARS, words that no picture shows are changed (arXiv 2507.21584)"
        ),
        "v_dpo": Entry("visalign.trainers.v_dpo:VDPO", "V-DPO, guided by what is seen (arXiv 2411.02712)"),
        "sft": Entry("visalign.trainers.sft:SFT", "fine-tuning on the preferred pictures, the baseline"),
    },
    "scorer": {
        "personal": Entry("visalign.scorers.personal:Personal", "a user's taste, read from a few votes"),
        "rules": Entry("visalign.scorers.rules:Rules", "the playground's checker: how well a picture shows its prompt"),
        "voters": Entry("visalign.scorers.rules:Taste", "what the playground's simulated voters vote by"),
        "motion": Entry("visalign.scorers.motion:Motion", "the moving playground's checker: clips, frame by frame"),
        "redrawing": Entry("visalign.scorers.rules:Redrawing", "the playground's second judge, which made no votes"),
        "playground_hps": Entry("visalign.scorers.playground:PlaygroundHPS", "the playground's learned scorer"),
        "hpsv2.1": Entry("visalign.scorers.hpsv2:HPSv2", "HPS v2.1 (arXiv 2306.09341)", {"version": "2.1"}),
        "hpsv2.0": Entry("visalign.scorers.hpsv2:HPSv2", "HPS v2.0, not comparable with 2.1", {"version": "2.0"}),
        "pickscore": Entry("visalign.scorers.pickscore:PickScore", "PickScore (arXiv 2305.01569)"),
        "image_reward": Entry("visalign.scorers.image_reward:ImageReward", "ImageReward (arXiv 2304.05977)"),
        "mps": Entry("visalign.scorers.mps:MPS", "MPS, overall (arXiv 2405.14705)"),
        "vqascore": Entry("visalign.scorers.vqa:VQAScore", "VQAScore (arXiv 2404.01291): P(Yes) of a model with eyes"),
        "hpsv3": Entry("visalign.scorers.hpsv3:HPSv3", "HPSv3 (arXiv 2508.03789): mean and deviation of a reward"),
        "video_reward": Entry("visalign.scorers.video_reward:VideoReward", "VideoReward (arXiv 2501.13918): clips"),
        "edit_reward": Entry("visalign.scorers.edit_reward:EditReward", "EditReward (arXiv 2509.26346): edits"),
        "unified_reward": Entry("visalign.scorers.unified_reward:UnifiedReward", "UnifiedReward (arXiv 2503.05236)"),
        "clipscore": Entry("visalign.scorers.clipscore:CLIPScore", "CLIPScore (arXiv 2104.08718)"),
        "clip_iqa": Entry("visalign.scorers.clipscore:CLIPIQA", "CLIP-IQA (arXiv 2207.12396); reads no prompt"),
        "aesthetic_v2": Entry("visalign.scorers.aesthetic:Aesthetic", "LAION's improved aesthetic predictor"),
        "aesthetic_v1": Entry("visalign.scorers.aesthetic:Aesthetic", "LAION's first one", {"version": "1"}),
        "learned": Entry("visalign.scorers.learned:Learned", "a reward model that `visalign train` published"),
        "ensemble": Entry("visalign.scorers.ensemble:Ensemble", "scorers as one: mean, worst case, harmonic, …"),
        "likeness": Entry("visalign.scorers.likeness:Likeness", "likeness to the pictures of a folder: a subject"),
        "critique": Entry("visalign.scorers.critique:Critique", "MM-RLHF (arXiv 2502.10391): a critique, then a score"),
        "vlm": Entry("visalign.scorers.vlm_judge:VLMJudge", "a vision-language model rates, by a rubric"),
        "ocr": Entry("visalign.scorers.ocr:OCR", "how well a picture shows the text in its prompt's quotes"),
        "geneval": Entry("visalign.scorers.objects:GenEval", "GenEval (arXiv 2310.11513): things, colours and places"),
        "looks": Entry("visalign.scorers.statistics:Looks", "statistics of the picture, alarms of reward hacking"),
    },
    "judge": {
        "vlm": Entry("visalign.scorers.vlm_judge:VLMJudge", "a vision-language model compares, by a rubric"),
        "segments": Entry("visalign.scorers.segments:SegmentJudge", "clips a second at a time (arXiv 2506.03517)"),
    },
    "chat": {
        "endpoint": Entry("visalign.scorers.endpoint:Endpoint", "any server that speaks OpenAI's chat completions"),
        "local": Entry("visalign.scorers.local_vlm:LocalVLM", "an image-text-to-text model, in a folder"),
    },
    "asker": {
        "chat": Entry("visalign.scorers.asking:ChatAsker", "texts to a chat, for measures with words of their own"),
    },
    "detector": {
        "transformers": Entry("visalign.scorers.detectors:TransformersDetector", "DETR and kin, OWL, Mask2Former"),
        "playground": Entry("visalign.scorers.shapes:ShapeDetector", "the checker's eyes: shapes and their colours"),
    },
    "text_reader": {
        "page": Entry("visalign.scorers.pages:PageReader", "a page of text, by any chat that sees (local, endpoint)"),
        "trocr": Entry("visalign.scorers.trocr:TrOCR", "a line of text, by an encoder-decoder's folder (TrOCR, …)"),
    },
    "reward_model": {
        "open_clip": Entry("visalign.scorers.trainable:OpenClipReward", "a CLIP of open_clip, or a head on it"),
    },
    "app": {
        "compare": Entry("visalign.apps.compare:compare", "models side by side in the browser, votes, a leaderboard"),
        "score_api": Entry("visalign.apps.score_api:create", "scorers over HTTP"),
    },
    "reader": {
        "tastes": Entry("visalign.scorers.personal:TasteReader", "a user's place among many tastes, from votes"),
        "profile": Entry("visalign.scorers.profiles:ProfileReader", "what a VLM makes of a user's votes"),
    },
    "captioner": {
        "local": Entry("visalign.models.writers:LocalCaptioner", "an image-to-text model's folder (BLIP, LLaVA, …)"),
        "checker": Entry("visalign.playground.writers:Describer", "says what a playground picture shows"),
    },
    "rewriter": {
        "local": Entry("visalign.models.writers:LocalRewriter", "a language model's folder, DIPPER for one"),
        "grammar": Entry("visalign.playground.writers:Grammar", "says a playground caption again, or nearly"),
    },
    "similarity": {
        "words": Entry("visalign.answering.similarity:WordOverlap", "cosine of texts' words, for the playground"),
        "sentences": Entry("visalign.models.sentence_encoder:SentenceEncoder", "an encoder's folder (MPNet, …)"),
    },
    "latent_scorer": {
        "playground": Entry("visalign.playground.step_judge:StepJudge", "what voters will think of a noisy picture"),
        "decoded": Entry("visalign.decoded:Decoded", "any scorer, on what the reference makes of a noisy picture"),
    },
}
GROUPS = {kind: f"visalign.{kind}s" for kind in TABLE}


def kinds() -> list[str]:
    """What kinds of things have names."""
    return list(TABLE)


def names(kind: str) -> dict[str, Entry]:
    """Every name of a kind with its entry, ours first, then those that other distributions brought."""
    if kind not in TABLE:
        raise UnknownName(f"nothing here is a {kind!r}{config.suggestion(kind, TABLE)}")
    return {**TABLE[kind], **_brought(kind)}


@cache
def _brought(kind: str) -> dict[str, Entry]:
    """What installed distributions announce; a name that is taken is an error, whoever took it."""
    found: dict[str, Entry] = {}
    for point in entry_points(group=GROUPS[kind]):
        taken = found.get(point.name) or TABLE[kind].get(point.name)
        if taken:
            raise BadSetting(f"two {kind}s are named {point.name!r}: {point.value} and {taken.target}")
        found[point.name] = Entry(point.value, f"from {point.dist.name if point.dist else point.module}")
    return found


def load(kind: str, name: str) -> Any:
    """The object behind a name; `UnknownName` says what it may have meant."""
    known = names(kind)
    if name not in known:
        raise UnknownName(f"no {kind} is named {name!r}{config.suggestion(str(name), known)}")
    return known[name].load()


def build(kind: str, settings: Mapping[str, Any] | str) -> Any:
    """Make a named thing from `{name: …, **settings}` or a bare name; what it refuses is a `BadSetting` in one line."""
    given = {"name": settings} if isinstance(settings, str) else dict(settings)
    if "name" not in given:
        raise BadSetting(f"a {kind} needs a name, one of {', '.join(names(kind))}; got {given}")
    name = str(given.pop("name"))
    made = load(kind, name)
    given = {**names(kind)[name].settings, **given}
    try:
        return config.fill(made, given, kind) if _is_dataclass(made) else made(**_checked(made, given, kind))
    except config.ConfigError:
        raise
    except ValueError as error:
        raise BadSetting(f"{kind}: {error}") from error


def attributes(kind: str, package: str) -> list[str]:
    """The names of the objects of a kind that live in the given package, as its face offers them."""
    return sorted({each.attribute for each in TABLE[kind].values() if each.target.startswith(f"{package}.")})


def attribute(kind: str, name: str, package: str) -> Any:
    """One of those objects, imported now; AttributeError, as a module's `__getattr__` owes, lists what there is."""
    for entry in TABLE[kind].values():
        if entry.attribute == name and entry.target.startswith(f"{package}."):
            return entry.load()
    raise AttributeError(f"module {package!r} has no attribute {name!r}; it offers {attributes(kind, package)}")


def _checked(made: Any, given: dict[str, Any], kind: str) -> dict[str, Any]:
    """The settings of something that is no dataclass, their names and plain types checked against its signature."""
    known = inspect.signature(made).parameters
    for name in given.keys() - known.keys():
        raise BadSetting(f"unknown setting {kind}.{name}{config.suggestion(name, known)}")
    missing = [name for name, each in known.items() if each.default is each.empty and name not in given]
    if missing:
        raise BadSetting(f"{kind} needs {', '.join(missing)}")
    return {name: strict.plain(value, str(known[name].annotation), f"{kind}.{name}") for name, value in given.items()}


def _is_dataclass(made: Any) -> bool:
    return isinstance(made, type) and is_dataclass(made)
