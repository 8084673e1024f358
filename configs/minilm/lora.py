"""LoRA of queries and values on the sentence encoder MiniLM, with a head of the label words.

prompt-jax train configs/minilm/lora.py --backbone FOLDER
"""

from prompt_jax import Config, LoraConfig

config = Config(
    backbone="sentence-transformers/all-MiniLM-L6-v2",
    out="runs/minilm_lora",
    method=LoraConfig(),
)
