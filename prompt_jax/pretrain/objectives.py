"""Text-to-text objectives that need no label: copy, rewrite, restore, fill in, go on.

A prompt for a rewriting task has to find a model that can already copy exactly and change what it
is asked to change; a prompt for a classifier one that names. Pure functions of token lists and a
numpy generator, so that a step of training is a function of its seed.
"""

import re
from collections.abc import Sequence

import numpy as np

Tokens = list[int]
Pair = tuple[Tokens, Tokens]

# Early modern English to today's: a rewriting everybody can check, with no aligned text behind it.
MODERN = {
    "thee": "you", "thou": "you", "ye": "you", "thy": "your", "thine": "your", "hath": "has",
    "doth": "does", "hast": "have", "dost": "do", "art": "are", "wast": "were", "wert": "were",
    "shalt": "will", "shall": "will", "wilt": "will", "saith": "says", "unto": "to", "upon": "on",
    "canst": "can", "didst": "did", "hadst": "had", "whither": "where", "thither": "there",
    "hither": "here", "thyself": "yourself", "spake": "spoke", "ere": "before", "nay": "no",
    "yea": "yes", "behold": "look", "wherefore": "why", "verily": "truly", "mine": "my",
    "sayest": "say", "knowest": "know", "nigh": "near", "afterward": "afterwards",
    "betwixt": "between", "oft": "often", "perchance": "perhaps", "sire": "father",
    "twain": "two", "amongst": "among", "whilst": "while", "thence": "there", "hence": "away",
    "forth": "out", "peradventure": "perhaps",
}  # fmt: skip
OLD = {
    "you": ("thee", "thou", "ye"), "your": ("thy", "thine"), "has": ("hath",), "does": ("doth",),
    "will": ("shall", "wilt"), "says": ("saith",), "to": ("unto",), "on": ("upon",),
    "comes": ("cometh",), "goes": ("goeth",), "makes": ("maketh",), "where": ("whither",),
    "between": ("betwixt",), "spoke": ("spake",), "before": ("before", "ere"),
    "two": ("twain",), "often": ("oft",), "why": ("wherefore",), "are": ("are", "art"),
    "have": ("have", "hast"),
}  # fmt: skip
_NOT_VERBS = {"teeth", "beneath", "death", "seth", "beth", "nazareth", "elizabeth", "macbeth"}
_WORD = re.compile(r"[A-Za-z]+")


def span_corruption(
    tokens: Tokens, sentinels: Sequence[int], rng: np.random.Generator, *, rate: float = 0.08
) -> Pair:
    """Spans of 1 to 4 tokens give way to sentinels; the target lists what stood there.

    A span starts at a token with probability `rate`; Raffel et al. 2020, section 3.1.4.
    """
    source: Tokens = []
    target: Tokens = []
    used = position = 0
    while position < len(tokens):
        if used < len(sentinels) and rng.random() < rate:
            length = int(rng.integers(1, 5))
            source.append(sentinels[used])
            target += [sentinels[used], *tokens[position : position + length]]
            position, used = position + length, used + 1
        else:
            source.append(tokens[position])
            position += 1
    return source, target or [sentinels[0]]


def prefix_lm(tokens: Tokens, rng: np.random.Generator) -> Pair:
    """The text is cut between 30 and 70 % of it: what comes before, what comes after."""
    cut = min(max(1, int(len(tokens) * rng.uniform(0.3, 0.7))), len(tokens) - 1)
    return tokens[:cut], tokens[cut:]


def swap_neighbours(tokens: Tokens, rng: np.random.Generator) -> Pair:
    """A sixth of the tokens change places with the next one; the target is the right order."""
    shuffled = list(tokens)
    for _ in range(max(1, len(tokens) // 6)):
        i = int(rng.integers(len(tokens) - 1))
        shuffled[i], shuffled[i + 1] = shuffled[i + 1], shuffled[i]
    return shuffled, list(tokens)


def change_punctuation(
    tokens: Tokens, punctuation: Sequence[int], rng: np.random.Generator
) -> Pair:
    """Six in ten punctuation marks become another one; the target has the right ones."""
    marks = set(punctuation)
    changed = [
        int(rng.choice(punctuation)) if t in marks and rng.random() < 0.6 else t for t in tokens
    ]
    return changed, list(tokens)


def substitute(tokens: Tokens, rules: Sequence[tuple[int, int]]) -> Pair:
    """Every token that a rule names is replaced; of two rules for one token the first counts."""
    table = dict(reversed(rules))
    return list(tokens), [table.get(t, t) for t in tokens]


def without_case(text: str) -> str:
    """The text with no capitals and no stops: the input of the restoring task."""
    return re.sub(r'[.,;:!?"]', "", text.lower())


def modernised(text: str) -> str:
    """Archaic function words and -eth verbs in today's form; every other word as it was."""
    return _WORD.sub(lambda match: _like(match[0], _modern(match[0].lower())), text)


def archaised(text: str, rng: np.random.Generator) -> str:
    """Most of today's function words in an archaic form."""

    def old(match: re.Match[str]) -> str:
        forms = OLD.get(match[0].lower())
        if forms is None or rng.random() < 0.15:
            return match[0]
        return _like(match[0], forms[int(rng.integers(len(forms)))])

    return _WORD.sub(old, text)


def _modern(word: str) -> str:
    if word in MODERN or word in _NOT_VERBS:
        return MODERN.get(word, word)
    if re.fullmatch(r"[a-z]{2,}eth", word):
        stem = word[:-3]
        return stem + ("es" if stem.endswith(("s", "ch", "sh", "x", "z", "o")) else "s")
    return word


def _like(word: str, form: str) -> str:
    if form == word.lower():
        return word
    return form.capitalize() if word[0].isupper() else form
