"""Generate meaningless texts of several kinds, for which a confidence must be low."""

import base64
import random
import string
from collections.abc import Callable, Sequence

SCRIPTS = {  # first and last letter of a run without gaps
    "Cyrillic": (0x0430, 0x044F),
    "Greek": (0x03B1, 0x03C9),
    "Hebrew": (0x05D0, 0x05EA),
    "Arabic": (0x0627, 0x064A),
    "Devanagari": (0x0905, 0x0939),
    "Hangul": (0xAC00, 0xD7A3),
    "Han": (0x4E00, 0x9FA5),
    "Hiragana": (0x3041, 0x3093),
    "Thai": (0x0E01, 0x0E2E),
}
WORDS, LETTERS = (1, 40), (2, 11)
SYLLABLES = ("asdf", "lol", "xx", "qwe", "ab", "ha", "test", "foo", "na", "zxcv")
STATEMENTS = (
    "def {a}({b}, {c}=None):\n    return {b}.{d}({c})",
    "for (int {a} = 0; {a} < {b}.size(); ++{a}) {{ {c}[{a}] = {d}; }}",
    "SELECT {a}, {b} FROM {c} WHERE {d} = 17;",
    "<div class='{a}'><span id='{b}'>{c}</span></div>",
    '{{"{a}": [1, 2], "{b}": {{"{c}": "{d}"}}}}',
    "import {a}\nfrom {b} import {c} as {d}\n",
    "#define {a} ({b} << 3)\nstatic int {c}(void *{d});",
    "{a} = np.zeros(({b}, {c})); {d} += 1",
    "$ {a} --{b} | grep {c} > {d}.log 2>&1",
)


def junk_texts(texts: Sequence[str], n: int, seed: int = 0) -> dict[str, list[str]]:
    """Generate `n` texts of each kind.

    Args:
        texts: Ordinary texts, which supply the words of the kinds `shuffled words` and `one word`.
        n: Number of texts of each kind.
        seed: Random seed.

    Returns:
        By kind: empty texts, single words, shuffled words, random letters, repeated syllables, digits and signs,
        base64, hexadecimal, code, and random letters of other scripts.
    """
    rng = random.Random(seed)
    words = [text.split() for text in rng.choices(texts, k=n)]
    kinds: dict[str, Callable[[int], str]] = {
        "empty": lambda _: rng.choice(" \n\t.-") * rng.randint(0, 4),
        "one word": lambda i: rng.choice(words[i] or ["a"]),
        "shuffled words": lambda i: " ".join(rng.sample(words[i], len(words[i]))),
        "random letters": lambda _: _letters(rng, string.ascii_lowercase, rng.choice(("", " ", " "))),
        "repeated syllables": lambda _: rng.choice(SYLLABLES) * rng.randint(3, 20),
        "digits and signs": lambda _: _run(rng, string.punctuation + string.digits + " ", 5, 120),
        "base64": lambda _: base64.b64encode(rng.randbytes(rng.randint(10, 90))).decode(),
        "hexadecimal": lambda _: rng.randbytes(rng.randint(8, 60)).hex(),
        "code": lambda _: "\n".join(_statement(rng) for _ in range(rng.randint(1, 4))),
        "other scripts": lambda _: _letters(rng, _alphabet(rng), " "),
    }
    return {kind: [make(i) for i in range(n)] for kind, make in kinds.items()}


def _run(rng: random.Random, alphabet: str, least: int, most: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(least, most)))


def _letters(rng: random.Random, alphabet: str, between: str) -> str:
    return between.join(_run(rng, alphabet, *LETTERS) for _ in range(rng.randint(*WORDS)))


def _alphabet(rng: random.Random) -> str:
    first, last = rng.choice(list(SCRIPTS.values()))
    return "".join(map(chr, range(first, last + 1)))


def _statement(rng: random.Random) -> str:
    names = {key: _run(rng, string.ascii_lowercase, 1, 8) for key in "abcd"}
    return rng.choice(STATEMENTS).format(**names)
