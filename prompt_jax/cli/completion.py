"""`prompt-jax --print-completion SHELL`: what a shell completes, written into its script once.

The script has a table of all options and answers without Python. A row is `WHERE|OPTION|VALUES`:
the commands, or `method NAME`, between commas; an option, empty where words stand alone; and the
words that may follow it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from prompt_jax.cli.calls import Call
from prompt_jax.cli.options import Option, method_options, options
from prompt_jax.cli.prompts import ACTIONS
from prompt_jax.config import InputError, choose, method_kinds
from prompt_jax.config.data import METRICS
from prompt_jax.config.kinds import KINDS

WORDS = r"""
BEGIN {
  count = ENVIRON["COUNT"] + 0; split(ENVIRON["WORDS"], word, "\n")
  last = word[count]; where = count > 2 ? word[2] : ""; first = 3; method = "prompt_tuning"
  if (where == "prompts" && count > 3) { where = where " " word[3]; first = 4 }
  for (i = first; i < count; i++) {
    if (word[i] ~ /^--/) { flag = word[i]; place = i }
    if (word[i] == "--method") method = word[i + 1]
    if (word[i] ~ /^--method=/) method = substr(word[i], 10)
  }
  if (match(last, /^--[^=]*=/)) {
    front = substr(last, 1, RLENGTH); flag = substr(front, 1, RLENGTH - 1); place = count - 1
  }
}
function offer(text) { if (index(text, last) == 1) print text }
index($1, "," where ",") || (index($1, ",method " method ",") && choosing) {
  if ($2 == "--method") choosing = 1
  many = sub(/^[*] ?/, "", $3); total = split($3, value, " ")
  if ($2 == "") { for (i = 1; i <= total; i++) offer(value[i]) }
  else if ($2 == flag && (front != "" || last !~ /^-/)) {
    for (i = 1; i <= total && (many || place == count - 1); i++) offer(front value[i])
  }
  else if (last ~ /^-/ && front == "") offer($2)
}
"""
"""An awk program: the words, of which COUNT stand in WORDS with one a line, to those that fit."""
BASH = """\
_prompt_jax_words() {{
  COUNT=$# WORDS=$(printf '%s\\n' "$@") awk -F'|' '{words}' <<'TABLE'
{table}
TABLE
}}
"""
SCRIPTS = {
    "bash": BASH
    + """\
_prompt_jax() {{
  local line=${{COMP_LINE:0:$COMP_POINT}} word kept
  local -a words
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  word=${{words[${{#words[@]}}-1]}}
  kept=${{word%"${{word##*[:=]}}"}}
  COMPREPLY=()
  # Readline replaces what is behind the last colon or equals sign, and no more.
  while IFS= read -r word; do COMPREPLY+=("${{word#"$kept"}}"); done \\
    < <(_prompt_jax_words "${{words[@]}}")
  [[ ${{COMPREPLY-}} == *: ]] && compopt -o nospace 2> /dev/null
}}
complete -o default -F _prompt_jax prompt-jax
""",
    "zsh": "#compdef prompt-jax\n"
    + BASH
    + """\
_prompt_jax() {{
  local -a found
  found=(${{(f)"$(_prompt_jax_words "${{(@)words[1,CURRENT-1]}}" "$PREFIX")"}})
  compadd -Q -S '' -- ${{(M)found:#*:}}
  compadd -Q -- ${{found:#*:}}
  if (( ! $#found )); then compset -P '*[:=]'; _files; fi
}}
if [ "$funcstack[1]" = _prompt-jax ]; then _prompt_jax "$@"; else compdef _prompt_jax prompt-jax; fi
""",
    "fish": """\
set -g __prompt_jax_table '{table}'
function __prompt_jax_words
  set -l words (commandline -opc) (commandline -ct)
  set -lx COUNT (count $words)
  set -lx WORDS (string join \\n -- $words | string collect)
  printf '%s\\n' "$__prompt_jax_table" | awk -F'|' '{words}'
end
complete -c prompt-jax -a '(__prompt_jax_words)'
""",
}


def script(shell: str, commands: Mapping[str, Callable[[list[str]], Call | None]]) -> str:
    """The completion of a shell.

    Args:
      shell: bash, zsh or fish; empty takes that of the user.
      commands: as `prompt_jax.cli.COMMANDS`.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if not name:
        raise InputError(f"the shell is not known; name it: {', '.join(SCRIPTS)}")
    choose("shell", name, SCRIPTS)
    return SCRIPTS[name].format(words=WORDS.strip(), table="\n".join(_table(commands)))


def _table(commands: Mapping[str, Callable[[list[str]], Call | None]]) -> Iterator[str]:
    yield f",,||{' '.join(commands)} --help --version --print-completion"
    yield f",prompts,||{' '.join(ACTIONS)}"
    values = _values()
    places: dict[Option, list[str]] = {}
    calls = [commands[name]([]) for name in commands if name != "prompts"]
    calls += [Call(f"prompts {name}", action, []) for name, action in ACTIONS.items()]
    for call in filter(None, calls):
        for option in (*options(call.function), Option("--help"), Option("--help-all")):
            # Those of a method come from `method_kinds`, for each of them.
            if not option.flag.startswith("--method."):
                places.setdefault(_with_values(option, values), []).append(call.name)
    for name, kind in method_kinds().items():
        for option in method_options(kind):
            places.setdefault(_with_values(option, values), []).append(f"method {name}")
    for option, names in places.items():
        several = "* " if option.several else ""
        yield f",{','.join(names)},|{option.flag}|{several}{' '.join(option.values)}".rstrip()


def _with_values(option: Option, values: Mapping[str, Sequence[str]]) -> Option:
    return option._replace(values=tuple(option.values or values.get(option.flag, ())))


def _values() -> dict[str, Sequence[str]]:
    """Names that may follow an option, beside others that are not known."""
    from prompt_jax.backbones import PRESETS
    from prompt_jax.tasks import TASKS

    methods, tasks = list(method_kinds()), [*TASKS, "file:"]
    return {
        "--method": methods,
        "--methods": methods,
        "--backbone": ["embedded", *PRESETS],
        "--task.kind": list(KINDS),
        "--task.like": list(TASKS),
        "--task.metrics": METRICS,
        "--forgetting": tasks,
        **{f"--data.{name}": tasks for name in ("task", "tasks", "mixture", "validation", "test")},
    }
