"""Test accuracy after prompt tuning: prompt_jax against PEFT on torch, on the model that ships.

Both sides tune P virtual tokens, which start from words of the vocabulary, on the same batches of
`embedded:sentiment` with Adafactor at the same falling rate, and rank the label words of the same
test rows after the last step. Every seed draws a prompt and an order of rows of its own.

    pip install "prompt-jax[parity]"
    python benchmarks/accuracy_vs_peft.py --seeds 3
"""

import argparse
import statistics
import warnings

import jax
import torch
from peft import PromptTuningConfig as PeftConfig
from peft import get_peft_model
from transformers import Adafactor, T5ForConditionalGeneration

from prompt_jax.config import Config, TrainConfig, resolved
from prompt_jax.data import Batches, encode, pad
from prompt_jax.evaluate import evaluate
from prompt_jax.experiment import load_data
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.train import fit, start
from prompt_jax.weights import load_backbone
from prompt_jax.weights.hub import locate


def ours(config, backbone, data, batches):
    """Test accuracy of prompt_jax."""
    tuned = init(config.method, backbone, jax.random.key(config.train.seed))
    steps = (batches[step] for step in range(config.train.steps))
    state = start(tuned, config.train)
    state = fit(loss_fn(config.method, backbone), state, backbone.params, steps, config.train)
    injection = materialize(config.method, state.tuned)
    options = {"data": config.data, "eval": config.eval}
    found = evaluate(backbone, injection, data.tests["test"], data.task, **options)
    return found.metrics["accuracy"]


def theirs(config, backbone, data, batches):
    """Test accuracy of PEFT."""
    torch.manual_seed(config.train.seed)
    folder = locate("embedded", None, None)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(
        model,
        PeftConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=config.method.num_virtual_tokens,
            num_transformer_submodules=1,
            prompt_tuning_init="SAMPLE_VOCAB",
        ),
    ).train()
    optimizer = Adafactor(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.train.learning_rate,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / config.train.steps)
    for step in range(config.train.steps):
        tokens, mask, targets, target_mask = (torch.tensor(a) for a in batches[step])
        labels = torch.where(target_mask, targets, -100).long()
        loss = model(input_ids=tokens.long(), attention_mask=mask.long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fall.step()
    return _accuracy(model.eval(), config, backbone, data)


@torch.no_grad()
def _accuracy(model, config, backbone, data):
    words = data.task.labels
    rows = encode(backbone.tokenizer, words, config.data.max_target_length)
    labels, real = (torch.tensor(a) for a in pad(rows, max(map(len, rows)), 0))
    labels = torch.where(real, labels, -100).long()
    examples, right = data.tests["test"], 0
    sources = [example.source for example in examples]
    sources = encode(backbone.tokenizer, sources, config.data.max_source_length)
    for i in range(0, len(examples), 50):
        some = sources[i : i + 50]
        tokens, mask = (torch.tensor(a).long() for a in pad(some, max(map(len, some)), 0))
        scores = []
        for label in labels:
            every = label.repeat(len(some), 1)
            logits = model(input_ids=tokens, attention_mask=mask, labels=every).logits
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), every, ignore_index=-100, reduction="none"
            )
            scores.append(-loss.sum(1) / (label >= 0).sum())
        best = torch.stack(scores).argmax(0)
        pairs = zip(best, examples[i : i + 50], strict=True)
        right += sum(words[b] == example.target for b, example in pairs)
    return right / len(examples)


def main():
    """Prints a row a seed and both means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=TrainConfig().steps)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    backbone = load_backbone("embedded", dtype="float32")
    data = load_data(Config())
    found = []
    print("seed   prompt_jax   PEFT")
    for seed in range(options.seeds):
        config = Config(train=TrainConfig(steps=options.steps, seed=seed))
        config = resolved(config, backbone.word_size)
        virtual, size = config.method.num_virtual_tokens, config.train.batch_size
        batches = Batches(
            data.train, backbone.tokenizer, config.data, size, seed, prompt_length=virtual
        )
        found.append([side(config, backbone, data, batches) for side in (ours, theirs)])
        print(f"{seed:4d}   {found[-1][0]:10.3f}   {found[-1][1]:.3f}", flush=True)
    us, them = (statistics.mean(side) for side in zip(*found, strict=True))
    print(f"mean   {us:10.3f}   {them:.3f}   difference {us - them:+.3f}")


if __name__ == "__main__":
    main()
