"""What vLLM would be sent for a real decoder, and what Transformers writes from it.

For each text and each placement of a prompt: the payload is made from the prompt's folder and the
table of words alone, read as vLLM reads it, and given to Transformers' `generate(inputs_embeds=)`
in float32. A row counts the tokens that are those of prompt_jax's own greedy `generate`.

    pip install "prompt-jax[parity]"
    python benchmarks/engine_payload.py FOLDER_OF_AN_INSTRUCT_MODEL [--prompt FOLDER]
"""

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM

import prompt_jax as pj
from prompt_jax.backbones import Backbone
from prompt_jax.config import PLACEMENTS
from prompt_jax.generate import generate
from prompt_jax.integrations.vllm import SoftPrompt
from prompt_jax.prompts import Prompt, export_to_engine, load_shaped, prompt_for
from prompt_jax.runtime import prepare
from prompt_jax.tasks import Task, chat_of
from prompt_jax.weights import load_backbone

TEXTS = (
    "The film is slow, and I was glad when it was over.",
    "What is the capital of France?",
    "Write a line about the sea.",
)
FRESH = "Answer in one short sentence, as a pirate would."


def prompt_at(placement: str, backbone: Backbone) -> Prompt:
    """Rows of words with noise on them, trained on nothing: another answer, if not a better one."""
    config = pj.PromptTuningConfig(
        num_virtual_tokens=16, init="text", init_text=FRESH, placement=placement
    )
    tuned = pj.init(config, backbone, jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), tuned["prompt"].shape)
    rows = tuned["prompt"] + 0.3 * backbone.word_size * noise
    task = Task(name="texts", source="{text}", target="{answer}", chat=True)
    task = chat_of(task, backbone.tokenizer, backbone.target_place, placement=placement)
    return prompt_for({"prompt": rows}, config, backbone, name=placement, task=task)


def tokens_of(payload: str, width: int) -> torch.Tensor:
    """The tensor of a request [1, S, D], as vLLM reads and checks it."""
    data = io.BytesIO(base64.b64decode(payload, validate=True))
    rows = torch.load(data, weights_only=True, map_location=torch.device("cpu"))
    assert rows.is_floating_point() and rows.dim() == 2 and rows.shape[1] == width
    return rows[None].float()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt", help="a prompt folder in place of fresh rows at all placements")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    options = parser.parse_args()
    prepare()
    begun = time.perf_counter()
    backbone = load_backbone(options.model, dtype="float32")
    loaded = time.perf_counter() - begun
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    if options.prompt:
        prompts = [load_shaped(options.prompt, backbone)]
    else:
        prompts = [prompt_at(placement, backbone) for placement in PLACEMENTS]
    print("placement     equal  of  payload kB  made in ms  prompt, answer")
    for prompt in prompts:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            exported = export_to_engine(prompt, Path(folder) / "prompt", "vllm")
            soft = SoftPrompt.load(exported, options.model, dtype="float32")
            opened = time.perf_counter() - begun
        for text in TEXTS:
            report(prompt, soft, model, backbone, text, options.tokens)
    print(f"the whole model was loaded in {loaded:.2f} s, its words in {opened:.2f} s")


def report(
    prompt: Prompt,
    soft: SoftPrompt,
    model: AutoModelForCausalLM,
    backbone: Backbone,
    text: str,
    length: int,
) -> None:
    """A row of the table."""
    soft.completion(text)  # Compiles for this length.
    begun = time.perf_counter()
    body = soft.completion(text)["extra_body"]
    spent = time.perf_counter() - begun
    with torch.no_grad():
        written = model.generate(
            inputs_embeds=tokens_of(body["prompt_embeds"], backbone.width),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=body["stop_token_ids"],
        )[0].tolist()
    row = np.asarray([soft.tokens(text)])
    ours = generate(
        backbone, prompt.injection(), row, np.ones_like(row, bool), max_new_tokens=length
    )[0].tolist()[: len(written)]
    equal = sum(a == b for a, b in zip(written, ours, strict=True))
    answer = backbone.tokenizer.decode(written, skip_special_tokens=True)
    size = len(body["prompt_embeds"]) / 1000
    print(
        f"{prompt.method.placement:<12} {equal:>6} {len(written):>3} {size:>11.0f} "
        f"{spent * 1000:>11.1f}  {prompt.name}: {answer!r:.70}",
        flush=True,
    )


if __name__ == "__main__":
    main()
