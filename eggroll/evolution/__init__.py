"""Evolution strategies: populations of perturbed models, and what is learnt from them.

`strategy` is what users meet. It traces a function (`tracing`), evaluates it for all
members (`population`) with `noise` that is drawn where it is used, and turns their
shaped fitness (`shaping`) into a gradient (`estimate`).
"""
