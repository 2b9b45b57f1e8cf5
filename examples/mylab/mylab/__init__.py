"""A package of somebody's own, whose classes vae_lab trains and reads back; see README.md."""
