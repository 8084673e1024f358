"""How likely the right answers are, where answers are written: teacher-forced, one pass a batch."""

from collections.abc import Sequence

import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import DataConfig, EvalConfig
from prompt_jax.data import encode, encode_targets, pad
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate.answers import batches_by_length, padded_length
from prompt_jax.generate.prefill import read_once
from prompt_jax.generate.scoring import score_candidates
from prompt_jax.sharding import on_host, place_rows


def target_likelihood(
    backbone: Backbone,
    injection: Injection | None,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    data: DataConfig,
    eval: EvalConfig,
) -> float:
    """The mean log-probability of a target's token, in nats: minus the loss that training lowers.

    Args:
      sources: input texts, the template already filled.
      targets: the right answer to each.

    Raises:
      InputError: more tokens than the backbone has positions.
    """
    rows = encode(backbone.tokenizer, sources, data.max_source_length)
    words = (backbone.tokenizer, targets, data.max_target_length)
    target_tokens = encode_targets(*words, place=backbone.target_place)
    length = padded_length(max(map(len, target_tokens)))
    injection = read_once(backbone, injection)
    model = PromptedModel.of(backbone, injection)
    virtual = 0 if injection is None else injection.input_tokens
    positions = 0 if injection is None else injection.positions
    backbone.check_context(positions, max(map(len, rows)), max(map(len, target_tokens)))
    pad_id, total = backbone.config.filler, 0.0
    for indices, tokens, mask in batches_by_length(rows, eval.rows, virtual, pad_id):
        # The last batch is filled up with copies of its last row.
        copies = np.pad(indices, (0, len(tokens) - len(indices)), mode="edge")
        answers, real = pad([target_tokens[i] for i in copies], length, pad_id)
        scores = score_candidates(
            model,
            *place_rows((tokens, mask, answers[:, None], real[:, None]), backbone.mesh),
            np.ones((len(tokens), 1), int),
        )
        total += float(on_host(scores)[: len(indices)].sum(dtype=np.float64))
    return total / sum(map(len, target_tokens))
