"""Real weights, texts and pictures by name: pinned, checked, unpacked to a cache. Importing this downloads nothing."""

from motet.materials.cache import is_fetched, material_path, model_path
from motet.materials.errors import MaterialError
from motet.materials.fetch import fetch
from motet.materials.sources import MATERIALS, Material

__all__ = ["MATERIALS", "Material", "MaterialError", "fetch", "is_fetched", "material_path", "model_path"]
