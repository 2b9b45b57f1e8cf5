"""Running commands under Hydra: command-line checks, error messages of one sentence, documented exit codes."""
