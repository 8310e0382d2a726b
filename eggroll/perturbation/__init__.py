"""The ground floor: any JAX function, on perturbed arrays. Knows no population.

A perturbed array is a weight and the factors of its perturbation, never written out.
`transform.perturbed` evaluates a function on such arrays, with a rule for each
operation that can work with weight and factors apart (`primitives`, `control_flow`).
"""
