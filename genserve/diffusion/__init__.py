"""Running diffusion models step by step on Modular Diffusers; not for deciding what runs when.

``catalog``, ``generation``, ``artifacts`` and ``build`` import neither torch nor diffusers; everything else does.
"""
