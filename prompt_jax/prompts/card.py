"""The model card of a saved prompt."""

import json
from collections.abc import Iterator, Mapping

from prompt_jax.config import to_json
from prompt_jax.prompts.peft import obstacle
from prompt_jax.prompts.prompt import Prompt


def card(prompt: Prompt) -> str:
    """README.md of a prompt: what it is, how to run it, how it scored."""
    task = to_json(prompt.task) if prompt.task else {}
    facts = {
        "Backbone": prompt.backbone or "unknown",
        "Backbone sha256": prompt.fingerprint or "unknown",
        "Method": prompt.method.kind,
        "Numbers": f"{prompt.size:,}",
        **dict(flat(to_json(prompt.trained_method), "Method: ")),
        "Seed": "unknown" if prompt.seed is None else prompt.seed,
        "Prompt sha256": prompt.digest,
        **{f"Task: {name}": value for name, value in flat(task)},
        **{f"Score: {name}": value for name, value in flat(prompt.metrics)},
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"""{_front_matter(prompt)}
# {prompt.name or "A soft prompt"}

{prompt.size:,} trained parameters beside a frozen model; no weight of it is changed.

| | |
|---|---|
{table}

## Use

```python
from prompt_jax import PromptTuningModel, load_backbone

backbone = load_backbone({prompt.backbone!r})
model = PromptTuningModel.from_pretrained(backbone, "PATH OF THIS FOLDER")
```
{_peft(prompt)}"""


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted names, in order, without what is empty."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, "", (), []):
            yield f"{prefix}{name}", value


def _front_matter(prompt: Prompt) -> str:
    # A JSON string is a YAML string, whatever is in it.
    name, tag = json.dumps(prompt.backbone), json.dumps(f"base_model:adapter:{prompt.backbone}")
    library = "prompt_jax" if obstacle(prompt) else "peft"
    lines = ["---", f"base_model: {name}", f"library_name: {library}"]
    if prompt.method.task_type == "SEQ_2_SEQ_LM":
        lines.append("pipeline_tag: text2text-generation")
    return "\n".join([*lines, "tags:", f"- {tag}", "- prompt-tuning", "---", ""])


def _peft(prompt: Prompt) -> str:
    reason = obstacle(prompt)
    if reason:
        return f"\nThis prompt does not load in PEFT: {reason}.\n"
    auto = {
        "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
        "CAUSAL_LM": "AutoModelForCausalLM",
        "SEQ_CLS": "AutoModelForSequenceClassification",
        "TOKEN_CLS": "AutoModelForTokenClassification",
        "QUESTION_ANS": "AutoModelForQuestionAnswering",
        "FEATURE_EXTRACTION": "AutoModel",
    }
    return f"""
The same folder loads in PEFT:

```python
from peft import PeftModel
from transformers import {auto[prompt.method.task_type]} as Auto

model = PeftModel.from_pretrained(Auto.from_pretrained({prompt.backbone!r}), "PATH OF THIS FOLDER")
```
"""


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
