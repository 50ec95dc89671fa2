"""Tokenizers of the real classes over a small word list; not trained, so that every build has the same bytes.

A word of the list is one token, any other text falls apart into characters; nothing is unknown to the CLIP
tokenizer, whose alphabet is the 256 bytes.
"""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

CLIP_LENGTH = 77

_LIST = """
    a an the of in on at with and or by over under near from to into photo picture painting drawing sketch
    render video clip scene portrait landscape style light dark bright soft warm cold golden silver red green
    blue yellow orange purple white black grey small big tall old new young happy sad quiet wild slow fast cat
    dog fox owl horse bird fish bear lion wolf robot astronaut child woman man people city street house castle
    bridge tower garden forest tree flower leaf mountain hill river lake sea ocean beach desert island sky cloud
    rain snow storm fire sun moon star night day morning evening autumn winter spring summer car train ship boat
    bicycle book table chair window door cup glass apple bread running walking flying swimming sleeping reading
    dancing looking standing detailed sharp blurry realistic abstract cinematic watercolor oil paper wood stone
    metal water smoke
"""
WORDS = tuple(_LIST.split())


def clip_tokenizer() -> Any:
    """A CLIPTokenizer of 77 tokens: byte-level BPE with one chain of merges per word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            tail = word[end - 1] + ("</w>" if end == len(word) else "")
            pair = (word[: end - 1], tail)
            if pair not in merges:
                merges.append(pair)
                pieces.append("".join(pair))
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def t5_tokenizer(*, max_length: int = 512) -> Any:
    """A T5TokenizerFast: unigram pieces, words ahead of characters."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -10.0) for letter in letters]
    pieces += [("▁" + word, -3.0) for word in WORDS if len(word) > 1]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=max_length)
