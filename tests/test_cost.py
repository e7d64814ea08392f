"""What a run will cost, told without loading a weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visalign.batches import Condition
from visalign.contract import Passes, Reference
from visalign.models import architectures, cost, users
from visalign.models.family import Family
from visalign.models.flux import FLUX
from visalign.models.sd3 import SD3
from visalign.models.stable_diffusion import SD

TINY = {
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SHAPE = cost.Shape(SD, TINY, size=(16, 16), tokens=7, rank=4)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", 859_520_964),
        ("stabilityai/stable-diffusion-2-1", 865_910_724),
        ("stabilityai/stable-diffusion-xl-base-1.0", 2_567_463_684),
        ("stabilityai/stable-diffusion-3-medium-diffusers", 2_028_328_000),
        ("stabilityai/stable-diffusion-3.5-medium", 2_243_171_520),
        ("black-forest-labs/FLUX.1-dev", 11_901_408_320),
        ("black-forest-labs/FLUX.1-schnell", 11_891_178_560),
    ],
)
def test_known_shapes_have_their_published_sizes(name: str, published: int) -> None:
    found = architectures.KNOWN[name]
    network = cost.skeleton(cost.Shape(found.family, found.config, size=(8, 8)))
    assert sum(each.numel() for each in network.parameters()) == published
    assert {each.device.type for each in network.parameters()} == {"meta"}


def test_stable_diffusion_3_5_large_has_the_eight_billion_that_are_published() -> None:
    """No exact count is."""
    network = cost.skeleton(cost.Shape(SD3, architectures.SD35_LARGE, size=(8, 8)))
    assert round(sum(each.numel() for each in network.parameters()) / 1e9, 1) == 8.1


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (SD3, tiny.sd3_transformer().config),
        (FLUX, tiny.flux_transformer(guidance=True).config),
        (FLUX, tiny.flux_transformer(guidance=False).config),
    ],
)
def test_flop_of_transformers_are_those_of_a_real_run(family: Family, config: Any) -> None:
    told = cost.estimate(cost.Shape(family, config, size=(8, 8), tokens=20, train="full"))
    network = getattr(diffusers, family.network).from_config(config)
    x, condition = family.example(config, (8, 8), 20)
    real = {name: torch.rand_like(each, device="cpu") for name, each in vars(condition).items() if each is not None}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        answer = family.ask(network, torch.rand_like(x, device="cpu"), torch.tensor([500.0]), Condition(**real))
    assert told.forward_flop == counter.get_total_flops()
    assert answer.shape == (1, 4, 8, 8)


def test_flop_are_those_of_a_real_run() -> None:
    torch.manual_seed(0)
    network = UNet2DConditionModel.from_config(TINY)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # the CPU's fused kernel is not counted
        answer = network(torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 7, 24)).sample
    told = cost.estimate(replace(SHAPE, train="full"))
    assert told.forward_flop == counter.get_total_flops()
    assert answer.shape == (1, 4, 16, 16)


def test_a_pair_costs_what_its_passes_cost() -> None:
    pair = cost.estimate(SHAPE)
    alone = cost.estimate(replace(SHAPE, reference=Reference.NONE, passes=Passes(policy=1)))
    assert pair.record_flop == 2 * (alone.record_flop + pair.forward_flop)
    assert pair.passes == "2 policy forward + 2 forward without gradient + 2 backward"
    assert alone.passes == "1 policy forward + 1 backward"


def test_lora_trains_little_and_needs_less_backward_than_full_weights() -> None:
    lora, full = cost.estimate(SHAPE), cost.estimate(replace(SHAPE, train="full"))
    assert lora.trained < 0.1 * full.trained == 0.1 * full.parameters
    assert lora.record_flop < full.record_flop
    assert (lora.reference, full.reference) == (0, 4 * full.parameters)
    assert lora.memory(1) < full.memory(1) < full.memory(2)


def test_checkpointing_trades_activations_for_a_forward() -> None:
    plain, checked = cost.estimate(SHAPE), cost.estimate(replace(SHAPE, checkpointing=True))
    assert checked.activations < plain.activations
    extra = checked.record_flop - plain.record_flop
    assert 0.5 * plain.forward_flop < extra <= 2 * plain.forward_flop


def test_half_precision_keeps_half_the_activations() -> None:
    wide, narrow = (
        cost.estimate(replace(SHAPE, train="full")),
        cost.estimate(replace(SHAPE, train="full", precision="bf16")),
    )
    assert 0.45 < narrow.activations / wide.activations < 0.75  # norms keep float32 statistics


def test_attention_to_users_costs_what_a_real_run_does() -> None:
    """Its own parameters alone are trained, and the frozen network is its reference."""
    shape = users.Shape(tokens=3, width=5)
    told = cost.estimate(replace(SHAPE, train="user", users=shape))
    network = UNet2DConditionModel.from_config(TINY)
    trained = users.Users(network, shape).trainable()
    assert told.trained == sum(each.numel() for each in trained.values()) < 0.1 * told.parameters
    assert (told.reference, told.optimizer) == (0, 2 * 4 * told.trained)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        text = users.told(network, torch.randn(1, 7, 24), torch.randn(1, 3, 5))
        network(torch.randn(1, 4, 16, 16), torch.tensor([5]), text)
    assert told.forward_flop == counter.get_total_flops() > cost.estimate(replace(SHAPE, train="full")).forward_flop


def test_attention_to_users_has_the_size_that_its_recipe_tells() -> None:
    """PPD's embeddings (29, 3584) on Stable Diffusion 1.5; nothing of that size is held."""
    shape = cost.Shape(SD, architectures.SD15, size=(8, 8))
    with torch.device("meta"):
        made = cost.adapted(cost.skeleton(shape), replace(shape, train="user", users=users.Shape(29, 3584)))
    assert made is not None
    assert sum(each.numel() for each in made.trainable().values()) == 21_924_096
    assert {each.device.type for each in made.trainable().values()} == {"meta"}
