"""How much a tree holds, in a few words: what public objects show of their trees."""

import jax

from prompt_jax.trees import Tree


def numbers(tree: Tree) -> str:
    """How many numbers, and of which types: `64 numbers, float32`.

    Trees of something else than arrays, such as shapes or shardings, count what has a size.
    """
    leaves = jax.tree.leaves(tree)
    count = sum(getattr(leaf, "size", 0) for leaf in leaves)
    types = sorted({str(leaf.dtype) for leaf in leaves if hasattr(leaf, "dtype")})
    return ", ".join([f"{count:,} numbers", *types])
