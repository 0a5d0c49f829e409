"""An accelerator's figures as its data sheet gives them: not measured here."""

H200 = {
    "float64": 34e12,  # operations a second
    "float32": 67e12,
    "tf32": 494e12,  # dense; the sheet's 989 are with sparsity
    "memory": 141e9,  # bytes
    "bandwidth": 4.8e12,  # bytes a second
    "network": 50e9,  # bytes a second of one 400 Gb/s adapter
}
"""NVIDIA H200 SXM."""
