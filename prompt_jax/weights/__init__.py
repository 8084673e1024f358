"""Checkpoints in, frozen trees out: Hugging Face folders, hub ids, T5X, and random models."""

from prompt_jax.weights.export import save_hugging_face as save_hugging_face
from prompt_jax.weights.load import kernel_on as kernel_on
from prompt_jax.weights.load import load_backbone as load_backbone
from prompt_jax.weights.load import open_backbone as open_backbone
from prompt_jax.weights.load import read_config as read_config
from prompt_jax.weights.tokenizer import load_tokenizer as load_tokenizer
from prompt_jax.weights.words import Words as Words
from prompt_jax.weights.words import load_words as load_words
