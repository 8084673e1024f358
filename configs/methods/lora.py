"""LoRA of queries and values.

prompt-jax train configs/methods/lora.py [--data.task TASK]
"""

from prompt_jax import Config, LoraConfig

config = Config(out="runs/lora", method=LoraConfig(r=8, lora_alpha=16))
