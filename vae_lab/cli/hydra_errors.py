"""Hydra's error messages as sentences that name the remedy."""

import re

SENTENCES = {
    r"Multiple values for ([\w/@]+)\.": r"+\1=: \1 has a choice already, and \1=… replaces it.",
    r"force-add of config groups is not supported: '\+\+([^']+)'": r"++\1: a choice is not added by force; type \1.",
    r"does not support sweep type": (
        "a grid takes values, as in optimizer.lr=1e-4,1e-3; python -m vae_lab.tune searches an interval, by"
        " search.space."
    ),
    r"Primary config (?:module|directory) '?([^'\n]+?)'? not found": (
        "--config-path: there is no folder with the command's config; --config-dir=<folder> adds your own configs to"
        " those of vae_lab."
    ),
    r"Additional config directory '([^']+)' not found": r"--config-dir: \1 is no folder; name one of yaml files.",
    r"Cannot find primary config '([^']+)'": (
        r"--config-name \1: there is no \1.yaml; --config-dir=<folder> says where yours lies."
    ),
}
"""Patterns of Hydra's messages, and what is said instead."""


def told(message: str) -> str | None:
    """Return the sentence that stands for a message of Hydra's, or None."""
    for pattern, sentence in SENTENCES.items():
        found = re.search(pattern, message)
        if found:
            return found.expand(sentence)
    return None
