"""Completion of the command line for shells: a script that knows commands, studies and options.

The options of studies are read from their source, since importing them would take seconds.
"""

import ast
from pathlib import Path

from .cli import COMMANDS, DATA_COMMANDS, LOGGERS, SHELLS
from .registry import DATA, STUDIES

_HERE = Path(__file__).parent


def script(shell: str) -> str:
    """The script, to be evaluated by the shell.

    Args:
        shell: bash, zsh or fish.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def fields(module: str, name: str = "Settings") -> list[str]:
    """The options that the fields of a class in a module of this package make, those of its bases
    first: a switch that is on by default is named no_....

    Args:
        module: as in `sequences.comparison`.
        name: of the class.
    """
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            inherited = [f for base in node.bases for f in _of_base(module, tree, base)]
            own = [
                "no_" * _is_on(part) + part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign)
                and isinstance(part.target, ast.Name)
                and "ClassVar" not in ast.unparse(part.annotation)
            ]
            return list(dict.fromkeys([*inherited, *own]))
    found = _imported(module, tree, name)
    return fields(*found) if found else []


def _is_on(field: ast.AnnAssign) -> bool:
    return isinstance(field.value, ast.Constant) and field.value.value is True


def _of_base(module: str, tree: ast.Module, base: ast.expr) -> list[str]:
    if isinstance(base, ast.Name):
        return fields(module, base.id)
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
        found = _imported(module, tree, base.value.id)
        if found:
            inner = f"{found[0]}.{found[1]}".strip(".")
            return fields(inner, base.attr)
    return []


def _imported(module: str, tree: ast.Module, name: str) -> tuple[str, str] | None:
    """(module of this package, name in it) of what `from .module import name` brings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = _file(module).name == "__init__.py"
                    above = module.split(".")[: len(module.split(".")) - node.level + package]
                    return ".".join([*above, *filter(None, [node.module])]), alias.name
    return None


def _file(module: str) -> Path:
    path = _HERE.joinpath(*filter(None, module.split(".")))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def words() -> dict[str, list[str]]:
    """What may follow: "" for commands, "run" for studies, "run needle" for options, and so on."""
    found = {"": [*COMMANDS, "--help", "--version"]}
    for command, known in COMMANDS.items():
        own = [*map(_flag, known.options), "--help"]
        found[command] = own
        if known.takes == "study":
            found[command] = [*STUDIES, "--help"]
            for study, entry in STUDIES.items():
                names = [*fields(entry.module), *known.options]
                found[f"{command} {study}"] = [*map(_flag, names), "--help"]
        elif known.takes == "data":
            found[command] = [*DATA_COMMANDS, "--help"]
            found |= {f"data {one}": list(DATA) for one in ("path", "fetch")}
        elif known.takes == "shell":
            found[command] = list(SHELLS)
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _bash() -> str:
    cases = "".join(f'    "{key}") words="{" ".join(some)}" ;;\n' for key, some in words().items())
    return f"""_nestax() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  local first="" second=""
  [ "$COMP_CWORD" -gt 1 ] && first="${{COMP_WORDS[1]}}"
  case "$first" in
    run|levels|flows|data) [ "$COMP_CWORD" -gt 2 ] && second=" ${{COMP_WORDS[2]}}" ;;
  esac
  case "$previous" in
    --log) COMPREPLY=($(compgen -W "{" ".join(LOGGERS)}" -- "$current")); return ;;
    --out|--from) COMPREPLY=($(compgen -f -- "$current")); return ;;
  esac
  case "$first$second" in
{cases}  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$first" in
    resume|report|compare) COMPREPLY+=($(compgen -f -- "$current")) ;;
  esac
}}
complete -o filenames -F _nestax nestax
"""


def _zsh() -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = ["complete -c nestax -f"]
    for key, some in words().items():
        first, _, second = key.partition(" ")
        when = "__fish_use_subcommand"
        if first:
            when = f"__fish_seen_subcommand_from {first}"
        if second:
            when += f"; and __fish_seen_subcommand_from {second}"
        elif COMMANDS.get(first) and COMMANDS[first].takes == "study":
            when += f"; and not __fish_seen_subcommand_from {' '.join(STUDIES)}"
        lines.append(f"complete -c nestax -n '{when}' -a '{' '.join(some)}'")
    for command in ("resume", "report", "compare"):
        lines.append(f"complete -c nestax -F -n '__fish_seen_subcommand_from {command}'")
    return "\n".join(lines) + "\n"
