"""A graph whose router, itself a soft-prompted classifier, picks the prompt for each message.

It trains what it needs on the embedded model first, if that is not there yet: three prompts in one
program, a LoRA, and the router. Then rows that none of them has seen go through the graph, a branch
each; all branches run at the same time and share batches of one frozen model.

    pip install -e ".[langchain]" langgraph
    python examples/langgraph_prompt_routing.py
"""

import argparse
import asyncio
import csv
import operator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

import prompt_jax as pj
from prompt_jax.config import Config, DataConfig, TaskConfig, TrainConfig
from prompt_jax.experiment import load_data, train, train_tasks
from prompt_jax.integrations.langchain import ChatPromptJax
from prompt_jax.integrations.sources import Local
from prompt_jax.serve import Engine
from prompt_jax.tasks import Example

PROMPTS = {
    "film": "embedded:sentiment",
    "word": "embedded:gloss_category",
    "country": "embedded:factbook_topic",
}
LORA = {"news": "embedded:headline_satire"}
JOBS = {**PROMPTS, **LORA}
"""What a message may be -> the task of whoever answers it."""
EACH = 8
"""Messages of each job."""


class Message(TypedDict, total=False):
    """One branch of the graph."""

    text: str
    route: str
    answer: str


class Messages(TypedDict, total=False):
    """The whole graph."""

    texts: list[str]
    answers: Annotated[list[Message], operator.add]


def examples_of(name: str, split: str, count: int) -> list[Example]:
    """Some rows of a task."""
    return getattr(load_data(Config(data=DataConfig(task=name))), split)[:count]


def train_prompts(config: Config, out: Path) -> dict[str, pj.Prompt]:
    """A prompt for each job, all in one program."""
    data = DataConfig(tasks=tuple(PROMPTS.values()))
    found = train_tasks(replace(config, out=str(out / "prompts"), data=data), overwrite=True)
    return dict(zip(PROMPTS, (each.prompt for each in found), strict=True))


def train_lora(config: Config, out: Path) -> dict[str, pj.Prompt]:
    """A LoRA for each job that has one."""
    return {
        job: train(
            Config(
                out=str(out / job),
                data=DataConfig(task=name),
                method=pj.LoraConfig(r=4),
                train=TrainConfig(steps=config.train.steps, eval_every=config.train.eval_every),
            ),
            overwrite=True,
        ).prompt
        for job, name in LORA.items()
    }


def train_router(config: Config, out: Path) -> dict[str, pj.Prompt]:
    """A classifier of what a message is, from rows of all jobs."""
    path = out / "router.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter="\t")
        rows.writerow(("input", "target"))
        for job, name in JOBS.items():
            found = examples_of(name, "train", 1000)
            rows.writerows((" ".join(each.source.split()), job) for each in found)
    data, task = DataConfig(task=f"file:{path}"), TaskConfig(labels=tuple(JOBS))
    config = replace(config, out=str(out / "router"), data=data, task=task)
    return {"router": train(config, overwrite=True).prompt}


def load_all(out: Path, steps: int) -> dict[str, pj.Prompt]:
    """All of them, from an earlier run or trained now."""
    out.mkdir(parents=True, exist_ok=True)
    config = Config(train=TrainConfig(steps=steps, eval_every=max(steps // 4, 1)))
    work = {train_prompts: PROMPTS, train_lora: LORA, train_router: ("router",)}
    for make, names in work.items():
        if not all((out / "kept" / name).exists() for name in names):
            for name, prompt in make(config, out).items():
                pj.save_prompt(out / "kept" / name, prompt, overwrite=True)
    return {name: pj.load_prompt(out / "kept" / name) for name in (*JOBS, "router")}


def graph_of(llm: ChatPromptJax, routes: tuple[str, ...]):
    """The graph: a branch a message, in which the router decides who answers."""
    router = llm.with_prompt("router")

    async def route(state: Message) -> Message:
        said = (await router.ainvoke(state["text"])).text
        return {"route": said if said in routes else ""}

    async def answer(state: Message) -> Message:
        return {"answer": (await llm.ainvoke(state["text"], soft_prompt=state["route"])).text}

    branch = StateGraph(Message)
    branch.add_node("route", route)
    branch.add_node("answer", answer)
    branch.add_edge(START, "route")
    branch.add_edge("route", "answer")
    branch.add_edge("answer", END)
    one = branch.compile()

    async def message(state: Message) -> Messages:
        return {"answers": [await one.ainvoke(state)]}

    def fan_out(state: Messages) -> list[Send]:
        return [Send("message", {"text": text}) for text in state["texts"]]

    whole = StateGraph(Messages)
    whole.add_node("message", message)
    whole.add_conditional_edges(START, fan_out, ["message"])
    whole.add_edge("message", END)
    return whole.compile()


def main() -> None:
    """Trains, routes, and prints what became of each message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/routing"))
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    prompts = load_all(options.out, options.steps)
    wanted = {
        each.source: (job, each.target)
        for job, name in JOBS.items()
        for each in examples_of(name, "validation", EACH)
    }
    with Engine(pj.load_backbone("embedded"), prompts, max_new_tokens=16) as engine:
        engine.warm_up()
        llm = ChatPromptJax(source=Local(engine))
        graph = graph_of(llm, tuple(JOBS))
        found = asyncio.run(graph.ainvoke({"texts": list(wanted)}))["answers"]
        for i, each in enumerate(found):
            alone = llm.invoke(each["text"], soft_prompt=each["route"]).text
            assert each["answer"] == alone, "a branch says what its prompt says alone"
            if i % 4 == 0:
                shown = each["text"][:60].replace("\n", " ")
                print(f"{each['route'] or 'plain':8} -> {each['answer']:12} | {shown}")
    routed = sum(each["route"] == wanted[each["text"]][0] for each in found)
    right = sum((each["route"], each["answer"]) == wanted[each["text"]] for each in found)
    print(f"{len(found)} messages: {routed} went where they belong, {right} were answered right")


if __name__ == "__main__":
    main()
