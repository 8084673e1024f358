"""The TFDS builder of the five tasks that come with the library.

Their rows are shipped prepared, below `tasks/`, and read without this module. It prepares them
again from tab-separated files, `TASK/SPLIT.tsv` with the header `input<TAB>target`:

    from prompt_jax.assets.embedded_tasks import prepare
    prepare("my_folder_of_tsv", "prompt_jax/assets/tasks")
"""

import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

_DESCRIPTIONS = {
    "sentiment": "Sentences of film reviews, with three test sets of other domains (MIT).",
    "gloss_category": "WordNet 3.0 noun glosses by lexicographer file (WordNet licence).",
    "headline_satire": "Headlines of news and of satire (CC BY 4.0).",
    "factbook_topic": "Passages of the CIA World Factbook by section (public domain).",
    "kjv_to_modern": "King James verses and their World English Bible text (public domain).",
}


class EmbeddedTasks(tfds.core.GeneratorBasedBuilder):
    """Five labelled tasks with the columns `input` and `target`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=text) for name, text in _DESCRIPTIONS.items()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder of TASK/SPLIT.tsv files, header `input<TAB>target`."

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"input": text, "target": text}),
            # The order of the files is kept, so `train[:100]` means the first hundred lines.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        assert self.builder_config, "TFDS sets it, for there are BUILDER_CONFIGS"
        folder = Path(dl_manager.manual_dir) / self.builder_config.name
        return {path.stem: self._generate_examples(path) for path in sorted(folder.glob("*.tsv"))}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        header, *lines = path.read_text("utf-8").removesuffix("\n").split("\n")
        for number, line in enumerate(lines):
            yield number, dict(zip(header.split("\t"), line.split("\t"), strict=True))


def prepare(tsv_folder: str | Path, data_dir: str | Path) -> None:
    """Prepares all tasks of `tsv_folder` into `data_dir/embedded_tasks/TASK/VERSION`."""
    tfds.disable_progress_bar()
    downloads = tfds.download.DownloadConfig(manual_dir=tsv_folder)
    for name in _DESCRIPTIONS:
        builder = EmbeddedTasks(config=name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=downloads)
        for path in Path(builder.data_dir).glob("*.array_record-*"):
            _store_uncompressed(path)


def _store_uncompressed(path: Path) -> None:
    """Rewrites a file so that the wheel's own compression halves it.

    A record of one sentence hardly shrinks alone; the zip of the wheel sees thousands of them.
    """
    # A compiled module, in which pyright sees no names.
    from array_record.python import array_record_module  # pyright: ignore

    records = array_record_module.ArrayRecordReader(str(path)).read_all()
    part = path.with_name(path.name + ".part")
    writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    os.replace(part, path)
