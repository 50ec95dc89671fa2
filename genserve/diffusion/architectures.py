"""Pipelines of the real classes with small, seeded, random weights; not for full-size models, which are downloaded.

Widths follow a TinyRecipe; strides, patches, latent channels and samplers are those of the published checkpoints
(stable-diffusion-3.5-medium, FLUX.1-dev, Wan2.1-T2V-1.3B), because sizes and batches depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from genserve.diffusion.catalog import TinyRecipe
from genserve.diffusion.vocabulary import clip_tokenizer, t5_tokenizer

LATENT_CHANNELS = 16
PIXEL_GAIN = 1.5
"""An untrained decoder's last layer is this much too weak to leave grey; chosen by looking at the pictures."""


def build_pipeline(recipe: TinyRecipe) -> Any:
    """The plain diffusers pipeline of that recipe, float32 on the CPU; the same weights for the same recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _BUILDERS[recipe.architecture](recipe)


def _build_sd3(recipe: TinyRecipe) -> Any:
    clip = clip_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            num_layers=recipe.layers,
            attention_head_dim=recipe.width // recipe.heads,
            num_attention_heads=recipe.heads,
            joint_attention_dim=recipe.text_width * 2,
            caption_projection_dim=recipe.width,
            pooled_projection_dim=recipe.text_width * 2,
            out_channels=LATENT_CHANNELS,
            pos_embed_max_size=96,
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_image_vae(recipe, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(_clip_config(recipe, clip)),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(recipe, clip)),
        tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(_t5_config(T5Config, recipe.text_width * 2)),
        tokenizer_3=t5_tokenizer(),
    )


def _build_flux(recipe: TinyRecipe) -> Any:
    clip = clip_tokenizer()
    head = recipe.width // recipe.heads
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=LATENT_CHANNELS * 4,
            num_layers=recipe.layers,
            num_single_layers=recipe.layers,
            attention_head_dim=head,
            num_attention_heads=recipe.heads,
            joint_attention_dim=recipe.text_width,
            pooled_projection_dim=recipe.text_width,
            guidance_embeds=True,
            axes_dims_rope=(head // 8, head * 7 // 16, head * 7 // 16),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
        ),
        vae=_image_vae(recipe, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_clip_config(recipe, clip)),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(_t5_config(T5Config, recipe.text_width)),
        tokenizer_2=t5_tokenizer(),
    )


def _build_wan(recipe: TinyRecipe) -> Any:
    vae = AutoencoderKLWan(
        base_dim=recipe.vae_width,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return WanPipeline(
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.width // recipe.heads,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            text_dim=recipe.text_width,
            freq_dim=64,
            ffn_dim=recipe.width * 4,
            num_layers=recipe.layers,
            qk_norm="rms_norm_across_heads",
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        vae=_with_contrast(vae),
        text_encoder=UMT5EncoderModel(_t5_config(UMT5Config, recipe.text_width)),
        tokenizer=t5_tokenizer(),
    )


def _image_vae(recipe: TinyRecipe, *, scaling_factor: float, shift_factor: float) -> Any:
    """The 16-channel autoencoder that SD3 and FLUX share in shape: stride 8, no quantisation layers."""
    width = recipe.vae_width
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, width * 2, width * 4, width * 4),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return _with_contrast(vae)


def _with_contrast(vae: Any) -> Any:
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(PIXEL_GAIN)
    return vae


def _clip_config(recipe: TinyRecipe, tokenizer: Any) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=recipe.text_width * 4,
        projection_dim=recipe.text_width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(config_class: Callable[..., Any], width: int) -> Any:
    return config_class(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=width // 2,
        d_ff=width * 4,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )


_BUILDERS: dict[str, Callable[[TinyRecipe], Any]] = {"sd3": _build_sd3, "flux": _build_flux, "wan": _build_wan}
