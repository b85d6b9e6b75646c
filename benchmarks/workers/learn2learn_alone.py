"""Makes learn2learn's algorithms importable where the whole package is not.

The package imports compiled data sets and torchvision, which its algorithms do not need and which
do not build here. Where that fails, its modules are imported unchanged from empty packages.
"""

import importlib.util
import os
import sys
import types

try:
    import learn2learn.algorithms  # noqa: F401
except ImportError:
    for name in [name for name in sys.modules if name.startswith("learn2learn.")]:
        del sys.modules[name]
    sys.modules.pop("learn2learn", None)
    spec = importlib.util.find_spec("learn2learn")
    assert spec is not None and spec.origin is not None
    home = os.path.dirname(spec.origin)
    for name, folder in (
        ("learn2learn", home),
        ("learn2learn.algorithms", os.path.join(home, "algorithms")),
    ):
        module = types.ModuleType(name)
        module.__path__ = [folder]
        sys.modules[name] = module
