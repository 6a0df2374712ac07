"""The ads: raw features in Redis, encoded columns in memory. Knows no HTTP, no history, no graph.

Interface:

    catalogue = Catalogue(url, encoder, layout=callable -> Layout | None)
    catalogue.start()                              # inside the running loop; fills in the background, then follows
    await catalogue.wait(timeout_s) -> bool        # until the first fill is done (an empty store counts as done)
    catalogue.loaded -> bool ; len(catalogue) -> int
    catalogue.columns_for(ids) -> AdColumns(tensors={"ad_<f>": [N]}, unknown=<how many ids the catalogue lacks>)
    catalogue.raw(ad_id) -> dict of raw features | None     # for overrides and display names
    await catalogue.close()
"""
