"""OpenVLA (Kim et al. 2024) in the layout of its published checkpoints, without their code."""
