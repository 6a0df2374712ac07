"""The ads of a dataset: those of `ads.parquet` and whatever else was shown, by ascending key; held in memory."""

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Array
from contract.log import Log, encoded_texts, key_series, pack_series, read_log
from contract.schema import SchemaField
from contract.vocabulary import NameTable
from training.prepare.chunks import FIELD, Chunks, packed_fields
from training.prepare.keyed import merged_texts, read_part, text_table
from training.prepare.work import Work, write_array

KIND: Final = "ads"


def make_catalogue(source: Log, work: Work, chunks: Chunks) -> None:
    """Make the piece with the files of the ads as the dataset holds them."""

    def build(index: int) -> None:
        frame = read_log(source.path).ads  # a reader of its own, so that the table is let go afterwards
        ids = {"ad_id", *(field.name for field in source.schema.ad if field.vocabulary)}
        frame = frame.with_columns(pl.col(name).cast(pl.String) for name in frame.columns if name in ids)
        hashed = key_series(frame["ad_id"])
        columns = packed_fields(frame, source.schema.ad)
        known = text_table(hashed, frame["ad_id"])
        everything = merged_texts([known, _shown(work)])
        listed = everything["key"].to_numpy()
        with work.piece(KIND, index) as folder:
            write_array(folder / "ad_keys.npy", listed)
            blob, lengths = encoded_texts(everything["text"])
            NameTable.write_encoded(folder / "ad.names", lengths, [blob])
            for field in source.schema.ad:
                column = columns.get(FIELD + field.name)
                if field.name == "ad_id":  # every ad has its id, catalogued or not
                    packed = pack_series(everything["text"], field)
                else:
                    packed = spread(column, field, hashed, listed)
                write_array(folder / f"ad_{field.name}.npy", packed)
            chunks.write_vocabularies(folder, frame, "ad", columns)

    work.make(KIND, 1, build, label="reading ads")


def spread(
    column: Array | None, field: SchemaField, known: NDArray[np.uint64], everyone: NDArray[np.uint64]
) -> Array:
    """Return a packed column for `everyone`, keys ascending: what is given for the `known`, else missing."""
    missing = keys.MISSING if field.type == "categorical" else np.nan
    spread_out = np.full(len(everyone), missing, np.uint64 if field.type == "categorical" else np.float64)
    if column is not None:
        spread_out[np.searchsorted(everyone, known)] = column
    return spread_out


def _shown(work: Work) -> pl.DataFrame:
    """Return key and text of every ad that was shown."""
    tables = [folder / "ads.parquet" for folder in work.pieces("impressions")]
    return pl.concat(merged_texts([read_part(tables, part)]) for part in range(work.parts))
