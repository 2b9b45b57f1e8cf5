"""Shell completion for `python -m vae_lab.<command>`, which Hydra's script does not support."""

import re
from collections.abc import Sequence

MODULE = re.compile(r"^\s*\S*python[\d.]*\s+-m\s+vae_lab\.")

BASH = """\
_vae_lab_complete() {
    local words=($COMP_LINE)
    if [[ "${words[1]}" != "-m" || "${words[2]}" != vae_lab.* ]]; then return; fi
    local choices=$(COMP_LINE="$COMP_LINE" "${words[0]}" -m "${words[2]}" -sc query=bash 2> /dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _vae_lab_complete python python3
"""
"""The script that `-sc install=bash` prints. For other programs run by python, file names are completed as before."""

UNINSTALL = "complete -r python python3\nunset -f _vae_lab_complete\n"


def completion(arguments: Sequence[str]) -> str | None:
    """Return the shell script that a command line with --shell-completion prints, or None if Hydra handles it.

    Raises:
        ValueError: if the shell is not bash.
    """
    if not {"-sc", "--shell-completion"} & set(arguments):
        return None
    words = {text.partition("=")[0]: text.partition("=")[2] for text in arguments}
    for word, script in (("install", BASH), ("uninstall", UNINSTALL)):
        if words.get(word) == "bash":
            return script
        if word in words:
            raise ValueError(
                f"--shell-completion {word}={words[word]}: only bash is supported, and zsh after `autoload -Uz"
                " bashcompinit && bashcompinit`; type install=bash."
            )
    return None


def line_to_complete(line: str) -> str:
    """Return a shell line with `python -m vae_lab.` removed, because Hydra completes only what follows it."""
    return MODULE.sub("", line)
