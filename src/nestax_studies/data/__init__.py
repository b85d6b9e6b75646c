"""Data sets: embedded, cached, or downloaded with a checksum.

    from nestax_studies import data

    digits = data.load("digits")            # 1,437 + 360 images of 8x8, no network
    mnist = data.load("mnist")              # 60,000 + 10,000 images of 28x28
    mnist.train.inputs                      # float32 (60000, 784) in [0, 1]
    mnist.train.labels                      # int32 (60000,)
    omniglot = data.omniglot()              # 964 + 659 characters, 20 drawings each of 28x28
    text = data.tiny_shakespeare()          # 1,003,854 + 111,540 characters of 65 kinds
    text = data.wikitext2()                 # 1,120,192 + 1,255,018 characters of 137 kinds
    data.ByteTokenizer().encode("any text") # numbers of its bytes, below 256

Files are looked for in `$NESTAX_DATA/<name>/`, where torchvision leaves them below `$NESTAX_DATA`
(`MNIST/raw`, `FashionMNIST/raw`, `omniglot-py`), then in the user's cache, and else downloaded into
the cache. Unpacked files are as good as packed ones. Whatever is read is checked in full first:
container, format and checksum.
Downloading needs pooch and tqdm, `digits` scikit-learn, `omniglot` pillow: all come with
`pip install ".[studies]"` in a checkout. Importing this package loads none of them.
"""

from ._dataset import Dataset as Dataset
from ._dataset import Split as Split
from ._errors import DataError as DataError
from ._load import Status as Status
from ._load import describe as describe
from ._load import fetch as fetch
from ._load import load as load
from ._load import locate as locate
from ._load import names as names
from ._load import omniglot as omniglot
from ._load import status as status
from ._load import tiny_shakespeare as tiny_shakespeare
from ._load import wikitext2 as wikitext2
from ._omniglot import Omniglot as Omniglot
from ._text import Text as Text
from ._tokenizers import ByteTokenizer as ByteTokenizer
from ._tokenizers import CharacterTokenizer as CharacterTokenizer
