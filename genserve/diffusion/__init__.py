"""Running diffusion models step by step on Modular Diffusers; not for deciding what runs when.

``catalog``, ``generation``, ``artifacts``, ``build`` and ``wires`` import neither torch nor diffusers; all others do.
"""
