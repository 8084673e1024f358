"""P-tuning: a biLSTM writes the prompt.

prompt-jax train configs/methods/p_tuning.py [--data.task TASK]
"""

from prompt_jax import Config, PTuningConfig

config = Config(out="runs/p_tuning", method=PTuningConfig(encoder_reparameterization_type="LSTM"))
