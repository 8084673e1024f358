"""Chat templates of the shapes that instruct models have, and a tokenizer of bytes that has one.

They are written for tests: none is a model's own, but each does what those of its family do.
"""

from typing import Any

TEMPLATES = {
    # A system turn, trimmed contents, a header of three tokens; ends with a line break twice.
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
        "\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    # A system turn in every chat, which begins with a date that a caller may choose.
    "llama3.1": (
        "{% set day = date_string if date_string is defined else '1 Jan 2024' %}"
        "{% set told = messages[0]['role'] == 'system' %}{{ bos_token }}"
        "<|start_header_id|>system<|end_header_id|>\n\nIt is {{ day }}.\n\n"
        "{% if told %}{{ messages[0]['content'] | trim }}{% endif %}<|eot_id|>"
        "{% for m in (messages[1:] if told else messages) %}<|start_header_id|>{{ m['role'] }}"
        "<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    # A default system turn where the chat has none; thoughts of earlier turns are dropped.
    "qwen": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
        "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "smollm2": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
        "You are SmallTalk<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # No system turn, roles that alternate, another name for the assistant.
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # The system text stands within the first user's turn, and no cue opens the assistant's.
    "mistral": (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
        "{% elif m['role'] == 'user' %}[INST] {{ ns.system + m['content'] }} [/INST]"
        "{% set ns.system = '' %}{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    ),
}
"""Jinja by family."""
CONTROLS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<s>", "</s>",
)  # fmt: skip


def byte_tokenizer(template: str | None = None) -> Any:
    """A tokenizer of bytes, as GPT-2's without its merges, with control tokens.

    Args:
      template: a chat template, such as `TEMPLATES["qwen"]`; None has none, as a base model.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = sorted(ByteLevel.alphabet())
    model = BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens=list(CONTROLS[:-2]),
    )  # fmt: skip
    fast.chat_template = template
    return fast
