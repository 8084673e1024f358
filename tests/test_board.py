"""Boards of few sizes: rows keep their answers when they move from one to another."""

import jax
import numpy as np
import pytest

from prompt_jax.forward import PromptedModel
from prompt_jax.generate import generate
from prompt_jax.serve.board import Size, draws_of, empty, put, sizes_of
from prompt_jax.serve.decoding import read, write
from prompt_jax.serve.sampling import Sampling
from prompt_jax.testing import tiny as tiny_of


def test_sizes_grow_by_rows_and_then_by_length():
    assert sizes_of(3, (32, 128), 512) == [
        Size(1, 32, 128), Size(1, 128, 512), Size(3, 32, 128), Size(3, 128, 512),
    ]  # fmt: skip
    # A small room is not cut further, and the smallest board that holds a row is the first one.
    sizes = sizes_of(16, (8, 32, 128), 100)
    assert [size.rows for size in sizes[::3]] == [1, 2, 4, 8, 16]
    assert [size.room for size in sizes[:3]] == [64, 64, 100]
    assert next(size for size in sizes if size.holds(Size(3, 9, 80))) == Size(4, 128, 100)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama", "bart", "t5gemma2"])
def test_rows_move_between_boards(family):
    """Two rows at other steps, from short boards to a long one and back, write what one would."""
    backbone = tiny_of(family)
    model, tokens, room = PromptedModel.of(backbone), np.array([[5, 6, 7, 8], [9, 4, 0, 0]]), 6
    mask = tokens > 0
    expected = generate(backbone, None, tokens, mask, max_new_tokens=room, min_new_tokens=room)
    sampling = Sampling(max_new_tokens=room, min_new_tokens=room)

    def reading(row, length):
        text = np.pad(tokens[row : row + 1], ((0, 0), (0, length - 4))).astype(np.int32)
        draws = draws_of([sampling], backbone.config)
        return read(model, {}, (), np.zeros(1, np.int32), text, text > 0, draws, room=room)

    def written(board, count):
        return write(model, {}, board, np.ones(len(board.slots), bool), np.int32(count))

    large = empty(model, {}, size=Size(3, 8, room + 2))
    first = written(reading(0, 4), 2)
    board = written(put(large, first, np.array([2])), 1)
    board = written(put(board, reading(1, 8), np.array([0])), 1)
    assert jax.device_get(board.step).tolist() == [2, 0, 5]
    small = put(empty(model, {}, size=Size(2, 4, room)), board, np.array([1, 2, 0]))
    small = written(small, room)
    assert not small.live.any()
    np.testing.assert_array_equal(small.tokens, expected)
