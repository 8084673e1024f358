"""Bad input to methods, and what is special about some of them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_table import subject

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.backbones.layers import Dense
from prompt_jax.config import Config, InputError, from_json, method_kinds, resolved, to_json
from prompt_jax.forward import PromptedModel
from prompt_jax.methods import init, lora, materialize, multitask_prompt, prefix_tuning
from prompt_jax.methods.kernels import targets
from prompt_jax.prompts import prompt_for
from prompt_jax.testing import random_batch
from prompt_jax.testing import tiny as tiny_of

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pj.LoraConfig(r=0), "r must be at least 1, got 0; a rank of 0 trains nothing"),
        (lambda: pj.LoraConfig(lora_dropout=1.0), r"lora_dropout must be in \[0, 1\), got 1.0"),
        (lambda: pj.LoraConfig(task_type=""), "task_type is empty.*PEFT would load this prompt"),
        (
            lambda: pj.PrefixTuningConfig(encoder_hidden_size=0, prefix_projection=True),
            "encoder_hidden_size must be at least 1, got 0",
        ),
        (
            lambda: pj.PrefixTuningConfig(encoder=False, decoder=False, cross=False),
            "no attention has a prefix; set encoder, decoder or cross",
        ),
        (
            lambda: pj.PrefixTuningConfig(init="text", init_text="a", prefix_projection=True),
            "prefix_projection computes them; use one",
        ),
        (
            lambda: pj.PrefixTuningConfig(num_virtual_tokens=2, num_frozen_tokens=2),
            "num_frozen_tokens is 2 of 2 virtual tokens, and none is left to train",
        ),
        (
            lambda: pj.PrefixTuningConfig(num_frozen_tokens=1, prefix_projection=True),
            "num_frozen_tokens keeps keys and values",
        ),
        (lambda: pj.AdaptionPromptConfig(adapter_layers=0), "adapter_layers must be at least 1"),
        (
            lambda: pj.CPTConfig(cpt_token_ids=(1, 2), cpt_tokens_type_mask=(1,)),
            "cpt_tokens_type_mask has 1 numbers and cpt_token_ids 2; give one a token",
        ),
        (lambda: pj.PTuningConfig(encoder_dropout=1.0), r"encoder_dropout must be in \[0, 1\)"),
        (
            lambda: pj.PTuningConfig(encoder_reparameterization_type="GRU"),
            "unknown encoder_reparameterization_type 'GRU'; allowed: MLP, LSTM",
        ),
        (lambda: pj.PromptTuningConfig(stack="all"), "unknown stack 'all'"),
        (
            lambda: pj.PromptTuningConfig(stack="both", placement="suffix"),
            'placement="suffix" is for the encoder',
        ),
        (lambda: pj.DeepPromptConfig(placement="suffix"), 'placement is "suffix"; use placement='),
        (lambda: pj.DeepPromptConfig(how="swap"), "unknown how 'swap'; allowed: replace, add"),
        (lambda: pj.MultitaskPromptConfig(combine="sum"), "unknown combine 'sum'"),
        (
            lambda: pj.MultitaskPromptConfig(combine="concat", num_virtual_tokens=1),
            "needs num_virtual_tokens of at least 2",
        ),
        (lambda: pj.AdapterConfig(style="serial"), "unknown style 'serial'"),
        (lambda: pj.UnionConfig(methods=(pj.LoraConfig(),)), "at least two methods, got 1"),
        (
            lambda: pj.UnionConfig(
                methods=(pj.PromptTuningConfig(), pj.PromptTuningConfig(placement="suffix"))
            ),
            "the prompts of a union need one placement",
        ),
    ],
)
def test_bad_configs(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", sorted(set(method_kinds()) - {"union"}))
def test_configs_go_through_json(kind):
    config = Config(method=method_kinds()[kind]())
    assert to_json(config)["method"]["kind"] == kind
    assert from_json(Config, to_json(config)) == config
    train = resolved(config, 1.0).train
    assert train.learning_rate == method_kinds()[kind].rates[train.optimizer]


@pytest.mark.parametrize(
    ("method", "family", "message"),
    [
        (pj.CPTConfig(cpt_token_ids=(3,)), "t5", "shows examples to a decoder, and backbone 'tiny"),
        (pj.CPTConfig(), "gpt2", "cpt starts from examples and has none; train on a task with"),
        (pj.CPTConfig(cpt_token_ids=(10**6,)), "gpt2", "go from 1000000 to 1000000"),
        (pj.AdaptionPromptConfig(adapter_layers=9), "gpt2", "adapter_layers is 9 .*: 1 to 2"),
    ],
)
def test_methods_that_do_not_fit_a_backbone(method, family, message):
    with pytest.raises(InputError, match=message):
        init(method, tiny_of(family), KEY)


def test_an_unknown_method_in_json():
    with pytest.raises(InputError, match="unknown method 'lorra'.*meant 'lora'"):
        from_json(Config, {"method": {"kind": "lorra"}})


def test_target_modules_are_hugging_faces_names(tiny):
    assert set(targets(tiny, ("q",))) == {
        "encoder/layers/attention/query",
        "decoder/layers/attention/query",
        "decoder/layers/cross_attention/query",
    }
    assert set(targets(tiny, ("EncDecAttention.v",))) == {"decoder/layers/cross_attention/value"}
    with pytest.raises(InputError, match="'quer' matches nothing in backbone 'tiny'; allowed: k, "):
        targets(tiny, ("quer",))
    with pytest.raises(InputError, match="'wi' matches nothing.*meant 'wi_"):
        targets(tiny, ("wi",))
    name = "encoder.block.1.layer.0.SelfAttention.q"
    with pytest.raises(
        InputError, match="name 1 of 2 layers of encoder/layers/attention/query and"
    ):
        targets(tiny, (name,))


def test_a_feed_forward_module_is_a_target(tiny):
    config = pj.IA3Config(target_modules=("k",), feedforward_modules=("wo",))
    with pytest.raises(InputError, match="'wo' is not among target_modules k"):
        init(config, tiny, KEY)


def test_two_methods_that_claim_one_socket(tiny):
    twice = pj.UnionConfig(methods=(pj.LoraConfig(), pj.LoraConfig(target_modules=("v",))))
    with pytest.raises(InputError, match="both claim the socket decoder/layers/.*/value/lora/"):
        init(twice, tiny, KEY)
    apart = pj.UnionConfig(
        methods=(pj.LoraConfig(target_modules=("q",)), pj.LoraConfig(target_modules=("v",)))
    )
    assert init(apart, tiny, KEY).keys() == {"0_lora", "1_lora"}
    two = pj.UnionConfig(methods=(pj.FullConfig(), pj.FullConfig()))
    with pytest.raises(InputError, match="both set params; keep one of them"):
        init(two, tiny, KEY)


def test_two_prompts_of_a_union_stand_behind_each_other(tiny):
    parts = [pj.PromptTuningConfig(num_virtual_tokens=n) for n in (2, 3)]
    config = pj.UnionConfig(methods=tuple(parts))
    tuned = init(config, tiny, KEY)
    rows = [leaf["prompt"] for leaf in tuned.values()]
    joined = materialize(config, tuned).prompt
    np.testing.assert_array_equal(joined, jnp.concatenate(rows))
    assert config.input_tokens == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_a_merged_lora_is_the_unmerged_one(name, tiny):
    case = subject("t5", name)
    config, tuned = case.config, case.trained()
    full, params = lora.merge(config, tuned, tiny.params)
    batch = case.batch()
    apart = case.logits(materialize(config, tuned), batch)
    np.testing.assert_allclose(case.logits(materialize(full, params), batch), apart, atol=1e-5)
    # The frozen tree is untouched, and so the way back.
    assert not np.array_equal(apart, case.logits(None, batch))


def test_dora_scales_no_bias_and_so_merges():
    """As PEFT has it: of W x + b it scales W x, beside the update."""
    layer = Dense(shape=(3, 2, 2), axes=("embed", "heads", "kv"), std=1.0, use_bias=True)
    x = jax.random.normal(KEY, (1, 5, 3))
    sizes = {"a": (1, 3, 1), "b": (1, 1, 2, 2), "magnitude": (1, 2, 2)}
    tuned = {n: 1 + jax.random.normal(KEY, size) for n, size in sizes.items()}
    frozen = {"kernel": jax.random.normal(KEY, (1, 3, 2, 2)), "bias": jnp.ones((1, 2, 2))}
    config = pj.LoraConfig(r=1, lora_alpha=2, use_dora=True)
    sockets = materialize(config, {"layer": tuned}).sockets["layer"]
    _, merged = lora.merge(config, {"layer": tuned}, {"layer": frozen})

    def run(params, sockets):
        one = jax.tree.map(lambda leaf: leaf[0], {"params": params, "tuned": sockets})
        return layer.apply(one, x)

    apart = run(frozen, sockets)
    np.testing.assert_allclose(run(merged["layer"], {}), apart, atol=1e-5)
    assert not np.allclose(apart, run(frozen, {}), atol=0.1)


@pytest.mark.slow
def test_swapping_prompts_of_many_methods_compiles_nothing_new(tiny):
    """A hundred trees of mixed methods: one program a method and shape."""
    names = ["prompt_both", "prefix", "ia3", "deep_replace", "prompt_adapter"]
    batch, count = random_batch(tiny), 0

    def counted(*arguments):
        nonlocal count
        count += 1
        return PromptedModel.seq2seq_logits(*arguments)

    run = jax.jit(counted)
    loaded = []
    for i in range(100):
        case = subject("t5", names[i % 5])
        config, tuned = case.config, case.trained()
        tree = jax.tree.map(lambda leaf, i=i: leaf * (1 + i / 100), tuned)
        loaded.append(materialize(config, tree))
    for injection in loaded + loaded[::-1]:
        model = PromptedModel(tiny.module, tiny.params, injection)
        run(model, batch.tokens, batch.mask, batch.targets)
    assert count == len(names)


def test_a_prefix_from_a_text_is_what_the_model_makes_of_it(embedded):
    """Text in front by its keys and values, against the same text in the input."""
    config = pj.PrefixTuningConfig(
        num_virtual_tokens=4, init="text", init_text="a bad film", decoder=False, cross=False
    )
    tuned = init(config, embedded, KEY)
    ids = np.resize(embedded.tokenizer("a bad film")["input_ids"], 4)
    states = embedded.keys_and_values(ids)["encoder/layers/attention"]
    found = prefix_tuning.keys_and_values(config, tuned)["encoder/layers/attention"]
    np.testing.assert_array_equal(found["key"], states["key"])
    # The first layer's keys are those of the words themselves, normed and projected.
    layer = jax.tree.map(lambda leaf: leaf[0], embedded.params["encoder"]["layers"])
    words = np.asarray(embedded.embed(ids), np.float64)
    normed = words / np.sqrt((words**2).mean(-1, keepdims=True) + 1e-6)
    normed *= np.asarray(layer["attention_norm"]["scale"])
    expected = np.einsum("td,dhk->thk", normed, np.asarray(layer["attention"]["key"]["kernel"]))
    np.testing.assert_allclose(states["key"][0], expected, atol=1e-3)


def test_a_text_start_needs_a_tokenizer(tiny):
    config = pj.PrefixTuningConfig(init="text", init_text="a")
    with pytest.raises(InputError, match="needs a tokenizer and backbone 'tiny' has none"):
        init(config, tiny, KEY)


def test_a_task_of_many_is_a_plain_prompt(tiny):
    case = subject("t5", "multitask_multiply")
    config, tuned = case.config, case.trained()
    plain, tree = multitask_prompt.of_task(config, tuned, 1)
    np.testing.assert_array_equal(tree["prompt"], materialize(config, tuned).prompts[1])
    assert plain.kind == "prompt_tuning"
    with pytest.raises(InputError, match="task must be 0 to 2, got 3"):
        multitask_prompt.of_task(config, tuned, 3)


def test_a_row_with_a_task_of_its_own_is_that_task_alone(tiny):
    case = subject("t5", "multitask_multiply")
    config, tuned = case.config, case.trained()
    bank, batch = materialize(config, tuned), case.batch()
    from prompt_jax.forward import for_tasks

    together = case.logits(for_tasks(bank, batch.task_ids), batch)
    for row, task in enumerate(batch.task_ids):
        alone = case.logits(for_tasks(bank, int(task)), batch)
        np.testing.assert_allclose(together[row], alone[row], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "prefix",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("lora", "ia3", "bias", "parallel", "prompt_adapter")
        ),
    ],
)
def test_sockets_with_a_row_each_are_the_rows_alone(name, tiny):
    """One batch, and every row has a tree of its own: what mixed serving rests on."""
    case = subject("t5", name)
    trees = [jax.tree.map(lambda v, i=i: v * (1 + i / 4), case.trained()) for i in range(4)]
    injections = [case.injection(tree) for tree in trees]
    batch = case.batch()
    sockets = jax.tree.map(lambda *v: jnp.stack(v, 1), *[i.sockets for i in injections])
    together = case.logits(injections[0]._replace(sockets=sockets), batch)
    for row, injection in enumerate(injections):
        alone = case.logits(injection, batch)
        np.testing.assert_allclose(together[row], alone[row], atol=2e-5)


def test_padding_of_a_prefix_changes_nothing(tiny):
    case = subject("t5", "prefix")
    config, tuned = case.config, case.trained()
    injection, batch = materialize(config, tuned), case.batch()
    padded = {}
    for path, place in prefix_tuning.keys_and_values(config, tuned).items():
        pads = ((0, 0), (2, 0), (0, 0), (0, 0))
        leaves = {k: jnp.pad(v, pads, constant_values=7.0) for k, v in place.items()}
        mask = jnp.arange(6)[None] >= 2
        leaves["mask"] = jnp.broadcast_to(mask, (len(place["key"]), 6))
        padded[f"{path}/prefix"] = leaves
    sockets = prefix_tuning._unflatten(padded)
    np.testing.assert_allclose(
        case.logits(injection._replace(sockets=sockets), batch),
        case.logits(injection, batch),
        atol=1e-5,
    )


def test_a_prompt_of_another_shape_does_not_fit(tiny):
    case = subject("t5", "lora")
    config, tuned = case.config, case.trained()
    wider = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, d_ff=48))
    prompt = prompt_for(tuned, config, tiny)
    prompt.on(tiny)
    with pytest.raises(InputError, match=r"does not fit.*wi_0/lora/?.*|.*mlp/wi_0/b is"):
        prompt.on(wider)


def test_rows_are_of_prompts_only(tiny):
    case = subject("t5", "ia3")
    config, tuned = case.config, case.trained()
    with pytest.raises(InputError, match="is ia3 and has no rows before the input"):
        _ = prompt_for(tuned, config, tiny).rows


@pytest.mark.slow
def test_one_word_changes_the_method(tiny_folder, task_file, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "--backbone", str(tiny_folder), "--data.task", f"file:{task_file}"]
    arguments += ["--task.labels", "negative", "positive", "--train.steps", "2"]
    arguments += ["--train.batch-size", "4", "--out", str(out)]
    assert cli.main([*arguments, "--method", "lora", "--method.r", "3"]) == 0
    assert "lora:" in capsys.readouterr().out
    saved = pj.load_prompt(out / "prompt")
    assert (saved.method.kind, saved.method.r) == ("lora", 3)
    assert cli.main([*arguments, "--method=lorra"]) == 2
    assert re.search("unknown method 'lorra'.*meant 'lora'", capsys.readouterr().err)


@pytest.mark.slow
def test_compare_trains_each_and_prints_a_table(tiny_folder, task_file, tmp_path, capsys):
    out = tmp_path / "compare"
    arguments = ["compare", "--backbone", str(tiny_folder), "--data.task", f"file:{task_file}"]
    arguments += ["--task.labels", "negative", "positive", "--train.steps", "2"]
    arguments += ["--train.batch-size", "4", "--out", str(out), "--methods", "prompt_tuning,ia3"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| prompt_tuning |" in printed and "| ia3 |" in printed
    assert {"compare.md", "compare.json", "compare.png"} <= {p.name for p in out.iterdir()}
    assert cli.main([*arguments[:-1], "bias,ia3", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "| bias |" in printed and "resuming after step 2 of 2" in printed
    (tmp_path / "book.txt").write_text("one two three four\n")
    more = ["--overwrite", "--seeds", "2", "--forgetting", f"file:{tmp_path}/book.txt"]
    assert cli.main([*arguments[:-1], "ia3", *more, "--rivals", "shots:2", "tf_idf"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| ia3 \| \d\.\d{3} ± ", printed) and "| forgetting |" in printed
    assert re.search(r"\| shots:2 \| .* ± .*\n\| tf_idf \| 1.000 ", printed)
    assert cli.main([*arguments[:-1], "ia3,ia3"]) == 2
    assert "wants different methods, got ia3, ia3" in capsys.readouterr().err
