"""What training, export and service agree on: schema, keys, packed records, vocabularies, encoder, bundle.

Imports numpy, pydantic, xxhash, msgpack and the standard library only; `contract.log` alone imports polars.
"""
