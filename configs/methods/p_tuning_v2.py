"""P-tuning v2: deep prompts in the encoder and the decoder.

prompt-jax train configs/methods/p_tuning_v2.py [--data.task TASK]
"""

from prompt_jax import Config, PTuningV2Config

config = Config(out="runs/p_tuning_v2", method=PTuningV2Config())
