"""Differential privacy for patients: clipping per patient, discrete and continuous Gaussian noise, sampling, accounting.

    patients ── Poisson sample ──> per-patient gradients ── clip each once ──> sum ── noise ──> step
                 (sampling)          (clipping, layers)                     (gaussian | discrete_gaussian)

`plan` turns a job into a noise multiplier and a number of charged releases; `accounting` computes their epsilon.
"""
