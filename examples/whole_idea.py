"""The whole idea on one page: freeze a model, train a few numbers in front of it, use both.

    python examples/whole_idea.py [steps]

Prints the loss as it falls, the share of right answers before and after, and an answer.
"""

import sys

import jax
import optax

import prompt_jax as pj
from prompt_jax.data import load_examples
from prompt_jax.evaluate import evaluate
from prompt_jax.tasks import TASKS


def main(steps: int = 200, held_out: int = 500) -> tuple[float, float]:
    """Trains a soft prompt for sentiment and gives the accuracy before and after."""
    # A frozen model with its tokenizer: a hub id, a folder, or the one that ships with the package.
    backbone = pj.load_backbone("embedded")
    frozen = backbone.params

    # The only thing that is trained: 20 virtual tokens, of the width of the model's embeddings.
    method = pj.PromptTuningConfig(num_virtual_tokens=20)
    tuned = pj.init(method, backbone, jax.random.key(0))

    # Argument 0 is trained, argument 1 is not: that is all that "frozen" means here.
    loss = pj.loss_fn(method, backbone)
    optimizer = optax.adafactor(0.3, multiply_by_parameter_scale=False, factored=False)

    @jax.jit
    def step(tuned, state, frozen, batch):
        (mean, _), gradient = jax.value_and_grad(loss, has_aux=True)(tuned, frozen, batch)
        updates, state = optimizer.update(gradient, state, tuned)
        return optax.apply_updates(tuned, updates), state, mean

    task = TASKS["embedded:sentiment"]
    examples = load_examples(task, task.name, "train")
    data = pj.DataConfig(max_source_length=64)
    batches = pj.Batches(examples, backbone.tokenizer, data, 32, seed=0, prompt_length=20)

    def accuracy(tuned):
        rows = load_examples(task, task.name, "validation", limit=held_out)
        injection = pj.materialize(method, tuned)
        settings = {"data": data, "eval": pj.EvalConfig(batch_size=50)}
        return evaluate(backbone, injection, rows, task, **settings).metrics["accuracy"]

    before, state = accuracy(tuned), optimizer.init(tuned)
    for number in range(steps):
        tuned, state, mean = step(tuned, state, frozen, batches[number])
        if number % 50 == 0:
            print(f"step {number:4d}  loss {mean:.3f}")
    after = accuracy(tuned)
    print(f"accuracy {before:.3f} before, {after:.3f} after")

    # The same through the face that PEFT's users know; `save_pretrained` writes a folder for PEFT.
    model = pj.PromptTuningModel.from_pretrained(backbone, method)
    model.tuned = tuned
    tokens = backbone.tokenizer("A film of rare warmth and wit.", return_tensors="np").input_ids
    answer = backbone.tokenizer.decode(model.generate(tokens)[0], skip_special_tokens=True)
    print(f"A film of rare warmth and wit. -> {answer}")
    return before, after


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
