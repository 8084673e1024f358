"""Every block of code on a page runs, parses, or says why it is not run; commands name what is."""

import dataclasses
import json
import re
import tomllib
from urllib.parse import urlsplit

import pytest
from pages import PAGES, ROOT, blocks, flags, parsed

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import SIZES, prompt_of, serving  # noqa: E402

from prompt_jax import cli  # noqa: E402
from prompt_jax.cli.arguments import value_of  # noqa: E402
from prompt_jax.cli.serving import file_values  # noqa: E402
from prompt_jax.config import method_kinds  # noqa: E402
from prompt_jax.config.kinds import KINDS  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.metrics import METRICS  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.runs import LOCK, OWN_FILES  # noqa: E402
from prompt_jax.serve import Store  # noqa: E402
from prompt_jax.serve.catalog import open_catalog  # noqa: E402
from prompt_jax.serve.http import Keys, create_app  # noqa: E402
from prompt_jax.serve.http.auth import ROUTES  # noqa: E402
from prompt_jax.tasks import Task  # noqa: E402

MARKS = re.compile(r"(not run|slow): \w.*")
LANGUAGES = ("", "text", "python", "json", "toml")
UNCHECKED = set(". cat echo export printf pyright pytest ruff pre-commit".split())
"""Programs of which a page shows nothing that could be wrong."""
FOLDERS = ("benchmarks/", "colab/", "configs/", "examples/", "launch/")
SERVER = "http://127.0.0.1:8000"


def test_every_block_is_of_a_known_kind():
    wrong = [b.name for b in blocks() if b.language not in LANGUAGES]
    assert not wrong, f"give each of these one of {LANGUAGES} as its language: {wrong}"
    wrong = [(b.name, b.mark) for b in blocks() if b.mark and not MARKS.fullmatch(b.mark)]
    assert not wrong, f"a mark is `not run: REASON` or `slow: REASON`: {wrong}"
    hidden = [b.name for b in blocks("text") if re.search(r"^prompt-jax ", b.text, re.MULTILINE)]
    assert not hidden, f"commands stand in a block without a language: {hidden}"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what the checkout has, which commands may write into."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".git"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_are_those_of_the_programs(checkout, monkeypatch, capsys):
    """Every option of a `prompt-jax` command is parsed as it would be; its config file is read."""
    for block in blocks("toml"):
        (checkout / "serve.toml").write_text(block.text)
    wrong, passed = {}, set()
    for block in blocks(""):
        for words in () if block.mark else block.commands():
            program, *rest = words
            if program != "prompt-jax":
                why = objection(program, rest, block.page.read_text())
            elif tuple(rest) in passed or not parsed(monkeypatch, rest):
                passed.add(tuple(rest))
                if rest[:1] == ["init"]:  # A command below trains the config that this one writes.
                    config = checkout / (value_of(rest, "--out") or "config.py")
                    config.write_text("from prompt_jax import Config\n\nconfig = Config()\n")
                continue
            else:
                why = capsys.readouterr().err
            wrong |= {f"{block.name}\n  {words}": why} if why else {}
    assert not wrong, "\n".join(f"{place}\n{why}" for place, why in wrong.items())


def objection(program, words, page):
    """What is wrong with a command of another program than ours; empty where nothing is."""
    if program == "curl":
        return refused(words)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if set(words) <= set(targets) else "no such target"
    if program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = ",".join(re.findall(r"\[([\w,]+)\]", " ".join(words))).split(",")
        unknown = set(filter(None, extras)) - set(project["optional-dependencies"])
        return f"no such extras: {unknown}" if unknown else ""
    if program in ("python", "python3", "bash", "sh", "sbatch", "docker"):
        files = [w for w in words if w.startswith(FOLDERS) or w.endswith((".py", ".sh"))]
        # A page may say what to save "as `make.py`".
        missing = [f for f in files if not (ROOT / f).exists() and f"as `{f}`" not in page]
        return f"no such files: {missing}" if missing else ""
    known = program in UNCHECKED
    return "" if known else f"{program} is not known here: mark the block as not run, with why"


def request(words):
    """Method, path and body of a curl command."""
    address = next(urlsplit(word) for word in words if word.startswith("http"))
    body = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if body else "GET"
    return method, address.path, body


def refused(words):
    """What is wrong with a curl command: its route or its JSON; none where it is right."""
    method, path, body = request(words)
    routes = [re.sub(r"{[^}]*}", "[^/]+", route) for verb, route in ROUTES if verb == method]
    if not any(re.fullmatch(route, path) for route in routes):
        return f"no route {method} {path}"
    json.loads(body or "{}")
    return ""


def test_options_in_sentences_and_tables_are_those_of_commands():
    flags_of = {name: flags([name]) for name in cli.COMMANDS if name != "prompts"}
    anywhere = set().union(*flags_of.values())
    wrong = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`]+)`", text):
            words = code.split()
            written = {word.partition("=")[0] for word in words if word.startswith("--")}
            if words[0] != "prompt-jax":
                # Other programs have flags too; only ours have groups.
                grouped = {flag for flag in written if re.match(r"--[a-z]+\.[a-z]", flag)}
                unknown = grouped - anywhere
            elif words[1:2] == ["prompts"]:
                unknown = written - (flags(words[1:3]) if words[2:] else set())
            else:
                command = words[1] if words[1:] else "COMMAND"
                known = {"--help", "--version", "--print-completion", "COMMAND", *cli.COMMANDS}
                unknown = written - flags_of.get(command, known) | {command} - known
            values = [w for flag, w in zip(words, words[1:], strict=False) if flag == "--method"]
            unknown |= {value for value in values if value.islower()} - set(method_kinds())
            files = [w for w in words if w.startswith(FOLDERS) and "*" not in w and "..." not in w]
            unknown |= {file for file in files if not (ROOT / file).exists()}
            if unknown:
                wrong.append(f"{page.name}: `{code}`: {unknown}")
    assert not wrong, "\n".join(wrong)


def test_json_and_toml_are_read():
    decoder = json.JSONDecoder()
    for block in blocks("json"):
        text = block.text.strip()
        while text:
            text = text[decoder.raw_decode(text)[1] :].strip()


def test_toml_has_options_of_the_server(tmp_path):
    for i, block in enumerate(blocks("toml")):
        path = tmp_path / f"{i}.toml"
        path.write_text(block.text)
        assert file_values(str(path)), block.name


PYTHON = [page for page in PAGES if any(b.page == page for b in blocks("python"))]


def run(page, changes=()):
    """Runs the blocks of a page in one namespace: without changes, those that are not slow."""
    namespace = {"__name__": "page"}
    for block in blocks("python"):
        if block.page == page and (not block.mark or changes and block.mark.startswith("slow:")):
            text = block.text
            for old, new in changes:
                text = text.replace(old, new)
            exec(compile(text, str(page.relative_to(ROOT)), "exec"), namespace)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.fixture(scope="module")
def server(tiny_backbone, tmp_path_factory):
    """The address of a server as the tutorial starts it, and its folder with runs."""
    folder = tmp_path_factory.mktemp("served")
    task = Task(name="t", source="{text}", target="{y}", labels=("negative", "positive"))
    method = PromptTuningConfig(num_virtual_tokens=3)
    store = Store(folder / "prompts")
    for seed, name in enumerate(("films", "satire", "better", "topics")):
        prompt = dataclasses.replace(prompt_of(tiny_backbone, method, seed), task=task)
        save_prompt(folder / "runs" / name, prompt)
        store.put(name, prompt)
    store.alias("topics", "canary", 1)
    catalog, problems = open_catalog(tiny_backbone, store, [method], **SIZES)
    assert not problems
    with catalog.engine, serving(create_app(catalog, Keys())) as address:
        yield address, folder


@pytest.mark.slow
def test_requests_are_answered(server):
    curls = [w for b in blocks("") if not b.mark for w in b.commands() if w[0] == "curl"]
    assert curls
    for words in curls:
        method, path, body = request(words)
        headers = {"Content-Type": "application/json"}
        answer = httpx.request(method, server[0] + path, content=body, headers=headers, timeout=60)
        assert answer.status_code == 200, (words, answer.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({b.page.name for b in blocks() if b.mark[:5] == "slow:"}))
def test_slow_python_runs(name, server, tiny_folder, monkeypatch):
    """With a smaller model in the place of the embedded one, few programs, and a test's server."""
    address, folder = server
    monkeypatch.chdir(folder)
    (page,) = (page for page in PAGES if page.name == name)
    model = repr(str(tiny_folder))
    run(page, [(SERVER, address), ('"embedded"', model), ("engine.warm_up()", "pass")])


def test_the_page_of_files_names_every_file_and_metric():
    page = (ROOT / "docs" / "files.md").read_text()
    table = page[page.index("## Metrics") :]
    assert set(re.findall(r"`(\w+)`", table.partition("| `--task.kind`")[0])) == set(METRICS)
    for kind, row in KINDS.items():
        (line,) = re.findall(rf"^\| .*`{kind}`.* \| (.*) \|$", table, re.MULTILINE)
        assert tuple(re.findall(r"`(\w+)`", line)) == row.metrics, kind
    assert not [name for name in OWN_FILES if name != LOCK and f"`{name}" not in page]
