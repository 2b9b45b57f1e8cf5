"""Hydra's error messages, rewritten as sentences with a remedy."""

import re

SENTENCES = {
    r"Multiple values for ([\w/@]+)\.": r"+\1=: \1 has a choice already; type \1=… to replace it.",
    r"force-add of config groups is not supported: '\+\+([^']+)'": r"++\1: a config group takes no ++; type \1.",
    r"does not support sweep type": (
        "a sweep takes a list of values, as in optimizer.lr=1e-4,1e-3; to search an interval, use python -m"
        " vae_lab.tune with search.space."
    ),
    r"Primary config (?:module|directory) '?([^'\n]+?)'? not found": (
        "--config-path: the folder does not hold the command's config; --config-dir=<folder> adds your own configs to"
        " those of vae_lab."
    ),
    r"Additional config directory '([^']+)' not found": (
        r"--config-dir: \1 is not a folder; name a folder of yaml files."
    ),
    r"Cannot find primary config '([^']+)'": (
        r"--config-name \1: there is no \1.yaml; name the folder of your config with --config-dir=<folder>."
    ),
}
"""Patterns of Hydra's messages and the sentences that replace them."""


def translate_message(message: str) -> str | None:
    """Return the sentence that replaces a message of Hydra, or None if no pattern matches the message."""
    for pattern, sentence in SENTENCES.items():
        found = re.search(pattern, message)
        if found:
            return found.expand(sentence)
    return None
