"""PEFT's comparison of methods: MetaMathQA to GSM8K on Llama 3.2 3B, with its published accuracies.

prompt-jax reproduce configs/peft_metamathqa/paper.py --table gsm8k --size 3b

The figures are of method_comparison/MetaMathQA in PEFT, July 2026, one seed each. The text that its
prefix starts from is another one.
Not run here: it takes the weights and an accelerator.
"""

from prompt_jax import PaperConfig, PaperRow, PaperTable

GSM8K = (
    "--data.task hf:openai/gsm8k/main:test --task.target '{answer}' "
    "--task.source 'Question: {question} Think step by step.\nAnswer:'"
)
TEXT = "Solve the problem step by step and give the final number after The answer is:"


def row(name, accuracy, flags):
    """A method of the comparison and its accuracy on the 1,319 problems of the test split."""
    return PaperRow(name, train=flags, evaluate=GSM8K, published={"average": accuracy})


def prompt(name, accuracy, init, rate):
    """200 virtual tokens before the text."""
    flags = f"--method prompt_tuning --method.num-virtual-tokens 200 --method.init {init}"
    return row(name, accuracy, f"{flags} --method.placement prefix --train.learning-rate {rate}")


def prefix(name, accuracy, flags):
    """Keys and values before the text."""
    return row(name, accuracy, f"--method prefix_tuning {flags}")


config = PaperConfig(
    title="PEFT's comparison of methods",
    config="{size}.py",
    sizes=("3b",),
    published_size="3b",
    tables={
        "gsm8k": PaperTable(
            "GSM8K after 5,000 steps on MetaMathQA (accuracy of the last number)",
            (
                prompt("prompt tuning, random", 5.69, "random", 1e-4),
                prompt("prompt tuning, random, 1e-3", 23.43, "random", 1e-3),
                prompt("prompt tuning, words, 1e-3", 34.34, "vocab", 1e-3),
                row(
                    "p-tuning, MLP",
                    34.95,
                    "--method p_tuning --method.num-virtual-tokens 20 "
                    "--method.encoder-hidden-size 3072",
                ),
                prefix(
                    "prefix, random, 1e-3",
                    18.57,
                    "--method.num-virtual-tokens 200 --train.learning-rate 1e-3",
                ),
                prefix(
                    "prefix, zeros, 5e-3",
                    35.78,
                    "--method.num-virtual-tokens 200 --method.init zero --train.learning-rate 5e-3",
                ),
                prefix(
                    "prefix, from a text, 5e-3",
                    41.62,
                    f"--method.num-virtual-tokens 50 --method.init-text '{TEXT}' "
                    "--train.learning-rate 5e-3",
                ),
                row("IA3, 1e-3", 39.80, "--method ia3 --train.learning-rate 1e-3"),
                row("LoRA, rank 32", 47.84, "--method lora --method.r 32 --method.lora-alpha 64"),
                row("full tuning", 47.16, "--method full --train.learning-rate 1e-5"),
            ),
        ),
    },
)
