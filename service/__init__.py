"""The service: a bundle and Redis in, `POST /score` out. Imports `contract`, never torch, training or export.

Layers, top first: `wiring` builds everything; `api` speaks HTTP; `scoring` follows one request; `history`,
`catalog`, `batching`, `runtime`, `capture` do not know each other; `metrics`, `settings`; `errors`.
"""
