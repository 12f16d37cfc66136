"""Exact functions and small networks to try methods on."""
