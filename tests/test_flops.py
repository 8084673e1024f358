"""What a training step multiplies, counted by the compiler and by hand."""

import jax
import jax.numpy as jnp

from prompt_jax.backbones import Backbone, init_params, t5
from prompt_jax.config import PromptTuningConfig, TrainConfig
from prompt_jax.losses import loss_fn
from prompt_jax.testing import random_batch
from prompt_jax.train import compile_step, start

OPTIMIZED = True


def test_a_step_costs_forward_and_activation_backward_and_no_more():
    """Multiplications with frozen kernels happen twice, forward and towards the activations.

    A third time would be the gradient of a kernel. Attention is counted at twice its forward
    cost, since both of its operands are activations.
    """
    config = t5.T5Config(
        vocab_size=512, d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2,
        num_decoder_layers=2, scan=False,
    )  # fmt: skip
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    backbone = Backbone(name="shapes", config=config, params=shapes)
    batch, text, virtual, target = 8, 60, 4, 8
    texts = random_batch(backbone, rows=batch, text=text, target=target)
    method = PromptTuningConfig(num_virtual_tokens=virtual, init="random")
    rows = jnp.zeros((virtual, config.d_model))
    train = TrainConfig(optimizer="adamw", batch_size=batch)
    step = compile_step(loss_fn(method, backbone), train)
    lowered = step.lower(start({"prompt": rows}, train), shapes, texts)
    measured = lowered.compile().cost_analysis()["flops"]

    s, u = virtual + text, target
    inner, heads = config.num_heads * config.d_kv, 4 * config.d_model
    projections = heads * inner
    mlp = 3 * config.d_model * config.d_ff
    scores = 2 * inner
    encoder = config.num_layers * (s * (projections + mlp) + s * s * scores)
    decoder_kernels = u * (projections + projections // 2 + mlp) + s * projections // 2
    decoder = config.num_decoder_layers * (decoder_kernels + (u * u + u * s) * scores)
    head = u * config.d_model * config.vocab_size
    # Attention: its backward pass has a product for each of two operands, so it costs three.
    attention = config.num_layers * s * s * scores
    attention += config.num_decoder_layers * (u * u + u * s) * scores
    expected = 2 * batch * (2 * (encoder + decoder + head) + attention)
    assert 0.8 * expected <= measured <= 1.05 * expected
