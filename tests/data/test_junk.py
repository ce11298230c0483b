import base64

from ea_jax.data.junk import junk_texts

TEXTS = ["the quick brown fox jumps", "over the lazy dog", "and runs away from here"]


def test_one_seed_gives_one_draw_of_every_kind():
    found = junk_texts(TEXTS, 20, seed=3)
    assert found == junk_texts(TEXTS, 20, seed=3)
    assert found != junk_texts(TEXTS, 20, seed=4)
    assert len(found) == 10
    assert all(len(texts) == 20 for texts in found.values())


def test_each_kind_is_what_it_is_called():
    found = junk_texts(TEXTS, 30)
    words = {word for text in TEXTS for word in text.split()}
    assert all(not any(c.isalnum() for c in text) for text in found["empty"])
    assert set(found["one word"]) <= words
    assert all(sorted(text.split()) in [sorted(t.split()) for t in TEXTS] for text in found["shuffled words"])
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in found["random letters"])
    assert not any(c.isalpha() for text in found["digits and signs"] for c in text)
    assert all(base64.b64decode(text, validate=True) for text in found["base64"])
    assert all(bytes.fromhex(text) for text in found["hexadecimal"])
    assert not any(text.isascii() for text in found["other scripts"])
    assert all(any(text == text[:k] * (len(text) // k) for k in range(2, 5)) for text in found["repeated syllables"])
