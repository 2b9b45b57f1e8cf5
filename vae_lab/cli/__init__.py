"""The command line: Hydra's configs, one sentence for each error, documented exit codes."""
