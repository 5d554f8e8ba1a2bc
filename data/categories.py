"""The 55 ShapeNetCore categories: WordNet synset ids and the names the field uses for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pcdiff.errors import InputError

# `can` is the waste bin (02747177) and `tin_can` the drink can (02946921): the names the published
# numbers were computed under, so a category means the same clouds here as in the papers.
NAME_TO_SYNSET: dict[str, str] = {
    "airplane": "02691156",
    "can": "02747177",
    "bag": "02773838",
    "basket": "02801938",
    "bathtub": "02808440",
    "bed": "02818832",
    "bench": "02828884",
    "birdhouse": "02843684",
    "bookshelf": "02871439",
    "bottle": "02876657",
    "bowl": "02880940",
    "bus": "02924116",
    "cabinet": "02933112",
    "camera": "02942699",
    "tin_can": "02946921",
    "cap": "02954340",
    "car": "02958343",
    "cellphone": "02992529",
    "chair": "03001627",
    "clock": "03046257",
    "keyboard": "03085013",
    "dishwasher": "03207941",
    "monitor": "03211117",
    "earphone": "03261776",
    "faucet": "03325088",
    "file": "03337140",
    "guitar": "03467517",
    "helmet": "03513137",
    "jar": "03593526",
    "knife": "03624134",
    "lamp": "03636649",
    "laptop": "03642806",
    "speaker": "03691459",
    "mailbox": "03710193",
    "microphone": "03759954",
    "microwave": "03761084",
    "motorcycle": "03790512",
    "mug": "03797390",
    "piano": "03928116",
    "pillow": "03938244",
    "pistol": "03948459",
    "pot": "03991062",
    "printer": "04004475",
    "remote_control": "04074963",
    "rifle": "04090263",
    "rocket": "04099429",
    "skateboard": "04225987",
    "sofa": "04256520",
    "stove": "04330267",
    "table": "04379243",
    "telephone": "04401088",
    "tower": "04460130",
    "train": "04468005",
    "vessel": "04530566",
    "washer": "04554684",
}
SYNSET_TO_NAME: dict[str, str] = {synset: name for name, synset in NAME_TO_SYNSET.items()}


def category_tokens(categories: str | Iterable[str]) -> list[str]:
    """Split `"airplane, Chair"` or a list of such texts into lower-case tokens.

    Raises:
        InputError: nothing is left, or an entry is not text.
    """
    texts = [categories] if isinstance(categories, str) else list(categories)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"categories must be names or synset ids, got {text!r}")
    tokens = [token.strip().lower() for text in texts for token in text.split(",")]
    tokens = [token for token in tokens if token]
    if not tokens:
        raise InputError("categories must name at least one category, got nothing; try airplane, or all")
    return tokens


def closest(token: str, names: Iterable[str]) -> str:
    """Return `"; did you mean airplane?"` for a near miss, else an empty text."""
    match = difflib.get_close_matches(token, list(names), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def parse_categories(categories: str | Iterable[str]) -> tuple[str, ...]:
    """Turn category names or synset ids into names, in the order of their synset ids, each once.

    Args:
        categories: `"airplane,chair"`, `"all"` (all 55), or a list of such texts; case does not matter.

    Returns:
        The names.

    Raises:
        InputError: a name is not among the 55; the message lists them and suggests the closest.

    Example:
        >>> parse_categories("Chair, 02691156")
        ('airplane', 'chair')
    """
    chosen: set[str] = set()
    for token in category_tokens(categories):
        if token == "all":
            chosen.update(NAME_TO_SYNSET)
        elif token in NAME_TO_SYNSET:
            chosen.add(token)
        elif token in SYNSET_TO_NAME:
            chosen.add(SYNSET_TO_NAME[token])
        else:
            raise InputError(
                f"unknown category {token!r}{closest(token, NAME_TO_SYNSET)}"
                f" (known: all, {', '.join(sorted(NAME_TO_SYNSET))})"
            )
    return tuple(sorted(chosen, key=NAME_TO_SYNSET.__getitem__))
