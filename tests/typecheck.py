"""The checker behind the shape annotations: an int may stand for a float, as in Python's own rules."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
