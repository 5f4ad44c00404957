"""Networks: the registry of architectures, their pretrained weights, and which of their modules train.

Every module of this package is imported with it, so that a new module with an `@architecture` is all a network needs.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
