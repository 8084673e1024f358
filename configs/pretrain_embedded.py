"""A small T5 for soft prompts, from plain text and a teacher's word vectors.

    prompt-jax pretrain configs/pretrain_embedded.py

Wants corpus/, one .txt file a source with one paragraph a line, all-MiniLM-L6-v2/, the teacher in
Hugging Face's format, and vader_lexicon.txt, in the current folder. The texts of the five embedded
tasks must not be in the corpus.
"""

from prompt_jax.pretrain import PretrainConfig

SHARES = {
    "brown": 0.8, "recipes": 0.4, "fortunes": 0.8, "sotu": 0.28, "pubmed_nocr": 0.1,
    "gcide1913": 0.4, "anarchism": 0.2, "austen": 0.5, "cdda": 0.8, "endless_sky": 0.8,
    "crossfire": 0.8, "crawl": 0.8, "shakespeare": 0.2, "tdavid": 0.12, "foldoc": 0.32,
    "jargon": 0.8, "mobydick": 0.5, "mhcc": 0.12, "devil": 0.8, "cfi_en": 0.8, "scofield": 0.24,
    "python_doc": 0.03, "libreoffice_help": 0.12, "debian_handbook": 0.16, "gnome_help": 0.32,
}  # fmt: skip

config = PretrainConfig(
    text_folder="corpus",
    files=tuple((f"{name}.txt", share) for name, share in SHARES.items()),
    teacher_folder="all-MiniLM-L6-v2",
    output="runs/pretrain_embedded",
    lexicon="vader_lexicon.txt",
    embedding_scale=1.5,
    classify_share=1.0,
    steps=10_000,
    decay_steps=4_000,
)
