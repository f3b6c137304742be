"""Adds the default policies and the small checkpoint to the wheel; pyproject.toml configures the rest of the build.

Both are top-level folders of the repository. The wheel contains them as `twolane/_data/`, where
`twolane.process.bundled` locates them. An editable install copies nothing and uses the folders of the repository.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
DATA = "twolane/_data"
# Recorded traces and other checkpoints are not packaged.
BUNDLED = ("policies/*.yaml", "policies/schema.json", "checkpoints/twolane-tiny/*")


class BuildWithData(build_py):
    """Copies the data files after the modules; fails if one of the patterns matches nothing."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for target, source in self._bundled().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(source), target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        bundled = [] if self.editable_mode else list(self._bundled())
        return [*super().get_outputs(include_bytecode), *bundled]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *(str(path.relative_to(ROOT)) for path in self._bundled().values())]

    def _bundled(self) -> dict[str, Path]:
        """Return the source of each target path."""
        files: dict[str, Path] = {}
        for pattern in BUNDLED:
            found = sorted(path for path in ROOT.glob(pattern) if path.is_file())
            if not found:
                raise FileNotFoundError(f"{pattern}: no such files in {ROOT}, but the wheel must contain them")
            files |= {str(Path(self.build_lib, DATA, path.relative_to(ROOT))): path for path in found}
        return files


setup(cmdclass={"build_py": BuildWithData})
