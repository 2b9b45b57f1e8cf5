"""The configs of this package, for hydra.searchpath=[pkg://mylab.conf]."""
