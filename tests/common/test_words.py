import itertools

from salus.common.identity import fingerprint
from salus.common.words import WORDS, fingerprint_bytes, fingerprint_words


def distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last = [i]
        for j, y in enumerate(b, 1):
            last.append(min(row[j] + 1, last[-1] + 1, row[j - 1] + (x != y)))
        row = last
    return row[-1]


def test_a_word_that_was_misheard_is_not_another_one() -> None:
    assert len(set(WORDS)) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 10 for word in WORDS)
    assert len({word[:3] for word in WORDS}) == 256
    close = [(a, b) for a, b in itertools.combinations(WORDS, 2) if abs(len(a) - len(b)) < 2 and distance(a, b) < 2]
    assert close == []


def test_words_and_digits_are_the_same_128_bits() -> None:
    key = bytes(range(32))
    words = fingerprint_words(key).replace(" / ", " ").split()
    assert bytes(WORDS.index(word) for word in words) == fingerprint_bytes(key)
    assert fingerprint_bytes(key).hex() == fingerprint(key).replace(" ", "")
    assert len(words) == 16
    assert fingerprint_words(key) != fingerprint_words(bytes(32))
