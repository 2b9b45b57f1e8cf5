"""vae_lab: an experiment platform for variational autoencoders on images.

A VAE is three distributions: a prior p(z), a posterior q(z | x) and a generative density p(x | z). The model returns
them as `torch.distributions` objects, and every loss, bound, score and sampler is a short function of the three.
"""
