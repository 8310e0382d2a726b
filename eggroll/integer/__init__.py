"""Evolution of int8 models without a floating-point number.

The same populations and generations as in `evolution`; what is learnt from a generation
are `votes`, and `updates` turns them into steps of whole units.
"""
