"""Texts of mixed length, script and meaning, generated from a seed, for encoders to read."""

import random

PHRASES = [
    "Where can I get a hamburger?",
    "The committee published its annual report on coastal erosion.",
    "def add(a, b):\n    return a + b",
    "SELECT name FROM users WHERE id = 42;",
    "Can you help me find my keys?",
    "Der Zug nach Köln fährt um acht Uhr ab.",
    "¿Dónde está la biblioteca municipal?",
    "Ça marche très bien, merci beaucoup !",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "東京は日本の首都です。",
    "오늘 날씨가 정말 좋네요.",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "שלום עולם",
    "नमस्ते दुनिया",
    "Ελληνικά γράμματα και αριθμοί 123",
    "👩‍👩‍👧‍👦 family 🎉🎉 party 🇪🇺",
    "naïve café coöperate résumé ﬁancé",
    "e = mc² ∑ ∫ √2 ≈ 1.41421356",
    "asdfasdfasdfasdfasdf",
    "<div class='x'>&amp;nbsp;</div>",
    "https://example.org/a/b?c=d#e",
    "supercalifragilisticexpialidocious " * 3,
    "tabs\tand\nnew lines\r\nand \x00 control \x07 characters",
    "ALL CAPITALS AND ŞÇĞİ",
    "Zero\u200bwidth\u200djoiners and \ufeffmarks",
]
EDGES = ["", " ", "\n", "a", "[CLS] [SEP] [MASK]", "x" * 500, "word " * 600, "很长" * 400, "?!" * 300]


def mixed_texts(n: int = 500, seed: int = 0) -> list[str]:
    """Return the edge cases, followed by random joins of 1 to 30 phrases."""
    rng = random.Random(seed)
    return EDGES + [" ".join(rng.choices(PHRASES, k=rng.choice([1, 1, 2, 3, 5, 8, 30]))) for _ in range(n - len(EDGES))]
