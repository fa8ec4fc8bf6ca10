"""The mathematics: tensors in, tensors out. Chooses no device, reads no settings, logs nothing.

Conventions: flow matching, x_sigma = (1 - sigma) * x0 + sigma * noise, velocity v = noise - x0.
"""
