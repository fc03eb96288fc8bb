"""GGUF models of any size with random weights: for benches without a download, and for tests.

The same arguments give the same file. Blocks are random bytes under scales chosen so that the weights have the
standard deviation asked for; speed does not depend on what weights say.
"""

from pyllm.mixes import MIXES
from pyllm.shapes.shape import ARCHITECTURES, PRESETS, Shape
from pyllm.shapes.write import write_model, write_shape

__all__ = ["ARCHITECTURES", "MIXES", "PRESETS", "Shape", "write_model", "write_shape"]
