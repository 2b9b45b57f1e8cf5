"""The command line: Hydra's configs, errors in one sentence, documented exit codes."""
