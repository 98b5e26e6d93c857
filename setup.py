"""What pyproject.toml cannot say: a wheel brings the encoder compiled, where there is a compiler for it.

Such a wheel is one for this platform, and for every Python. Without a compiler it has Python alone, and runs anywhere.
An editable install compiles nothing: a checkout's encoder is compiled when it is first wanted, and again when changed.
"""

import platform
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from models import native_library

COMPILES = platform.machine() == "x86_64" and native_library.compiler() is not None


class BuildWithEncoder(build_py):
    def run(self) -> None:
        super().run()
        if not COMPILES or self.editable_mode:
            return
        for level in native_library.LEVELS:
            try:
                native_library.compile_library(level.precision, level.flags, Path(self.build_lib, "models", level.file))
            except native_library.Unavailable as reason:
                self.warn(f"without {level.file}: {reason}")


class WheelForAnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class DistributionOfPlatform(Distribution):
    def has_ext_modules(self) -> bool:
        """Asked for what is not Python, which makes a wheel one for this platform."""
        return COMPILES


setup(distclass=DistributionOfPlatform, cmdclass={"build_py": BuildWithEncoder, "bdist_wheel": WheelForAnyPython})
