"""Token shards: every token of a pass once, the same documents held out however they are cut, and damage named."""

import json
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.errors import InputError, TilthError
from tilth.progress import Progress
from tilth.recipe import changed as options_of
from tilth.storage import Folder
from tilth.tokenize.encode import EncodeOptions, encode, write_index
from tilth.tokenize.export import write_directory
from tilth.tokenize.formats import from_bert
from tilth.tokenize.tokenizer import Tokenizer, load
from tilth.train.data.build import INDEX, Chosen, How, build
from tilth.train.data.files import read_index
from tilth.train.data.pools import HeldOut, Pool, pool_of
from tilth.train.data.shards import Piece, Sample, Store, TokenShards
from tilth.work import WorkOptions

WORDS = 60
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(WORDS))]
SEP = 3
LENGTHS = [0, 1, 0, 40, 2, 1, 1, 90, 3, 0]  # words of some documents; others come by chance


class Document(NamedTuple):
    tokens: list[int]
    label: str


class Corpus(NamedTuple):
    folder: Path
    documents: dict[str, Document]  # by id, in the order of shards


def encoded(folder: Path, name: str, *told: str) -> Path:
    """The corpus of `folder`, encoded as told."""
    usual = ["end='[SEP]'", "read.id_field=id", "read.unit_bytes=1500", "shard_bytes=4000"]
    options = options_of(EncodeOptions, {}, [*usual, *told], "encode")
    work, output = WorkOptions(in_process=True), folder / name
    encode([str(folder / "rows.jsonl")], str(folder / "tok"), Folder(output), options, work, Progress(quiet=True))
    return output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Documents of three labels and of none, in several shards: shards/, and unlabelled/ in shards of other sizes."""
    folder, chance = tmp_path_factory.mktemp("shards"), random.Random(5)
    write_directory(folder / "tok", Tokenizer(from_bert("\n".join(TOKENS).encode(), "bert")))
    lengths = LENGTHS + [chance.choice([2, 9, 30]) for _ in range(150)]
    texts = [" ".join(f"word{chance.randrange(WORDS)}" for _ in range(length)) or "\u200b" for length in lengths]
    labels = [chance.choice(["zh", "en", "de", ""]) for _ in texts]
    rows = [{"id": f"page {at}", "text": text, "lang": labels[at]} for at, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shards = encoded(folder, "shards", "label=lang")
    encoded(folder, "unlabelled", "shard_bytes=900")
    ids = load(folder / "tok").encode(texts)
    told = {row["id"]: Document([*one.tolist(), SEP], row["lang"]) for row, one in zip(rows, ids, strict=True)}
    order = [id_ for file in sorted((shards / "documents").iterdir()) for id_ in pq.read_table(file)["id"].to_pylist()]
    assert sorted(order) == sorted(told)
    assert len(orjson.loads((shards / "stats.json").read_bytes())["shards"]) > 4
    return Corpus(folder, {id_: told[id_] for id_ in order})


def foreign(place: Path, documents: list[list[int]], dtype: Any = np.uint16) -> str:
    """A pair of files as others write them."""
    place.parent.mkdir(parents=True, exist_ok=True)
    np.array([token for one in documents for token in one], dtype).tofile(f"{place}.bin")
    write_index(Path(f"{place}.idx"), np.array([len(one) for one in documents], np.int64), np.dtype(dtype))
    return str(place)


class Built(NamedTuple):
    """What is written for ranks, read again."""

    sources: list[str]
    pools: list[Pool]
    held: HeldOut
    about: list[dict[str, Any]]  # of each pool


def built(
    shards: TokenShards, how: How, chosen: list[Chosen] | None = None, held: Any = False, by_label: bool = True
) -> Built:
    """Pools of some documents, or of all in one; `held`: which of the documents are kept, or none."""
    chosen = chosen or [Chosen("all", np.arange(len(shards)))]
    kept = np.broadcast_to(np.asarray(held, bool), len(shards))
    with tempfile.TemporaryDirectory() as folder:
        told = build(shards, chosen, kept, how, by_label, Path(folder))
        about = orjson.loads(Path(folder, INDEX).read_bytes())
        store = Store.opened(about["store"])
        assert told == build(shards, chosen, kept, how, by_label, None), "whether it is written or not"
        pools, held_out = ([pool_of(store, each, Path(folder)) for each in about[name]] for name in ("pools", "held"))
    return Built(about["sources"], pools, HeldOut(held_out, about["length"]), told)


class Pass:
    """All documents of some places as one pool, in the order of its cells."""

    def __init__(self, places: list[str], length: int, held_out: float = 0.0, seed: int = 0):
        shards = TokenShards(places)
        self.sources, (self.pool,), self.held, _ = built(
            shards, How("concat", [length]), held=shards.held(held_out, seed)
        )
        self.length, self.tokens = length, self.pool.tokens

    def __len__(self) -> int:
        return self.pool.cells

    def sample(self, index: int) -> Sample:
        return self.pool.sample(index, 0, self.length)

    def pieces(self, index: int) -> list[Piece]:
        return self.pool.pieces(index, 0, self.length)


def held_ids(shards: Pass) -> set[str]:
    return {piece.id for index in range(len(shards.held)) for piece in shards.held.pieces(index)}


def trained_ids(shards: Pass) -> list[str]:
    """In the order of training."""
    pieces = (piece for index in range(len(shards)) for piece in shards.pieces(index))
    return list(dict.fromkeys(piece.id for piece in pieces))


def parts(sample: Sample) -> list[list[int]]:
    """Tokens of each document in the sample."""
    numbers = range(1, sample.documents.max() + 1)
    return [sample.tokens[sample.documents == number].tolist() for number in numbers]


# --- A pass ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_every_token_of_a_pass_is_a_target_once_in_the_order_of_the_shards(corpus, length, held_out) -> None:
    shards = Pass([str(corpus.folder / "shards")], length, held_out)
    held = held_ids(shards)
    stream = [token for id_, one in corpus.documents.items() if id_ not in held for token in one.tokens]
    assert shards.tokens == len(stream)
    assert len(shards) == max(-(-(len(stream) - 1) // length), 1)
    samples = [shards.sample(index) for index in range(len(shards))]
    assert all(one.tokens.shape == one.documents.shape == (length + 1,) for one in samples)
    targets = np.concatenate([samples[0].tokens[:1], *(one.tokens[1:][one.documents[1:] > 0] for one in samples)])
    assert targets.tolist() == stream
    assert (samples[0].tokens.dtype, samples[0].documents.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_a_sample_knows_its_documents_by_bounds_and_by_name(corpus, held_out) -> None:
    shards = Pass([str(corpus.folder / "shards")], 50, held_out)
    for source in (shards, shards.held):
        for index in range(len(source)):
            sample, pieces = source.sample(index), source.pieces(index)
            expected = [corpus.documents[piece.id].tokens[piece.first : piece.stop] for piece in pieces]
            assert parts(sample) == expected
            assert all(expected)
            assert shards.sources[sample.source] == (corpus.documents[pieces[0].id].label or "unlabelled")
            for piece in pieces:
                rows = Path(piece.shard).parent.parent / "documents" / f"{Path(piece.shard).name}.parquet"
                assert pq.read_table(rows)["id"][piece.number].as_py() == piece.id


def test_sources_are_the_labels_or_all(corpus) -> None:
    assert Pass([str(corpus.folder / "shards")], 8).sources == ["de", "en", "unlabelled", "zh"]
    assert Pass([str(corpus.folder / "unlabelled")], 8).sources == ["all"]


def test_the_end_and_the_tokenizer_are_those_of_the_shards(corpus) -> None:
    shards = TokenShards([str(corpus.folder / "shards"), str(corpus.folder / "unlabelled")])
    assert (shards.end, shards.digest) == (SEP, load(corpus.folder / "tok").digest)
    assert shards.table.lengths.sum() == 2 * sum(len(one.tokens) for one in corpus.documents.values())


def test_documents_without_a_token_are_passed_over(corpus) -> None:
    place = encoded(corpus.folder, "bare", "end=null", "ends=false")
    shards = Pass([str(place)], 3)
    bare = {id_: one.tokens[:-1] for id_, one in corpus.documents.items()}
    assert sum(not tokens for tokens in bare.values()) == LENGTHS.count(0)
    assert TokenShards([str(place)]).end is None
    for index in range(len(shards)):
        pieces = shards.pieces(index)
        assert parts(shards.sample(index)) == [bare[piece.id][piece.first : piece.stop] for piece in pieces]
    assert set(trained_ids(Pass([str(place)], 1))) == {id_ for id_, tokens in bare.items() if tokens}


def test_what_fills_documents_of_one_length_is_padding(corpus) -> None:
    place = encoded(corpus.folder, "filled", "length=12", "style=bert", "end=null", "label=lang")
    shards = Pass([str(place)], 12)
    for index in range(len(shards)):
        sample, pieces = shards.sample(index), shards.pieces(index)
        assert len(pieces) == (2 if index < len(shards) - 1 else 1), "and the next one's first token, as a target"
        assert (pieces[0].first, pieces[0].stop) == (0, 12)
        words = len(corpus.documents[pieces[0].id].tokens) - 1
        assert sample.documents[:12].tolist() == [1] * min(words + 2, 12) + [0] * max(0, 10 - words)
        assert sample.tokens[0] == TOKENS.index("[CLS]")
        assert ((sample.tokens[:12] == 0) == (sample.documents[:12] == 0)).all()
    for packing in ("concat", "best-fit", "padded"):  # in pieces that begin within a document too
        (pool,) = built(TokenShards([str(place)]), How(packing, [5])).pools
        for cell in range(pool.cells):
            apart = pool.sample(cell, 0, 5)
            assert ((apart.tokens == 0) == (apart.documents == 0)).all()


# --- What is held out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 33, 1500])
def test_the_held_out_are_whole_apart_from_the_trained_and_cut_label_by_label(corpus, length) -> None:
    shards = Pass([str(corpus.folder / "shards")], length, 0.2)
    held = held_ids(shards)
    assert 15 < len(held) < 60
    assert set(trained_ids(Pass([str(corpus.folder / "shards")], 1, 0.2))) == corpus.documents.keys() - held
    streams: dict[str, list[int]] = {}
    for id_ in (id_ for id_ in corpus.documents if id_ in held):
        streams.setdefault(corpus.documents[id_].label or "unlabelled", []).extend(corpus.documents[id_].tokens)
    read: dict[str, list[int]] = {}
    padded = Counter()
    for index in range(len(shards.held)):
        sample = shards.held.sample(index)
        name, count = shards.sources[sample.source], int((sample.documents > 0).sum())
        assert (sample.documents[:count] > 0).all(), "padding stands behind"
        assert sample.documents.shape == (length + 1,)
        read.setdefault(name, sample.tokens[:1].tolist()).extend(sample.tokens[1:count].tolist())
        padded[name] += count < length + 1
    assert read == streams
    assert all(count <= 1 for count in padded.values())
    assert shards.held.tokens == sum(map(len, streams.values()))


def test_the_same_documents_are_held_out_in_shards_of_other_sizes_and_places_in_another_order(corpus) -> None:
    one, other = (str(corpus.folder / name) for name in ("shards", "unlabelled"))
    held = [held_ids(Pass(places, 9, 0.2)) for places in ([one], [other], [one, other], [other, one])]
    assert all(ids == held[0] for ids in held)
    assert trained_ids(Pass([one], 9, 0.2)) == trained_ids(Pass([other], 9, 0.2))


def test_a_larger_share_holds_the_smaller_one_and_another_seed_others(corpus) -> None:
    place = [str(corpus.folder / "shards")]
    small, large = (held_ids(Pass(place, 9, share)) for share in (0.1, 0.4))
    assert small < large
    assert held_ids(Pass(place, 9, 0.4, seed=2**64 - 1)) not in (large, set())


def test_a_held_out_sample_that_is_none_is_no_sample(corpus) -> None:
    shards = Pass([str(corpus.folder / "shards")], 9, 0.1)
    for index in (-1, len(shards.held)):
        with pytest.raises(IndexError):
            shards.held.sample(index)
    assert len(Pass([str(corpus.folder / "shards")], 9).held) == 0


# --- Shards of others -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=6), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_documents_come_back_whole_however_they_are_cut(tmp_path, files, length, held_out) -> None:
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    for number, documents in enumerate(files):
        foreign(tmp_path / f"any/file{number}", documents)
    try:
        shards = Pass([str(tmp_path / "any")], length, held_out)
    except InputError as error:
        if "do not make one sample" in str(error):
            return
        raise
    told = {f"file{n}-{at}": one for n, file in enumerate(files) for at, one in enumerate(file) if one}
    held = held_ids(shards)
    stream = [token for id_, one in told.items() if id_ not in held for token in one]
    samples = [shards.sample(index) for index in range(len(shards))]
    read = [samples[0].tokens[0], *(token for one in samples for token in one.tokens[1:][one.documents[1:] > 0])]
    assert read == stream
    for source in (shards, shards.held):
        for index in range(len(source)):
            pieces = source.pieces(index)
            assert parts(source.sample(index)) == [told[piece.id][piece.first : piece.stop] for piece in pieces]


def test_files_of_others_are_taken_by_folder_prefix_or_file_and_are_sources_by_name(tmp_path) -> None:
    first = foreign(tmp_path / "data/a.v1_text_document", [[1, 2, 3], [], [4, 5]], np.int32)
    foreign(tmp_path / "data/b", [[6, 7]], np.int32)
    (tmp_path / "data/notes.txt").write_text("none of ours")
    opened, shards = TokenShards([str(tmp_path / "data")]), Pass([str(tmp_path / "data")], 2)
    assert (shards.sources, opened.end, opened.digest) == (["a.v1_text_document", "b"], None, None)
    assert [shards.sample(index).tokens.tolist() for index in range(3)] == [[1, 2, 3], [3, 4, 5], [5, 6, 7]]
    assert [shards.sample(index).source for index in range(3)] == [0, 0, 0]
    assert shards.pieces(2) == [
        Piece(first, 2, "a.v1_text_document-2", 1, 2),
        Piece(str(tmp_path / "data/b"), 0, "b-0", 0, 2),
    ]
    for place in (first, f"{first}.bin", f"{first}.idx", f"file://{first}"):
        assert Pass([place], 2).tokens == 5


def test_documents_of_several_sequences_are_what_the_document_indices_say(tmp_path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from torch import tensor

    for name, sentences in (("parts", [2, 1]), ("none", [])):
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=np.uint16)
        for one in ([1, 2], [3], [4, 5, 6]):
            builder.add_item(tensor(one))
            if len(builder.sequence_lengths) in np.cumsum(sentences):
                builder.end_document()
        builder.finalize(str(tmp_path / f"{name}.idx"))
    assert read_index(tmp_path / "parts.idx")[1].tolist() == [0, 3, 6]
    assert read_index(tmp_path / "none.idx")[1].tolist() == [0, 2, 3, 6]
    assert Pass([str(tmp_path / "parts")], 5).sample(0).documents.tolist() == [1, 1, 1, 2, 2, 2]


def test_the_shards_folder_of_a_run_stands_for_the_run(corpus) -> None:
    run, inner = (TokenShards([str(corpus.folder / name)]) for name in ("shards", "shards/shards"))
    assert (inner.table.sources, inner.end, inner.fingerprint) == (run.table.sources, run.end, run.fingerprint)


# --- The fingerprint ------------------------------------------------------------------------------------------------


def test_the_fingerprint_tells_changed_data_and_not_another_place(corpus, tmp_path) -> None:
    place = corpus.folder / "shards"
    one = TokenShards([str(place)]).fingerprint
    shutil.copytree(place, tmp_path / "moved")
    assert TokenShards([str(tmp_path / "moved")]).fingerprint == one
    again = encoded(corpus.folder, "again", "label=lang")
    assert TokenShards([str(again)]).fingerprint == one
    assert TokenShards([str(corpus.folder / "unlabelled")]).fingerprint != one
    assert TokenShards([str(place), str(place)]).fingerprint != one


@pytest.mark.parametrize("changed", [[[1, 2], [3, 5]], [[1, 2, 3], [4]], [[1, 2], [3, 4], []], [[1, 2], [3, 4, 5]]])
def test_the_fingerprint_of_others_shards_tells_changed_tokens_and_bounds(changed, tmp_path) -> None:
    before = TokenShards([foreign(tmp_path / "x", [[1, 2], [3, 4]])]).fingerprint
    assert TokenShards([foreign(tmp_path / "x", changed)]).fingerprint != before


# --- Ids that the model does not have -------------------------------------------------------------------------------


def test_an_id_beyond_the_vocabulary_is_found_before_training(corpus, tmp_path) -> None:
    shards = TokenShards([str(corpus.folder / "shards")])
    shards.check(len(TOKENS))
    with pytest.raises(InputError, match=rf"shard-.*\.bin: token id {len(TOKENS) - 1} is beyond .* of 64; set model.v"):
        shards.check(len(TOKENS) - 1)
    foreign(tmp_path / "low", [[1, 2, 3]], np.int32)
    foreign(tmp_path / "negative", [[1, -7, 3]], np.int32)
    with pytest.raises(InputError, match=r"negative\.bin: token id -7"):
        TokenShards([str(tmp_path)]).check(100)


def test_an_id_that_is_not_looked_at_before_is_found_when_it_is_read(tmp_path, monkeypatch) -> None:
    tokens = np.zeros(5_000_000, np.uint16)
    tokens[[700_000, 2_500_001]] = 300
    foreign(tmp_path / "large", [[1]])
    tokens.tofile(tmp_path / "large.bin")
    write_index(tmp_path / "large.idx", np.array([2_500_000, 2_500_000]), np.dtype(np.uint16))
    monkeypatch.setattr("tilth.train.data.shards._LOOKED_AT", (0, 0))  # the first and last block only
    shards = TokenShards([str(tmp_path / "large")])
    shards.check(300)
    (pool,) = built(shards, How("concat", [1000])).pools
    assert pool.sample(0, 0, 1000).tokens.shape == (1001,)
    for cell in (700, 2500):
        with pytest.raises(InputError, match=r"large\.bin: token id 300 is beyond .* of 300"):
            pool.sample(cell, 0, 1000)
    monkeypatch.undo()
    with pytest.raises(InputError, match="token id 300"):
        TokenShards([str(tmp_path / "large")]).check(300)


def test_a_negative_id_is_found_when_it_is_read(tmp_path) -> None:
    store = TokenShards([foreign(tmp_path / "x", [[1, 2], [-5, 4]], np.int32)]).store
    checked = Store.opened({**store.about(), "vocab_size": 10})
    assert checked.read(np.array([0]), np.array([2])).tolist() == [1, 2]
    with pytest.raises(InputError, match=r"x\.bin: token id -5 is beyond"):
        checked.read(np.array([0, 2]), np.array([2, 1]))


# --- Damage, and what is no shard -----------------------------------------------------------------------------------


def cut(name: str, size: int):
    def damage(folder: Path) -> None:
        file = sorted(folder.glob(name))[1]
        file.write_bytes(file.read_bytes()[:size])

    return damage


def gone(name: str):
    return lambda folder: sorted(folder.glob(name))[1].unlink()


def grown(folder: Path) -> None:
    with open(sorted(folder.glob("shards/*.bin"))[1], "ab") as file:
        file.write(b"\0\0")


def lying(folder: Path) -> None:
    """One document longer, and the next one shorter: the sum is right, the pointers are not."""
    file = sorted(folder.glob("shards/*.idx"))[1]
    data = bytearray(file.read_bytes())
    lengths = np.frombuffer(data, "<i4", 2, 34)
    lengths += np.array([1, -1], np.int32)
    file.write_bytes(data)


DAMAGE = {
    "a .bin that is torn": (cut("shards/*.bin", -2), r"shard-.*\.bin: has \d+ bytes for \d+ tokens of 2 bytes"),
    "a .bin that is too long": (grown, r"shard-.*\.bin: has \d+ bytes for \d+ tokens"),
    "a .bin that is missing": (gone("shards/*.bin"), r"shard-.*\.bin: cannot be read \(No such file"),
    "an .idx that is torn": (cut("shards/*.idx", -8), r"shard-.*\.idx: has \d+ bytes for \d+ that its header tells"),
    "an .idx without a header": (cut("shards/*.idx", 20), r"shard-.*\.idx: no index of token shards"),
    "an .idx of something else": (lambda f: sorted(f.glob("shards/*.idx"))[1].write_bytes(b"x" * 99), "no index"),
    "an .idx that is missing": (gone("shards/*.idx"), r"shard-.*\.idx: cannot be read \(No such file"),
    "an .idx that lies": (lying, r"shard-.*\.idx: its sequences do not stand one behind the other"),
    "documents that are missing": (gone("documents/*.parquet"), r"shard-.*\.parquet: the documents .* cannot be read"),
    "documents that are torn": (cut("documents/*.parquet", 50), r"shard-.*\.parquet: the documents .* cannot be read"),
    "a run that is not finished": (lambda f: (f / "stats.json").unlink(), "are not finished .*run the same tilth tok"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_that_names_the_file(damage, message, corpus, tmp_path) -> None:
    shutil.copytree(corpus.folder / "shards", tmp_path / "shards")
    damage(tmp_path / "shards")
    with pytest.raises(InputError, match=message) as raised:
        Pass([str(tmp_path / "shards")], 9, 0.1)
    assert "\n" not in str(raised.value)


def test_documents_of_another_shard_are_told(corpus, tmp_path) -> None:
    shutil.copytree(corpus.folder / "shards", tmp_path / "shards")
    files = sorted((tmp_path / "shards/documents").iterdir())
    table = pq.read_table(files[1])
    pq.write_table(table.slice(1), files[1])
    with pytest.raises(InputError, match=rf"tells of {len(table) - 1} documents, its shard has {len(table)}"):
        Pass([str(tmp_path / "shards")], 9)


def test_what_is_no_shard_is_told(corpus, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    place = str(corpus.folder / "shards")
    for places, length, held_out, message in (
        ([str(tmp_path / "empty")], 9, 0, "empty: neither token shards .* tilth tokenize encode makes some"),
        ([str(tmp_path / "nowhere")], 9, 0, r"nowhere: no such file or folder"),
        (["s3://soil/shards"], 9, 0, "s3://soil/shards: .* local disk; copy them"),
        ([], 9, 0, "no token shards are named"),
        ([place], 10**6, 0, r"shards: \d+ training tokens do not make one sample of 1000001"),
        ([place], 10**6, 0.1, r"tokens \(beside \d+ documents held out\) do not make"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            Pass(places, length, held_out)
        assert "\n" not in str(raised.value)


def test_a_run_of_another_command_is_told_what_to_do(tmp_path) -> None:
    request = {"tilth": "0", "command": "curate run", "request": {}}
    (tmp_path / "run.json").write_text(json.dumps(request))
    with pytest.raises(TilthError, match=r"holds a run of `curate run`, no data to train on"):
        Pass([str(tmp_path)], 9)


def test_shards_of_several_tokenizers_types_or_ends_are_refused(corpus, tmp_path) -> None:
    first = str(corpus.folder / "shards")
    with pytest.raises(
        InputError, match=r"has the end token 3, .*ends/shards.* None; encode all of the data in one way"
    ):
        Pass([first, str(encoded(corpus.folder, "no-ends", "end=null", "ends=false"))], 9)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(corpus.folder / "rows.jsonl", other)
    tokens = [*TOKENS[:5], "word", *(f"##{digit}" for digit in range(10))]
    write_directory(other / "tok", Tokenizer(from_bert("\n".join(tokens).encode(), "bert")))
    with pytest.raises(InputError, match="has a tokenizer of hash"):
        Pass([first, str(encoded(other, "shards"))], 9)
    wide = foreign(tmp_path / "wide", [[1, 2]], np.int32)
    with pytest.raises(InputError, match=r"has tokens of type uint16, .*wide int32"):
        Pass([first, wide], 9)
    narrow = foreign(tmp_path / "narrow", [[1, 2]])
    assert TokenShards([narrow, first]).end == SEP
