"""Two-model guidance and reflection inside a plain diffusers Stable Diffusion or SDXL pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Condition
from ..diffusion.guidance import Predict
from ..diffusion.reflection import Mirror, Reflection, Side, counted
from ..process import from_scheduler
from .families import ask
from .folder import Folder, FolderError
from .mixing import Role
from .publish import absent_parts

Network = nn.Module | Mapping[str, float]  # a UNet, or weights of the adapters that the pipeline's own has loaded


def check_unet(pipeline: str, network: str) -> None:
    """FolderError with what serves instead for a pipeline whose network is no UNet of pictures."""
    if network != "UNet2DConditionModel":
        raise FolderError(
            "a second network and a reflection go into plain diffusers pipelines of UNets of pictures, and a "
            f"{pipeline} has a {network}: draw with `visalign generate` or visalign.drawing, which take every kind"
        )


def check_pipe(pipe: Any) -> None:
    """The same of a pipeline that is open."""
    network = own(pipe) if hasattr(pipe, "unet") else pipe.transformer
    check_unet(type(pipe).__name__, type(network.network if isinstance(network, Role) else network).__name__)


def own(pipe: Any) -> Any:
    """The network that draws in a pipeline, whoever answers beside it."""
    return pipe.unet.network if isinstance(pipe.unet, Halves) else pipe.unet


def played(pipe: Any, network: Network | None) -> Any:
    """A network as it is, weighed adapters on the pipeline's own, or, for None, the pipeline's own as it is set."""
    if not isinstance(network, Mapping):
        return own(pipe) if network is None else network
    bare = own(pipe).network if isinstance(own(pipe), Role) else own(pipe)
    loaded = list(getattr(bare, "peft_config", {}))
    unknown = [name for name in network if name not in loaded]
    if unknown:
        raise ValueError(f"the pipeline has no adapter {', '.join(unknown)}; loaded are {', '.join(loaded) or 'none'}")
    return Role(bare, network)


class Halves(nn.Module):
    """A UNet whose answers to the unconditional half of a guided batch are another network's.

    Diffusers' pipelines ask for both halves in one call, the unconditional one first, and for the conditional one alone
    where `guidance_scale` is 1 or less. Everything else (config, dtype, parts) is the positive network's.
    """

    def __init__(self, pipe: Any, positive: nn.Module, negative: nn.Module) -> None:
        super().__init__()
        self.network, self.negative = positive, negative
        self._pipe = [pipe]  # in a list: the pipeline is no part of this module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, sample: Tensor, timestep: Any, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """The two answers, behind one another: (2n, c, h, w) where the pipeline guides, (n, c, h, w) otherwise."""
        if not self._pipe[0].do_classifier_free_guidance:
            return self.network(sample, timestep, *args, return_dict=return_dict, **kwargs)
        answers = [
            network(half(sample, k), half(timestep, k), *half(args, k), return_dict=False, **half(kwargs, k))[0]
            for k, network in enumerate((self.negative, self.network))
        ]
        sample = torch.cat(answers)
        if not return_dict:
            return (sample,)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=sample)


def half(value: Any, which: int) -> Any:
    """The first (0) or second (1) half of every tensor with a batch axis in nested arguments."""
    if isinstance(value, Tensor) and value.ndim:
        return value.chunk(2)[which]
    if isinstance(value, Mapping):
        return {name: half(each, which) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(half(each, which) for each in value)
    return value


def negative_guidance(pipe: Any, negative: Network, positive: Network | None = None) -> Any:
    """Let `negative` answer for the empty (or negative) prompt in this pipeline, and return the pipeline.

    Diffusion-NPO (arXiv 2505.11245). Where everything is a LoRA on one base, one network serves both: after
    `pipe.load_lora_weights(…, adapter_name=…)`, `negative` is {"dpo": alpha, "npo": beta} and `positive` {"dpo": 1.0};
    None leaves the adapters of the conditional half as they are set.
    """
    check_pipe(pipe)
    pipe.unet = Halves(pipe, played(pipe, positive), played(pipe, negative))
    return pipe


def ddim_pipeline(folder: Folder, role: Role) -> Any:
    """A folder's pipeline that draws by DDIM with this role's network; FolderError where that is no UNet."""
    from diffusers import DDIMScheduler

    check_unet(folder.pipeline_class, folder.family.network)
    pipe = folder.pipeline(unet=role.network, **absent_parts(folder))
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and name != "unet":
            part.to(role.device, role.dtype)
    pipe.unet = role
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Reflected:
    """A pipeline whose drawing is reflected (W2SD, arXiv 2502.00473), by diffusers' own DDIM schedulers.

    Called as the pipeline is. `strong` and `weak` are UNets, weights of the pipeline's adapters, or None for what
    draws; their guidances are 1 for the prompt alone and 0 for the empty prompt alone. `count` and `variant` are those
    of `visalign.diffusion.reflection.Reflection`.

    Raises:
        FolderError: the pipeline's network is no UNet of pictures.
        ValueError: its scheduler is not DDIMScheduler, the one that diffusers has the inverse of.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        weak: Network | None = None,
        strong: Network | None = None,
        weak_guidance: float = 1.0,
        strong_guidance: float = 1.0,
        count: int | None = None,
        variant: str = "paper",
    ) -> None:
        from diffusers import DDIMInverseScheduler, DDIMScheduler

        check_pipe(pipe)
        if not isinstance(pipe.scheduler, DDIMScheduler):
            kind = type(pipe.scheduler).__name__
            raise ValueError(
                f"a reflection goes back by DDIM's inverse, and the pipeline has {kind}; set DDIMScheduler"
            )
        self.pipe = pipe
        negative = asked(pipe.unet.negative) if isinstance(pipe.unet, Halves) and strong is None else None
        self.reflection = Reflection(
            Side(asked(played(pipe, strong)), strong_guidance, negative=negative),
            Side(asked(played(pipe, weak)), weak_guidance),
            count,
            variant,
        )
        self.process = from_scheduler(pipe.scheduler.config)
        told = {} if variant == "release" else {"prediction_type": "epsilon"}
        self.inverse = DDIMInverseScheduler.from_config(pipe.scheduler.config, **told)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        negative_prompt: str | list[str] | None = None,
        weak_prompt: str | list[str] | None = None,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        generator: Any = None,
        latents: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """What the pipeline returns; it takes what the pipeline takes, save a callback and several pictures a prompt.

        `weak_prompt` is what the weak side is told, where that is not the prompt: the prompt before it was refined.
        """
        pipe, side = self.pipe, own(self.pipe).config.sample_size * self.pipe.vae_scale_factor
        size = (height or side, width or side)
        texts = encoded(pipe, prompt, negative_prompt)
        told, untold = conditions(texts, size, others)
        weaker = (
            None if weak_prompt is None else conditions(encoded(pipe, weak_prompt, negative_prompt), size, others)[0]
        )
        x = pipe.prepare_latents(
            len(told), own(pipe).config.in_channels, *size, told.text.dtype, told.text.device, generator, latents
        )
        mirror = self._mirror(num_inference_steps, told, untold, weaker)

        def after(_: Any, place: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"latents": mirror(tensors["latents"], place + 1)}

        return pipe(
            **texts, latents=mirror(x, 0), num_inference_steps=num_inference_steps, height=size[0], width=size[1],
            generator=generator, callback_on_step_end=after, **others,
        )  # fmt: skip

    def _mirror(self, steps: int, told: Condition, untold: Condition, weaker: Condition | None) -> Mirror:
        """x before a step to its reflection; itself once all are done."""
        down, up, count = self.pipe.scheduler, self.inverse, counted(self.reflection.count, steps)
        down.set_timesteps(steps, device=told.text.device)
        up.set_timesteps(steps, device=told.text.device)
        strong = self.reflection.strong.answer(told, untold)
        weak = self.reflection.weak.answer(told if weaker is None else weaker, untold)

        def reflected(x: Tensor, place: int) -> Tensor:
            if place >= count:
                return x
            t, to = down.timesteps[place], down.timesteps[place + 1]
            now = t.expand(len(x))
            lower: Tensor = down.step(strong(x, now), t, x, eta=0.0).prev_sample
            answer, back = weak(lower, now), to  # the release's destination: diffusers' inverse wants t
            if self.reflection.variant == "paper":
                answer, back = self.process.split(answer, lower, now)[1], t
            returned: Tensor = up.step(answer, back, lower).prev_sample
            return returned.to(x.dtype)

        return reflected


def asked(network: Any) -> Predict:
    """A network as guidance asks it."""
    return lambda x, t, condition: ask(network, x, t, condition)


def encoded(pipe: Any, prompt: str | list[str], negative_prompt: str | list[str] | None) -> dict[str, Tensor]:
    """The prompts' embeddings by the names under which the pipeline takes them; SDXL has pooled ones too."""
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    found = pipe.encode_prompt(
        prompt=prompt, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=True,
        negative_prompt=negative_prompt,
    )  # fmt: skip
    return dict(zip(names, found, strict=False))


def conditions(
    texts: Mapping[str, Tensor], size: tuple[int, int], others: Mapping[str, Any]
) -> tuple[Condition, Condition]:
    """What the UNet is told of n prompts, and of n empty ones, as the pipeline will tell it."""
    text, pooled = texts["prompt_embeds"], texts.get("pooled_prompt_embeds")
    time_ids = None
    if pooled is not None:
        named = (others.get("original_size"), others.get("crops_coords_top_left", (0, 0)), others.get("target_size"))
        numbers = [number for each in named for number in (each or size)]
        time_ids = torch.tensor([numbers] * len(text), device=text.device)
    untold = texts["negative_prompt_embeds"], texts.get("negative_pooled_prompt_embeds")
    return Condition(text, pooled, time_ids), Condition(*untold, time_ids)
