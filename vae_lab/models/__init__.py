"""Networks, and the VAE that joins two of them into three distributions."""
