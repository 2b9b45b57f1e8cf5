"""The page of a run in the browser: latents, samples, one's own pictures, interpolation and a map."""
