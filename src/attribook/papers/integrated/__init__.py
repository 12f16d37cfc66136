"""Lundstrom, Huang & Razaviyayn 2022: path methods, their rivals and what sets them apart."""
