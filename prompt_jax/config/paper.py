"""The runs of a paper: which prompts a table needs, what they are scored on, what was published."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prompt_jax.config.checks import InputError, choose


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: a prompt that is trained, or that of another row on other data."""

    name: str
    train: str = ""
    """Flags of `prompt-jax train` over the paper's config; `{size}` is of the backbone."""
    prompt: str = ""
    """The row above whose prompts are scored, in place of training one."""
    start: str = ""
    """The row above whose prompt this one starts from."""
    evaluate: str = ""
    """Flags of `prompt-jax evaluate`; without them a prompt is scored on its own validation."""
    metric: str = ""
    """What is in the table; empty takes the deciding metric of the task."""
    seeds: int = 1
    """Runs, which differ in `train.seed`."""
    published: Mapping[str, float] = field(default_factory=dict)
    """In percent: the `average` of the paper's seeds, the `best` one, and their `ensemble`."""


COLUMNS = ("average", "best", "ensemble")
"""What a table may tell of the runs of a row."""


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper, or a figure."""

    title: str
    rows: tuple[PaperRow, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `COLUMNS` that some row has a figure of; the average at least."""
        there = {name for row in self.rows for name in row.published} | {"average"}
        return tuple(name for name in COLUMNS if name in there)

    def trained(self, row: PaperRow) -> PaperRow:
        """The row whose prompts a row is about."""
        return next(above for above in self.rows if above.name == (row.prompt or row.name))


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """The tables of a paper, by the names that `--table` takes."""

    title: str
    config: str
    """The config file of a size, e.g. "{size}.py", beside this one."""
    sizes: tuple[str, ...]
    published_size: str = ""
    """The size that published figures are of."""
    tables: Mapping[str, PaperTable]

    def __post_init__(self):
        for name, table in self.tables.items():
            above: list[str] = []
            for row in table.rows:
                place = f"table {name!r}, row {row.name!r}"
                if bool(row.train) == bool(row.prompt):
                    raise InputError(f"{place}: give train or prompt, one of the two")
                for source in filter(None, (row.prompt, row.start)):
                    choose(f"row above, in {place}", source, above)
                for column in row.published:
                    choose(f"column, in {place}", column, COLUMNS)
                above += [row.name] if row.train else []
