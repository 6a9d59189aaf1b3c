"""Examples: reading them, the data sets that recipes name, and dealing them to simulated clients."""

from motet.data.corpora import NEWSGROUPS, load_material
from motet.data.errors import DataError, NoExamplesError
from motet.data.examples import Example, read_examples, write_jsonl
from motet.data.images import pixels
from motet.data.partition import Partition, partition, write_shards
from motet.data.public import public_examples
from motet.data.reading import read_data

__all__ = [
    "NEWSGROUPS",
    "DataError",
    "Example",
    "NoExamplesError",
    "Partition",
    "load_material",
    "partition",
    "pixels",
    "public_examples",
    "read_data",
    "read_examples",
    "write_jsonl",
    "write_shards",
]
