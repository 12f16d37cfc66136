"""Deng et al. 2024: fourteen methods as ways to share out Taylor effects."""
