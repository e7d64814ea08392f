"""Adapters: diffusers and transformers models as the `Denoiser` and `LanguageModel` of the contract."""
