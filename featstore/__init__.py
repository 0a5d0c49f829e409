"""Activations of pretrained backbones, extracted once and kept on disk."""
