"""The data sets known by name: sizes, licence, source, files, checksums, mirrors.

Sources:
    digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, 1998; the copy embedded in scikit-learn.
    mnist: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to
        document recognition, Proceedings of the IEEE 86(11), 1998.
    fashion-mnist: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a novel image dataset for
        benchmarking machine learning algorithms, arXiv:1708.07747, 2017.
    omniglot: B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, Human-level concept learning through
        probabilistic program induction, Science 350(6266), 2015.
    tinyshakespeare: A. Karpathy, char-rnn, github.com/karpathy/char-rnn, 2015; from the works of
        W. Shakespeare.
    wikitext2: S. Merity, C. Xiong, J. Bradbury and R. Socher, Pointer sentinel mixture models,
        ICLR 2017; the copy in github.com/pytorch/examples.
"""

from dataclasses import dataclass

from ._errors import DataError


@dataclass(frozen=True)
class IdxFile:
    """One gzipped idx file of unsigned bytes.

    Attributes:
        name: File name, the same on every mirror.
        shape: Shape of the array that it must hold.
        archive: md5 of the file as published. A download must have it.
        content: md5 of what the published file decompresses to. A file that is read must have
            this one: it recognises the published archive, and equally the same content packed
            again by another gzip, whose own md5 says nothing, or not packed at all.
    """

    name: str
    shape: tuple[int, ...]
    archive: str
    content: str

    @property
    def names(self) -> tuple[str, ...]:
        """As published, and the usual names of the unpacked file."""
        unpacked = self.name.removesuffix(".gz")
        return self.name, unpacked, unpacked.replace("-idx", ".idx")


@dataclass(frozen=True)
class Drawings:
    """One zip archive of black and white PNG files, in folders by alphabet and character.

    Attributes:
        name: File name, the same on every mirror; without its ending also that of the root folder.
        shape: (characters, drawings of each, height, width), in pixels of the PNG files.
        archive: md5 of the file as published. A download must have it.
        content: md5 over every drawing in the order of paths: its path, a line feed and its ink
            packed eight pixels to the byte. A file that is read must have this one or the above.
    """

    name: str
    shape: tuple[int, int, int, int]
    archive: str
    content: str

    @property
    def names(self) -> tuple[str, ...]:
        """As published, and the folder that comes out of it."""
        return self.name, self.name.removesuffix(".zip")


@dataclass(frozen=True)
class TextFile:
    """One file of plain text, in UTF-8.

    Attributes:
        name: File name, the same on every mirror.
        size: Number of its bytes.
        archive: md5 of the file, of a download and of what is read alike.
    """

    name: str
    size: int
    archive: str

    @property
    def names(self) -> tuple[str, ...]:
        """As published."""
        return (self.name,)


File = IdxFile | Drawings | TextFile


@dataclass(frozen=True)
class Entry:
    """A data set as the catalogue knows it.

    Attributes:
        name: What `load` calls it; also the name of its folder.
        train: Number of training images, or characters of a text.
        test: Number of test images or characters.
        image: (height, width) in pixels, as loaded; empty for a text.
        classes: Number of classes, or of different characters.
        scale: Largest grey level; 0 for a text.
        licence: As stated by its publishers.
        source: Authors and year.
        files: Training images, training labels, test images, test labels; of omniglot background
            and evaluation; empty for a data set that is embedded in a package.
        mirrors: Addresses, each ending in a slash, under which the files lie; tried in turn.
        torchvision: The folder in which torchvision leaves the files, below its root; empty if it
            does not know them.
    """

    name: str
    train: int
    test: int
    image: tuple[int, ...]
    classes: int
    scale: int
    licence: str
    source: str
    files: tuple[File, ...] = ()
    mirrors: tuple[str, ...] = ()
    torchvision: str = ""


def _files(*sums: tuple[str, str]) -> tuple[IdxFile, ...]:
    """The four files of MNIST and its likes, given their (archive, content) checksums."""
    layout = (
        ("train-images-idx3-ubyte.gz", (60_000, 28, 28)),
        ("train-labels-idx1-ubyte.gz", (60_000,)),
        ("t10k-images-idx3-ubyte.gz", (10_000, 28, 28)),
        ("t10k-labels-idx1-ubyte.gz", (10_000,)),
    )
    return tuple(IdxFile(*file, *pair) for file, pair in zip(layout, sums, strict=True))


_ENTRIES = (
    Entry(
        name="digits",
        train=1437,
        test=360,
        image=(8, 8),
        classes=10,
        scale=16,
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak 1998 (UCI), embedded in scikit-learn",
    ),
    Entry(
        name="mnist",
        train=60_000,
        test=10_000,
        image=(28, 28),
        classes=10,
        scale=255,
        licence="CC BY-SA 3.0 (as generally stated)",
        source="LeCun et al. 1998",
        files=_files(
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        torchvision="MNIST/raw",
    ),
    Entry(
        name="fashion-mnist",
        train=60_000,
        test=10_000,
        image=(28, 28),
        classes=10,
        scale=255,
        licence="MIT",
        source="Xiao et al. 2017",
        files=_files(
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
            ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
            ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        torchvision="FashionMNIST/raw",
    ),
    Entry(
        name="omniglot",
        train=19_280,
        test=13_180,
        image=(28, 28),
        classes=1623,
        scale=255,
        licence="MIT",
        source="Lake et al. 2015",
        files=(
            Drawings(
                "images_background.zip",
                (964, 20, 105, 105),
                "68d2efa1b9178cc56df9314c21c6e718",
                "b4f781601669572b668744eb8b98a8ca",
            ),
            Drawings(
                "images_evaluation.zip",
                (659, 20, 105, 105),
                "6b91aef0f799c5bb55b94e3f2daec811",
                "e2685ca9e85de99afced2de0f08260fd",
            ),
        ),
        mirrors=(
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
            "https://github.com/brendenlake/omniglot/raw/master/python/",
        ),
        torchvision="omniglot-py",
    ),
    Entry(
        name="tinyshakespeare",
        train=1_003_854,
        test=111_540,
        image=(),
        classes=65,
        scale=0,
        licence="public domain; as a file MIT",
        source="Karpathy 2015 (char-rnn), from Shakespeare",
        files=(TextFile("input.txt", 1_115_394, "6fb458f1232090904fb40fe944165e91"),),
        mirrors=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
            "https://github.com/karpathy/char-rnn/raw/master/data/tinyshakespeare/",
        ),
    ),
    Entry(
        name="wikitext2",
        train=1_120_192,
        test=1_255_018,
        image=(),
        classes=137,
        scale=0,
        licence="CC BY-SA 3.0 (as generally stated)",
        source="Merity et al. 2017 (validation and test), from Wikipedia",
        files=(
            TextFile("valid.txt", 1_121_681, "d756d22ab2310e7e60c094bea5c5a8eb"),
            TextFile("test.txt", 1_256_449, "781c9418ab9414bd09e4aad825aae752"),
        ),
        mirrors=(
            "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/",
            "https://github.com/pytorch/examples/raw/main/word_language_model/data/wikitext-2/",
        ),
    ),
)

CATALOGUE = {entry.name: entry for entry in _ENTRIES}


def entry(name: str) -> Entry:
    """The entry of a data set.

    Raises:
        DataError: If there is no such data set.
    """
    if name not in CATALOGUE:
        raise DataError(f"no data set {name!r}; there are: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
