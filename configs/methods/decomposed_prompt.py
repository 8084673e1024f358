"""DePT: a short prompt and a low-rank update of the text's embeddings.

prompt-jax train configs/methods/decomposed_prompt.py [--data.task TASK]
"""

from prompt_jax import Config, DecomposedPromptConfig

config = Config(
    out="runs/decomposed_prompt",
    method=DecomposedPromptConfig(num_virtual_tokens=10, max_length=64),
)
